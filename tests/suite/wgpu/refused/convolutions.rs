//! Convolutions, the span-aware key, and the history of a decoder.

use lightspan::problem::{
    DynamicConvProblem, HistoryProblem, LightConvProblem, SpanConvProblem, SpanKeyProblem,
};
use lightspan::wgpu::{
    Call, DynamicConv, DynamicConvArgs, History, HistoryArgs, LightConv, LightConvArgs, Rows, SpanConv,
    SpanConvArgs, SpanKey, SpanKeyArgs, TapArgs,
};
use lightspan::{DType::F32, Result, Window};

use super::*;
use crate::support::each;

#[test]
fn light_conv() {
    let Some(b) = Bench::new() else { return };
    let plain = LightConvArgs {
        sequences: &b.good,
        x: rows(b.some()),
        weight: b.some(),
        bias: None,
        history: None,
        seed: None,
        y: rows(b.out()),
    };
    let with = LightConvArgs { bias: Some(b.some()), history: Some(b.some()), ..plain };
    let run = |conv, args| LightConv::new(&b.gpu, LightConvProblem::new(conv)).unwrap().bind(args);
    let without = |args| run(conv(4), args);
    let all = |args| run(full(4), args);
    assert_eq!((without(plain).unwrap().dispatches(), all(with).unwrap().dispatches()), (1, 1));
    each([
        (without(LightConvArgs { sequences: &b.other, ..plain }), other_sequences()),
        (without(LightConvArgs { sequences: &b.later, ..plain }), missing("history")),
        (without(LightConvArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (without(LightConvArgs { x: rows(b.unbound()), ..plain }), usage("x")),
        (without(LightConvArgs { x: Rows::strided(b.some(), 3), ..plain }), stride("x", 4)),
        (without(LightConvArgs { x: rows(b.out()), ..plain }), shared("y", "x")),
        (without(LightConvArgs { weight: b.last(5), ..plain }), short("weight")),
        (without(LightConvArgs { weight: b.unbound(), ..plain }), usage("weight")),
        (without(LightConvArgs { weight: b.out(), ..plain }), shared("y", "weight")),
        (without(LightConvArgs { bias: Some(b.some()), ..plain }), surplus("bias")),
        (without(LightConvArgs { seed: Some(1), ..plain }), surplus("seed")),
        (run(dropped(4), plain), missing("seed")),
        (without(LightConvArgs { history: Some(b.some()), ..plain }), surplus("history")),
        (without(LightConvArgs { y: rows(Elements::at(&b.output, NUMBERS - 23)), ..plain }), short("y")),
        (without(LightConvArgs { y: rows(b.unbound()), ..plain }), usage("y")),
        (without(LightConvArgs { y: Rows::strided(b.out(), 3), ..plain }), stride("y", 4)),
    ]);
    each([
        (all(LightConvArgs { bias: None, ..with }), missing("bias")),
        (all(LightConvArgs { bias: Some(b.last(3)), ..with }), short("bias")),
        (all(LightConvArgs { bias: Some(b.unbound()), ..with }), usage("bias")),
        (all(LightConvArgs { bias: Some(b.out()), ..with }), shared("y", "bias")),
        (all(LightConvArgs { history: None, ..with }), missing("history")),
        (all(LightConvArgs { history: Some(b.last(15)), ..with }), short("history")),
        (all(LightConvArgs { history: Some(b.unbound()), ..with }), usage("history")),
        (all(LightConvArgs { history: Some(b.out()), ..with }), shared("y", "history")),
    ]);
}

#[test]
fn dynamic_conv() {
    let Some(b) = Bench::new() else { return };
    let bind = |problem: Result<DynamicConvProblem>, args| {
        DynamicConv::new(&b.gpu, problem.unwrap()).unwrap().bind(args, None)
    };
    let logits = |logits| TapArgs::Given { logits };
    let generator = |weight, weight_bias, query| TapArgs::Generated { weight, weight_bias, query };
    let args = |taps| DynamicConvArgs {
        sequences: &b.good,
        x: rows(b.some()),
        taps,
        bias: None,
        history: None,
        seed: None,
        y: rows(b.out()),
    };
    let given = |args| bind(DynamicConvProblem::given(conv(4)), args);
    let plain = args(logits(rows(b.some())));
    assert_eq!(given(plain).unwrap().dispatches(), 1);
    each([
        (given(DynamicConvArgs { sequences: &b.other, ..plain }), other_sequences()),
        (given(DynamicConvArgs { sequences: &b.later, ..plain }), missing("history")),
        (given(DynamicConvArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (given(DynamicConvArgs { bias: Some(b.some()), ..plain }), surplus("bias")),
        (given(DynamicConvArgs { seed: Some(1), ..plain }), surplus("seed")),
        (bind(DynamicConvProblem::given(dropped(4)), plain), missing("seed")),
        (given(DynamicConvArgs { history: Some(b.some()), ..plain }), surplus("history")),
        (given(args(logits(rows(b.last(35))))), short("logits")),
        (given(args(logits(rows(b.unbound())))), usage("logits")),
        (given(args(logits(Rows::strided(b.some(), 5)))), stride("logits", 6)),
        (given(args(generator(b.some(), None, None))), missing("logits")),
        (given(DynamicConvArgs { y: Rows::strided(b.out(), 3), ..plain }), stride("y", 4)),
    ]);
    let generated = |args| bind(DynamicConvProblem::generated(conv(4)), args);
    assert_eq!(generated(args(generator(b.some(), None, None))).unwrap().dispatches(), 1);
    each([
        (generated(plain), surplus("logits")),
        (generated(args(generator(b.last(23), None, None))), short("weight")),
        (generated(args(generator(b.unbound(), None, None))), usage("weight")),
        (generated(args(generator(b.some(), Some(b.some()), None))), surplus("weight_bias")),
        (generated(args(generator(b.some(), None, Some(rows(b.some()))))), surplus("query")),
        (
            generated(DynamicConvArgs { x: rows(b.out()), ..args(generator(b.some(), None, None)) }),
            shared("y", "x"),
        ),
    ]);
    // A query of five channels and everything else.
    let all = |args| {
        let problem = DynamicConvProblem::generated(full(4));
        bind(problem.and_then(|problem| problem.with_query(5, F32)?.with_weight_bias(true)), args)
    };
    let (bias, query) = (Some(b.some()), Some(rows(b.some())));
    let with = |taps| DynamicConvArgs { bias, history: Some(b.some()), ..args(taps) };
    let good = with(generator(b.some(), bias, query));
    assert_eq!(all(good).unwrap().dispatches(), 1);
    each([
        (all(with(generator(b.last(29), bias, query))), short("weight")),
        (all(with(generator(b.some(), None, query))), missing("weight_bias")),
        (all(with(generator(b.some(), Some(b.last(5)), query))), short("weight_bias")),
        (all(with(generator(b.some(), Some(b.out()), query))), shared("y", "weight_bias")),
        (all(with(generator(b.some(), bias, None))), missing("query")),
        (all(with(generator(b.some(), bias, Some(rows(b.last(29)))))), short("query")),
        (all(with(generator(b.some(), bias, Some(Rows::strided(b.some(), 4))))), stride("query", 5)),
        (all(with(generator(b.some(), bias, Some(rows(b.out()))))), shared("y", "query")),
        (all(DynamicConvArgs { bias: None, ..good }), missing("bias")),
        (all(DynamicConvArgs { history: None, ..good }), missing("history")),
        (all(DynamicConvArgs { history: Some(b.last(15)), ..good }), short("history")),
    ]);
}

/// Logits that do not stay on the chip take scratch memory: 6 tokens of H = 2 heads of K = 240 taps.
#[test]
fn scratch_of_generated_taps() {
    let Some(b) = Bench::new() else { return };
    let window = Window::causal(240).unwrap();
    let [good, ..] = sequences();
    let conv = lightspan::problem::Convolution::new(good.shape(), 4, 2, window, F32).unwrap();
    let operator = DynamicConv::new(&b.gpu, DynamicConvProblem::generated(conv).unwrap()).unwrap();
    let needed = 6 * 2 * 240;
    assert_eq!(operator.scratch_len(), needed as u64);
    let weight = empty(&b.gpu, 4 * 4 * 480, BufferUsages::STORAGE);
    let weight = Elements::from(&weight);
    let scratch = |numbers: usize, usage| empty(&b.gpu, 4 * numbers as u64, usage);
    let taps = TapArgs::Generated { weight, weight_bias: None, query: None };
    let args = DynamicConvArgs {
        sequences: &b.good,
        x: rows(b.some()),
        taps,
        bias: None,
        history: None,
        seed: None,
        y: rows(b.out()),
    };
    let all = scratch(needed, BufferUsages::STORAGE);
    let too_little = |got| Error::Scratch { expected: needed, got };
    assert_eq!(operator.bind(args, Some(&all)).unwrap().dispatches(), 2);
    let short_scratch = scratch(needed - 1, BufferUsages::STORAGE);
    let unbound = scratch(needed, BufferUsages::COPY_DST);
    each([
        (operator.bind(args, None), too_little(0)),
        (operator.bind(args, Some(&short_scratch)), too_little(needed - 1)),
        (operator.bind(args, Some(&unbound)), usage("scratch")),
        // It is written as well as read.
        (
            operator.bind(DynamicConvArgs { x: rows((&all).into()), ..args }, Some(&all)),
            shared("scratch", "x"),
        ),
        (
            operator.bind(DynamicConvArgs { y: rows((&all).into()), ..args }, Some(&all)),
            shared("y", "scratch"),
        ),
    ]);
}

#[test]
fn span_key() {
    let Some(b) = Bench::new() else { return };
    // C = 4, A = 5.
    let plain = SpanKeyArgs {
        sequences: &b.good,
        x: rows(b.some()),
        query: rows(b.some()),
        depthwise: b.some(),
        pointwise: b.some(),
        key_bias: None,
        history: None,
        z: rows(b.out()),
    };
    let with = SpanKeyArgs { key_bias: Some(b.some()), history: Some(b.some()), ..plain };
    let run = |full: bool, args| {
        let [good, ..] = sequences();
        let problem = SpanKeyProblem::new(good.shape(), 4, 5, Window::causal(3).unwrap(), F32)
            .and_then(|key| key.with_key_bias(full).with_history(full));
        SpanKey::new(&b.gpu, problem.unwrap()).unwrap().bind(args)
    };
    let without = |args| run(false, args);
    let all = |args| run(true, args);
    assert_eq!((without(plain).unwrap().dispatches(), all(with).unwrap().dispatches()), (1, 1));
    each([
        (without(SpanKeyArgs { sequences: &b.other, ..plain }), other_sequences()),
        (without(SpanKeyArgs { sequences: &b.later, ..plain }), missing("history")),
        (without(SpanKeyArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (without(SpanKeyArgs { query: rows(b.last(29)), ..plain }), short("query")),
        (without(SpanKeyArgs { query: Rows::strided(b.some(), 4), ..plain }), stride("query", 5)),
        (without(SpanKeyArgs { query: rows(b.out()), ..plain }), shared("z", "query")),
        (without(SpanKeyArgs { depthwise: b.last(11), ..plain }), short("depthwise")),
        (without(SpanKeyArgs { depthwise: b.out(), ..plain }), shared("z", "depthwise")),
        (without(SpanKeyArgs { pointwise: b.last(19), ..plain }), short("pointwise")),
        (without(SpanKeyArgs { pointwise: b.unbound(), ..plain }), usage("pointwise")),
        (without(SpanKeyArgs { key_bias: Some(b.some()), ..plain }), surplus("key_bias")),
        (without(SpanKeyArgs { history: Some(b.some()), ..plain }), surplus("history")),
        (without(SpanKeyArgs { z: Rows::strided(b.out(), 4), ..plain }), stride("z", 5)),
        (without(SpanKeyArgs { z: rows(Elements::at(&b.output, NUMBERS - 29)), ..plain }), short("z")),
        (all(SpanKeyArgs { key_bias: None, ..with }), missing("key_bias")),
        (all(SpanKeyArgs { key_bias: Some(b.last(4)), ..with }), short("key_bias")),
        (all(SpanKeyArgs { history: None, ..with }), missing("history")),
        (all(SpanKeyArgs { history: Some(b.last(15)), ..with }), short("history")),
    ]);
}

#[test]
fn span_conv() {
    let Some(b) = Bench::new() else { return };
    // C = 4, A = 6: a key of 36 numbers.
    let plain = SpanConvArgs {
        sequences: &b.good,
        x: rows(b.some()),
        query: rows(b.some()),
        value: rows(b.some()),
        depthwise: b.some(),
        pointwise: b.some(),
        key_bias: None,
        weight: b.some(),
        weight_bias: None,
        bias: None,
        history: None,
        value_history: None,
        seed: None,
        y: rows(b.out()),
    };
    let some = Some(b.some());
    let with = SpanConvArgs {
        key_bias: some,
        weight_bias: some,
        bias: some,
        history: some,
        value_history: some,
        ..plain
    };
    let key = empty(&b.gpu, 4 * 36, BufferUsages::STORAGE);
    let less = empty(&b.gpu, 4 * 35, BufferUsages::STORAGE);
    let run = |is_full: bool, args, scratch| -> Result<Call> {
        let problem = SpanConvProblem::new(4, if is_full { full(6) } else { conv(6) })?;
        let problem = problem.with_key_bias(is_full).with_weight_bias(is_full);
        let operator = SpanConv::new(&b.gpu, problem)?;
        assert_eq!(operator.scratch_len(), [36, 0]);
        operator.bind(args, [scratch, None])
    };
    let without = |args| run(false, args, Some(&key));
    let all = |args| run(true, args, Some(&key));
    assert_eq!((without(plain).unwrap().dispatches(), all(with).unwrap().dispatches()), (2, 2));
    each([
        (run(false, plain, None), Error::Scratch { expected: 36, got: 0 }),
        (run(false, plain, Some(&less)), Error::Scratch { expected: 36, got: 35 }),
        (run(false, plain, Some(&b.inputs[0])), shared("scratch", "x")),
        (run(false, plain, Some(&b.output)), shared("y", "scratch")),
        (without(SpanConvArgs { sequences: &b.other, ..plain }), other_sequences()),
        // Both histories are missing: that of the values is looked at first.
        (without(SpanConvArgs { sequences: &b.later, ..plain }), missing("value_history")),
        (without(SpanConvArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (without(SpanConvArgs { query: rows(b.last(35)), ..plain }), short("query")),
        (without(SpanConvArgs { value: rows(b.last(35)), ..plain }), short("value")),
        (without(SpanConvArgs { value: Rows::strided(b.some(), 5), ..plain }), stride("value", 6)),
        (without(SpanConvArgs { value: rows(b.out()), ..plain }), shared("y", "value")),
        (without(SpanConvArgs { depthwise: b.last(11), ..plain }), short("depthwise")),
        (without(SpanConvArgs { pointwise: b.last(23), ..plain }), short("pointwise")),
        (without(SpanConvArgs { weight: b.last(35), ..plain }), short("weight")),
        (without(SpanConvArgs { weight: b.out(), ..plain }), shared("y", "weight")),
        (without(SpanConvArgs { key_bias: some, ..plain }), surplus("key_bias")),
        (without(SpanConvArgs { weight_bias: some, ..plain }), surplus("weight_bias")),
        (without(SpanConvArgs { bias: some, ..plain }), surplus("bias")),
        (without(SpanConvArgs { seed: Some(1), ..plain }), surplus("seed")),
        (without(SpanConvArgs { history: some, ..plain }), surplus("history")),
        (without(SpanConvArgs { value_history: some, ..plain }), surplus("value_history")),
        (without(SpanConvArgs { y: Rows::strided(b.out(), 5), ..plain }), stride("y", 6)),
    ]);
    each([
        (all(SpanConvArgs { key_bias: None, ..with }), missing("key_bias")),
        (all(SpanConvArgs { weight_bias: None, ..with }), missing("weight_bias")),
        (all(SpanConvArgs { weight_bias: Some(b.last(5)), ..with }), short("weight_bias")),
        (all(SpanConvArgs { bias: None, ..with }), missing("bias")),
        (all(SpanConvArgs { history: None, ..with }), missing("history")),
        (all(SpanConvArgs { history: Some(b.last(15)), ..with }), short("history")),
        (all(SpanConvArgs { value_history: None, ..with }), missing("value_history")),
        (all(SpanConvArgs { value_history: Some(b.last(23)), ..with }), short("value_history")),
    ]);
}

#[test]
fn history() {
    let Some(b) = Bench::new() else { return };
    // Two sequences remember two tokens of four channels each.
    let plain = HistoryArgs { sequences: &b.good, x: rows(b.some()), history: b.some(), next: b.out() };
    let operator = History::new(&b.gpu, HistoryProblem::new(conv(4)).unwrap()).unwrap();
    let run = |args| operator.bind(args);
    assert_eq!(run(plain).unwrap().dispatches(), 1);
    // What they say of tokens gone by is not read.
    assert_eq!(run(HistoryArgs { sequences: &b.later, ..plain }).unwrap().dispatches(), 1);
    each([
        (run(HistoryArgs { sequences: &b.other, ..plain }), other_sequences()),
        (run(HistoryArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (run(HistoryArgs { x: Rows::strided(b.some(), 3), ..plain }), stride("x", 4)),
        (run(HistoryArgs { history: b.last(15), ..plain }), short("history")),
        (run(HistoryArgs { history: b.out(), ..plain }), shared("next", "history")),
        (run(HistoryArgs { next: Elements::at(&b.output, NUMBERS - 15), ..plain }), short("next")),
        (run(HistoryArgs { next: b.unbound(), ..plain }), usage("next")),
    ]);
}
