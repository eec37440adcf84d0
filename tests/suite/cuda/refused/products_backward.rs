use lightspan::cuda::{
    AttentionBackward, AttentionBackwardArgs, LinearBackward, LinearBackwardArgs, Rows, SpanKeyBackward,
    SpanKeyBackwardArgs,
};
use lightspan::problem::{
    Activation, AttentionBackwardProblem, AttentionKind, AttentionProblem, AttentionWanted,
    LinearBackwardProblem, LinearProblem, LinearWanted, SpanKeyBackwardProblem, SpanKeyProblem,
    SpanKeyWanted,
};
use lightspan::{DType, Error, Result, Window};

use super::gradients::Memory::{Good, Halves, Narrow, None as Nothing, Short};
use super::gradients::{Memory, Written};
use super::{Bench, NUMBERS, halves, missing, other_sequences, sequences, short, stride, surplus};
use crate::support::each;

fn too_little_scratch(len: u64) -> Error {
    Error::Length { tensor: "scratch", expected: NUMBERS - 1 + len as usize, got: NUMBERS }
}

/// Six rows of four numbers, four outputs; with a ReLU where it is `active`.
fn linear(
    bench: &Bench,
    (wanted, active): (LinearWanted, bool),
    change: impl for<'a> FnOnce(&mut LinearBackwardArgs<'a>, &'a Bench),
    memory: [Memory; 3],
) -> Result<()> {
    let activation = if active { Activation::Relu } else { Activation::Identity };
    let forward = LinearProblem::new(6, 4, 4, DType::F32)?.with_activation(activation)?.with_bias(true);
    let operator = LinearBackward::new(&bench.gpu, LinearBackwardProblem::new(forward, wanted)?)?;
    let rows = || Rows::contiguous(bench.some());
    let [mut x, mut weight, mut bias] = Written::of(bench);
    let mut args = LinearBackwardArgs {
        x: rows(),
        weight: bench.some(),
        y: active.then(rows),
        dy: rows(),
        dx: x.rows(memory[0]),
        dweight: weight.elements(memory[1]),
        dbias: bias.elements(memory[2]),
    };
    change(&mut args, bench);
    operator.launch(args, None)
}

#[test]
fn linear_backward() {
    let Some(bench) = Bench::new() else { return };
    let (b, good, none) = (&bench, [Good; 3], [Nothing; 3]);
    let [all, active] = [false, true].map(|active| (LinearWanted::ALL, active));
    let nothing = (LinearWanted::NONE, false);
    linear(b, all, |_, _| (), good).unwrap();
    linear(b, active, |_, _| (), good).unwrap();
    linear(b, nothing, |_, _| (), none).unwrap();
    each([
        (linear(b, all, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (linear(b, nothing, |args, b| args.x = Rows::contiguous(b.halves()), none), halves("x")),
        (linear(b, all, |args, b| args.weight = b.last(15), good), short("weight")),
        (linear(b, all, |args, b| args.weight = b.elsewhere(), good), b.foreign("weight")),
        (linear(b, active, |args, _| args.y = None, good), missing("y")),
        (linear(b, all, |args, b| args.y = Some(Rows::contiguous(b.some())), good), surplus("y")),
        (linear(b, active, |args, b| args.y = Some(Rows::contiguous(b.last(23))), good), short("y")),
        (linear(b, all, |args, b| args.dy = Rows::strided(b.some(), 3), good), stride("dy", 4)),
        (linear(b, all, |args, b| args.dy = Rows::contiguous(b.elsewhere()), good), b.foreign("dy")),
        (linear(b, all, |_, _| (), [Nothing, Good, Good]), missing("dx")),
        (linear(b, all, |_, _| (), [Short(23), Good, Good]), short("dx")),
        (linear(b, all, |_, _| (), [Narrow, Good, Good]), stride("dx", 4)),
        (linear(b, nothing, |_, _| (), [Good, Nothing, Nothing]), surplus("dx")),
        (linear(b, all, |_, _| (), [Good, Nothing, Good]), missing("dweight")),
        (linear(b, all, |_, _| (), [Good, Short(15), Good]), short("dweight")),
        (linear(b, all, |_, _| (), [Good, Halves, Good]), halves("dweight")),
        (linear(b, nothing, |_, _| (), [Nothing, Good, Nothing]), surplus("dweight")),
        (linear(b, all, |_, _| (), [Good, Good, Nothing]), missing("dbias")),
        (linear(b, all, |_, _| (), [Good, Good, Short(3)]), short("dbias")),
        (linear(b, nothing, |_, _| (), [Nothing, Nothing, Good]), surplus("dbias")),
    ]);
}

/// Sums over many rows go through scratch memory.
#[test]
fn linear_backward_without_scratch() {
    let Some(bench) = Bench::new() else { return };
    // One input and output: 150 rows are divided in two.
    let forward = LinearProblem::new(150, 1, 1, DType::F32).unwrap().with_bias(true);
    let wanted = LinearWanted { bias: true, ..LinearWanted::NONE };
    let problem = LinearBackwardProblem::new(forward, wanted).unwrap();
    let operator = LinearBackward::new(&bench.gpu, problem).unwrap();
    let len = operator.scratch_len();
    assert!(len > 1);
    let call = |memory: Memory| {
        let [mut bias, mut scratch] = Written::of(&bench);
        let rows = Rows::contiguous(bench.some());
        let args = LinearBackwardArgs {
            x: rows,
            weight: bench.some(),
            y: None,
            dy: rows,
            dx: None,
            dweight: None,
            dbias: bias.elements(Good),
        };
        operator.launch(args, scratch.elements(memory))
    };
    call(Good).unwrap();
    each([
        (call(Nothing), missing("scratch")),
        (call(Halves), halves("scratch")),
        (call(Short(1)), too_little_scratch(len)),
    ]);
}

/// Six tokens of four channels, four outputs.
fn span_key(
    bench: &Bench,
    (wanted, bias): (SpanKeyWanted, bool),
    change: impl for<'a> FnOnce(&mut SpanKeyBackwardArgs<'a>, &'a Bench),
    memory: [Memory; 6],
) -> Result<()> {
    let operator = span_key_operator(bench, wanted, bias)?;
    let rows = || Rows::contiguous(bench.some());
    let [mut x, mut query, mut depthwise, mut pointwise, mut key_bias, mut scratch] = Written::of(bench);
    let mut args = SpanKeyBackwardArgs {
        sequences: &bench.good,
        x: rows(),
        query: rows(),
        depthwise: bench.some(),
        pointwise: bench.some(),
        key_bias: bias.then(|| bench.some()),
        dz: rows(),
        dx: x.rows(memory[0]),
        dquery: query.rows(memory[1]),
        ddepthwise: depthwise.elements(memory[2]),
        dpointwise: pointwise.elements(memory[3]),
        dkey_bias: key_bias.elements(memory[4]),
    };
    change(&mut args, bench);
    operator.launch(args, scratch.elements(memory[5]))
}

fn span_key_operator(bench: &Bench, wanted: SpanKeyWanted, bias: bool) -> Result<SpanKeyBackward> {
    let [good, ..] = sequences();
    let forward = SpanKeyProblem::new(good.shape(), 4, 4, Window::same(3)?, DType::F32)?.with_key_bias(bias);
    SpanKeyBackward::new(&bench.gpu, SpanKeyBackwardProblem::new(forward, wanted)?)
}

#[test]
fn span_key_backward() {
    let Some(bench) = Bench::new() else { return };
    let (b, good, none) = (&bench, [Good; 6], [Nothing; 6]);
    let (all, nothing) = ((SpanKeyWanted::ALL, true), (SpanKeyWanted::NONE, true));
    let plain = (SpanKeyWanted::ALL, false);
    let but = |which: usize, memory: Memory| {
        let mut all = good;
        all[which] = memory;
        all
    };
    let only = |which: usize| {
        let mut all = none;
        all[which] = Good;
        all
    };
    span_key(b, all, |_, _| (), good).unwrap();
    span_key(b, plain, |_, _| (), but(4, Nothing)).unwrap();
    span_key(b, nothing, |_, _| (), none).unwrap();
    let len = span_key_operator(b, SpanKeyWanted::ALL, true).unwrap().scratch_len();
    each([
        (span_key(b, all, |args, b| args.sequences = &b.other, good), other_sequences()),
        (span_key(b, all, |args, b| args.sequences = &b.later, good), missing("history")),
        (span_key(b, all, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (span_key(b, nothing, |args, b| args.x = Rows::contiguous(b.halves()), none), halves("x")),
        (span_key(b, all, |args, b| args.query = Rows::strided(b.some(), 3), good), stride("query", 4)),
        (span_key(b, all, |args, b| args.depthwise = b.last(11), good), short("depthwise")),
        (span_key(b, all, |args, b| args.depthwise = b.elsewhere(), good), b.foreign("depthwise")),
        (span_key(b, all, |args, b| args.pointwise = b.last(15), good), short("pointwise")),
        (span_key(b, all, |args, _| args.key_bias = None, good), missing("key_bias")),
        (span_key(b, plain, |args, b| args.key_bias = Some(b.some()), but(4, Nothing)), surplus("key_bias")),
        (span_key(b, all, |args, b| args.dz = Rows::contiguous(b.halves()), good), halves("dz")),
        (span_key(b, all, |_, _| (), but(0, Nothing)), missing("dx")),
        (span_key(b, all, |_, _| (), but(0, Short(23))), short("dx")),
        (span_key(b, all, |_, _| (), but(0, Narrow)), stride("dx", 4)),
        (span_key(b, nothing, |_, _| (), only(0)), surplus("dx")),
        (span_key(b, all, |_, _| (), but(1, Nothing)), missing("dquery")),
        (span_key(b, all, |_, _| (), but(1, Halves)), halves("dquery")),
        (span_key(b, nothing, |_, _| (), only(1)), surplus("dquery")),
        (span_key(b, all, |_, _| (), but(2, Nothing)), missing("ddepthwise")),
        (span_key(b, all, |_, _| (), but(2, Short(11))), short("ddepthwise")),
        (span_key(b, nothing, |_, _| (), only(2)), surplus("ddepthwise")),
        (span_key(b, all, |_, _| (), but(3, Nothing)), missing("dpointwise")),
        (span_key(b, all, |_, _| (), but(3, Short(15))), short("dpointwise")),
        (span_key(b, nothing, |_, _| (), only(3)), surplus("dpointwise")),
        (span_key(b, all, |_, _| (), but(4, Nothing)), missing("dkey_bias")),
        (span_key(b, all, |_, _| (), but(4, Short(3))), short("dkey_bias")),
        (span_key(b, plain, |_, _| (), good), surplus("dkey_bias")),
        (span_key(b, all, |_, _| (), but(5, Nothing)), missing("scratch")),
        (span_key(b, all, |_, _| (), but(5, Halves)), halves("scratch")),
        (span_key(b, all, |_, _| (), but(5, Short(1))), too_little_scratch(len)),
    ]);
}

/// Six queries and six keys of two heads of two channels.
fn attention(
    bench: &Bench,
    wanted: AttentionWanted,
    change: impl for<'a> FnOnce(&mut AttentionBackwardArgs<'a>, &'a Bench),
    memory: [Memory; 4],
) -> Result<()> {
    let operator = attention_operator(bench, wanted, 2, AttentionKind::Fused)?;
    let rows = || Rows::contiguous(bench.some());
    let [mut q, mut k, mut v, mut scratch] = Written::of(bench);
    let mut args = AttentionBackwardArgs {
        queries: &bench.good,
        keys: &bench.good,
        q: rows(),
        k: rows(),
        v: rows(),
        y: rows(),
        dy: rows(),
        dq: q.rows(memory[0]),
        dk: k.rows(memory[1]),
        dv: v.rows(memory[2]),
    };
    change(&mut args, bench);
    operator.launch(args, scratch.elements(memory[3]))
}

fn attention_operator(
    bench: &Bench,
    wanted: AttentionWanted,
    head_channels: usize,
    kind: AttentionKind,
) -> Result<AttentionBackward> {
    let [good, ..] = sequences();
    let forward = AttentionProblem::new(good.shape(), good.shape(), 2, head_channels, DType::F32)?;
    AttentionBackward::new(&bench.gpu, AttentionBackwardProblem::new(forward, wanted), kind)
}

#[test]
fn attention_backward() {
    let Some(bench) = Bench::new() else { return };
    let (b, all, good, none) = (&bench, AttentionWanted::ALL, [Good; 4], [Nothing; 4]);
    let nothing = AttentionWanted::NONE;
    let but = |which: usize, memory: Memory| {
        let mut all = good;
        all[which] = memory;
        all
    };
    attention(b, all, |_, _| (), good).unwrap();
    attention(b, nothing, |_, _| (), none).unwrap();
    let len = {
        let operator = attention_operator(b, all, 2, AttentionKind::Fused).unwrap();
        operator.scratch_len(&b.good)
    };
    let large = |kind| attention_operator(b, all, 257, kind).map(|_| ());
    large(AttentionKind::Naive).unwrap();
    let too_many =
        Error::Limit { what: "channels of a head of", of: "fused attention", needed: 257, limit: 256 };
    each([
        (large(AttentionKind::Fused), too_many),
        (attention(b, all, |args, b| args.queries = &b.other, good), other_sequences()),
        (attention(b, all, |args, b| args.keys = &b.other, good), other_sequences()),
        (attention(b, all, |args, b| args.q = Rows::contiguous(b.last(23)), good), short("q")),
        (attention(b, nothing, |args, b| args.q = Rows::contiguous(b.halves()), none), halves("q")),
        (attention(b, all, |args, b| args.k = Rows::strided(b.some(), 3), good), stride("k", 4)),
        (attention(b, all, |args, b| args.v = Rows::contiguous(b.elsewhere()), good), b.foreign("v")),
        (attention(b, all, |args, b| args.y = Rows::contiguous(b.last(23)), good), short("y")),
        (attention(b, all, |args, b| args.dy = Rows::contiguous(b.halves()), good), halves("dy")),
        (attention(b, all, |_, _| (), but(0, Nothing)), missing("dq")),
        (attention(b, all, |_, _| (), but(0, Short(23))), short("dq")),
        (attention(b, nothing, |_, _| (), [Good, Nothing, Nothing, Nothing]), surplus("dq")),
        (attention(b, all, |_, _| (), but(1, Nothing)), missing("dk")),
        (attention(b, all, |_, _| (), but(1, Narrow)), stride("dk", 4)),
        (attention(b, nothing, |_, _| (), [Nothing, Good, Nothing, Nothing]), surplus("dk")),
        (attention(b, all, |_, _| (), but(2, Nothing)), missing("dv")),
        (attention(b, all, |_, _| (), but(2, Halves)), halves("dv")),
        (attention(b, nothing, |_, _| (), [Nothing, Nothing, Good, Nothing]), surplus("dv")),
        (attention(b, all, |_, _| (), but(3, Nothing)), missing("scratch")),
        (attention(b, all, |_, _| (), but(3, Halves)), halves("scratch")),
        (attention(b, all, |_, _| (), but(3, Short(1))), too_little_scratch(len)),
    ]);
}
