//! Backward passes of products: linear layers, keys of spans, attention.

use lightspan::ops::AttentionKind;
use lightspan::problem::{
    Activation, AttentionBackwardProblem, AttentionProblem, AttentionWanted, LinearBackwardProblem,
    LinearProblem, LinearWanted, SpanKeyBackwardProblem, SpanKeyProblem, SpanKeyWanted,
};
use lightspan::wgpu::{
    AttentionBackward, AttentionBackwardArgs, LinearBackward, LinearBackwardArgs, SpanKeyBackward,
    SpanKeyBackwardArgs,
};
use lightspan::{DType::F32, Sequences};

use super::*;
use crate::support::each;

/// Buffers for outputs that are not the first.
fn outputs(b: &Bench) -> [Buffer; 4] {
    [(); 4].map(|()| empty(&b.gpu, 4 * NUMBERS as u64, BufferUsages::STORAGE))
}

fn little(expected: usize, got: usize) -> Error {
    Error::Scratch { expected, got }
}

#[test]
fn linear() {
    let Some(b) = Bench::new() else { return };
    let [dweight, dbias, ..] = &outputs(&b);
    let args = LinearBackwardArgs {
        x: rows(b.some()),
        weight: b.some(),
        y: None,
        dy: rows(b.some()),
        dx: Some(rows(b.out())),
        dweight: Some(dweight.into()),
        dbias: Some(dbias.into()),
    };
    let operator = |activation, wanted| {
        let forward =
            LinearProblem::new(6, 4, 5, F32).and_then(|problem| problem.with_activation(activation));
        let forward = forward.unwrap().with_bias(true);
        LinearBackward::new(&b.gpu, LinearBackwardProblem::new(forward, wanted).unwrap()).unwrap()
    };
    let plain = operator(Activation::Identity, LinearWanted::ALL);
    let run = |args| plain.bind(args, None);
    assert_eq!((run(args).unwrap().dispatches(), plain.scratch_len()), (3, 0));
    each([
        (run(LinearBackwardArgs { x: rows(b.last(23)), ..args }), short("x")),
        (run(LinearBackwardArgs { weight: b.last(19), ..args }), short("weight")),
        (run(LinearBackwardArgs { dy: rows(b.last(29)), ..args }), short("dy")),
        (run(LinearBackwardArgs { dy: Rows::strided(b.some(), 4), ..args }), stride("dy", 5)),
        (run(LinearBackwardArgs { dy: rows(b.unbound()), ..args }), usage("dy")),
        (run(LinearBackwardArgs { dy: rows(b.out()), ..args }), shared("dx", "dy")),
        (run(LinearBackwardArgs { y: Some(rows(b.some())), ..args }), surplus("y")),
        (run(LinearBackwardArgs { dx: None, ..args }), missing("dx")),
        (run(LinearBackwardArgs { dweight: None, ..args }), missing("dweight")),
        (run(LinearBackwardArgs { dbias: None, ..args }), missing("dbias")),
        (run(LinearBackwardArgs { dx: Some(Rows::strided(b.out(), 3)), ..args }), stride("dx", 4)),
        (run(LinearBackwardArgs { dweight: Some(Elements::at(dweight, 181)), ..args }), short("dweight")),
        (run(LinearBackwardArgs { dbias: Some(Elements::at(dbias, 196)), ..args }), short("dbias")),
        (run(LinearBackwardArgs { dweight: Some(b.out()), ..args }), shared("dweight", "dx")),
        (run(LinearBackwardArgs { dbias: Some(b.some()), ..args }), shared("dbias", "dy")),
    ]);
    // With an activation, its output is an input.
    let relu = operator(Activation::Relu, LinearWanted::ALL);
    let with = LinearBackwardArgs { y: Some(rows(b.some())), ..args };
    assert_eq!(relu.bind(with, None).unwrap().dispatches(), 3);
    each([
        (relu.bind(args, None), missing("y")),
        (relu.bind(LinearBackwardArgs { y: Some(rows(b.last(29))), ..args }, None), short("y")),
        (relu.bind(LinearBackwardArgs { y: Some(rows(b.out())), ..args }, None), shared("dx", "y")),
    ]);
    // What is not wanted is not given.
    let none = operator(Activation::Identity, LinearWanted::NONE);
    let nothing = LinearBackwardArgs { dx: None, dweight: None, dbias: None, ..args };
    assert!(none.bind(nothing, None).unwrap().is_empty());
    each([
        (none.bind(LinearBackwardArgs { dx: args.dx, ..nothing }, None), surplus("dx")),
        (none.bind(LinearBackwardArgs { dweight: args.dweight, ..nothing }, None), surplus("dweight")),
        (none.bind(LinearBackwardArgs { dbias: args.dbias, ..nothing }, None), surplus("dbias")),
    ]);
}

/// Sums over many rows are made in parts, which want memory.
#[test]
fn partial_sums() {
    let Some(b) = Bench::new() else { return };
    let [dweight, dbias, ..] = &outputs(&b);
    let forward = LinearProblem::new(600, 1, 2, F32).unwrap().with_bias(true);
    let problem = LinearBackwardProblem::new(forward, LinearWanted::ALL).unwrap();
    let operator = LinearBackward::new(&b.gpu, problem).unwrap();
    let [x, dy, dx, scratch, less] =
        [600, 1200, 600, 6, 5].map(|len| empty(&b.gpu, 4 * len, BufferUsages::STORAGE));
    let args = LinearBackwardArgs {
        x: rows((&x).into()),
        weight: b.some(),
        y: None,
        dy: rows((&dy).into()),
        dx: Some(rows((&dx).into())),
        dweight: Some(dweight.into()),
        dbias: Some(dbias.into()),
    };
    assert_eq!(operator.scratch_len(), 6);
    // Of each of two gradients three parts, and their sum.
    assert_eq!(operator.bind(args, Some(&scratch)).unwrap().dispatches(), 5);
    each([
        (operator.bind(args, None), little(6, 0)),
        (operator.bind(args, Some(&less)), little(6, 5)),
        (operator.bind(args, Some(&b.copies)), usage("scratch")),
        (operator.bind(args, Some(&x)), shared("scratch", "x")),
        (operator.bind(args, Some(dweight)), shared("dweight", "scratch")),
    ]);
}

#[test]
fn span_key() {
    let Some(b) = Bench::new() else { return };
    let [dquery, ddepthwise, dpointwise, dkey_bias] = &outputs(&b);
    let args = SpanKeyBackwardArgs {
        sequences: &b.good,
        x: rows(b.some()),
        query: rows(b.some()),
        depthwise: b.some(),
        pointwise: b.some(),
        key_bias: Some(b.some()),
        dz: rows(b.some()),
        dx: Some(rows(b.out())),
        dquery: Some(rows(dquery.into())),
        ddepthwise: Some(ddepthwise.into()),
        dpointwise: Some(dpointwise.into()),
        dkey_bias: Some(dkey_bias.into()),
    };
    let operator = |bias, wanted| {
        let [good, ..] = sequences();
        let window = Window::causal(3).unwrap();
        let forward = SpanKeyProblem::new(good.shape(), 4, 5, window, F32).unwrap().with_key_bias(bias);
        SpanKeyBackward::new(&b.gpu, SpanKeyBackwardProblem::new(forward, wanted).unwrap()).unwrap()
    };
    let all = operator(true, SpanKeyWanted::ALL);
    assert_eq!(all.scratch_len(), [24, 12]);
    let [convolved, partial] = [24, 12].map(|len| empty(&b.gpu, 4 * len, BufferUsages::STORAGE));
    let memory = [Some(&convolved), Some(&partial)];
    let run = |args| all.bind(args, memory);
    assert_eq!(run(args).unwrap().dispatches(), 8);
    each([
        (run(SpanKeyBackwardArgs { sequences: &b.other, ..args }), other_sequences()),
        (run(SpanKeyBackwardArgs { sequences: &b.later, ..args }), missing("history")),
        (run(SpanKeyBackwardArgs { x: rows(b.last(23)), ..args }), short("x")),
        (run(SpanKeyBackwardArgs { query: rows(b.last(29)), ..args }), short("query")),
        (run(SpanKeyBackwardArgs { depthwise: b.last(11), ..args }), short("depthwise")),
        (run(SpanKeyBackwardArgs { pointwise: b.last(19), ..args }), short("pointwise")),
        (run(SpanKeyBackwardArgs { key_bias: Some(b.last(4)), ..args }), short("key_bias")),
        (run(SpanKeyBackwardArgs { key_bias: None, ..args }), missing("key_bias")),
        (run(SpanKeyBackwardArgs { dz: rows(b.last(29)), ..args }), short("dz")),
        (run(SpanKeyBackwardArgs { dz: rows(b.unbound()), ..args }), usage("dz")),
        (run(SpanKeyBackwardArgs { dz: Rows::strided(b.some(), 4), ..args }), stride("dz", 5)),
        (run(SpanKeyBackwardArgs { dz: rows(b.out()), ..args }), shared("dx", "dz")),
        (run(SpanKeyBackwardArgs { dx: None, ..args }), missing("dx")),
        (run(SpanKeyBackwardArgs { dquery: None, ..args }), missing("dquery")),
        (run(SpanKeyBackwardArgs { ddepthwise: None, ..args }), missing("ddepthwise")),
        (run(SpanKeyBackwardArgs { dpointwise: None, ..args }), missing("dpointwise")),
        (run(SpanKeyBackwardArgs { dkey_bias: None, ..args }), missing("dkey_bias")),
        (run(SpanKeyBackwardArgs { ddepthwise: Some(b.out()), ..args }), shared("dx", "ddepthwise")),
        (run(SpanKeyBackwardArgs { dquery: Some(rows(b.some())), ..args }), shared("dquery", "x")),
    ]);
    each([
        (all.bind(args, [None, Some(&partial)]), little(24, 0)),
        (all.bind(args, [Some(&partial), Some(&partial)]), little(24, 12)),
        (all.bind(args, [Some(&convolved), None]), little(12, 0)),
    ]);
    // What is not wanted, or not there, is not given, and wants no memory.
    let none = operator(false, SpanKeyWanted { parameters: Some(F32), ..SpanKeyWanted::NONE });
    let nothing = SpanKeyBackwardArgs {
        key_bias: None,
        dx: None,
        dquery: None,
        ddepthwise: None,
        dpointwise: None,
        dkey_bias: None,
        ..args
    };
    let run = |args| none.bind(args, [None, None]);
    assert!(run(nothing).unwrap().is_empty());
    each([
        (run(SpanKeyBackwardArgs { key_bias: args.key_bias, ..nothing }), surplus("key_bias")),
        (run(SpanKeyBackwardArgs { dx: args.dx, ..nothing }), surplus("dx")),
        (run(SpanKeyBackwardArgs { dquery: args.dquery, ..nothing }), surplus("dquery")),
        (run(SpanKeyBackwardArgs { ddepthwise: args.ddepthwise, ..nothing }), surplus("ddepthwise")),
        (run(SpanKeyBackwardArgs { dpointwise: args.dpointwise, ..nothing }), surplus("dpointwise")),
        (run(SpanKeyBackwardArgs { dkey_bias: args.dkey_bias, ..nothing }), surplus("dkey_bias")),
    ]);
}

#[test]
fn attention() {
    let Some(b) = Bench::new() else { return };
    let [dk, dv, ..] = &outputs(&b);
    let keys = Sequences::batch(2, 5).unwrap();
    let list = DeviceSequences::new(&b.gpu, &keys).unwrap();
    let [good, _, other] = sequences();
    let not = |expected: &Sequences, got: &Sequences| Error::Sequences {
        expected: expected.shape().to_string(),
        got: got.shape().to_string(),
    };
    let args = AttentionBackwardArgs {
        queries: &b.good,
        keys: &list,
        q: rows(b.some()),
        k: rows(b.some()),
        v: rows(b.some()),
        y: rows(b.some()),
        dy: rows(b.some()),
        dq: Some(rows(b.out())),
        dk: Some(rows(dk.into())),
        dv: Some(rows(dv.into())),
    };
    let forward = AttentionProblem::new(good.shape(), keys.shape(), 2, 2, F32).unwrap();
    // Scores of two heads of six queries with five keys each; or three numbers for each query and head.
    for (kind, len, dispatches) in [(AttentionKind::Naive, 60, 6), (AttentionKind::Fused, 36, 4)] {
        let operator =
            |wanted| AttentionBackward::new(&b.gpu, AttentionBackwardProblem::new(forward, wanted), kind);
        let all = operator(AttentionWanted::ALL).unwrap();
        assert_eq!(all.scratch_len(&list), len);
        let [memory, less] = [len, len - 1].map(|len| empty(&b.gpu, 4 * len, BufferUsages::STORAGE));
        let run = |args| all.bind(args, Some(&memory));
        assert_eq!(run(args).unwrap().dispatches(), dispatches);
        each([
            (run(AttentionBackwardArgs { queries: &b.other, ..args }), not(&good, &other)),
            (run(AttentionBackwardArgs { keys: &b.good, ..args }), not(&keys, &good)),
            (run(AttentionBackwardArgs { q: rows(b.last(23)), ..args }), short("q")),
            (run(AttentionBackwardArgs { k: rows(b.last(39)), ..args }), short("k")),
            (run(AttentionBackwardArgs { v: rows(b.last(39)), ..args }), short("v")),
            (run(AttentionBackwardArgs { y: rows(b.last(23)), ..args }), short("y")),
            (run(AttentionBackwardArgs { dy: rows(b.last(23)), ..args }), short("dy")),
            (run(AttentionBackwardArgs { dy: rows(b.unbound()), ..args }), usage("dy")),
            (run(AttentionBackwardArgs { dy: Rows::strided(b.some(), 3), ..args }), stride("dy", 4)),
            (run(AttentionBackwardArgs { dq: None, ..args }), missing("dq")),
            (run(AttentionBackwardArgs { dk: None, ..args }), missing("dk")),
            (run(AttentionBackwardArgs { dv: None, ..args }), missing("dv")),
            (run(AttentionBackwardArgs { dk: Some(Rows::strided(dk, 3)), ..args }), stride("dk", 4)),
            (run(AttentionBackwardArgs { dv: Some(rows(Elements::at(dv, 161))), ..args }), short("dv")),
            (all.bind(args, None), little(len as usize, 0)),
            (all.bind(args, Some(&less)), little(len as usize, len as usize - 1)),
        ]);
        for args in [
            AttentionBackwardArgs { v: rows(b.out()), ..args },
            AttentionBackwardArgs { dv: Some(rows(b.out())), ..args },
            AttentionBackwardArgs { dk: Some(rows(b.some())), ..args },
        ] {
            assert!(matches!(run(args), Err(Error::SharedBuffer { .. })), "{kind:?}");
        }
        assert_eq!(all.bind(args, Some(&b.inputs[0])).unwrap_err(), shared("scratch", "q"));
        let none = operator(AttentionWanted::NONE).unwrap();
        let nothing = AttentionBackwardArgs { dq: None, dk: None, dv: None, ..args };
        assert_eq!(none.scratch_len(&list), 0);
        assert!(none.bind(nothing, None).unwrap().is_empty());
        each([
            (none.bind(AttentionBackwardArgs { dq: args.dq, ..nothing }, None), surplus("dq")),
            (none.bind(AttentionBackwardArgs { dk: args.dk, ..nothing }, None), surplus("dk")),
            (none.bind(AttentionBackwardArgs { dv: args.dv, ..nothing }, None), surplus("dv")),
        ]);
    }
}
