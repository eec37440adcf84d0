//! Backward passes of convolutions.

use lightspan::DType::F32;
use lightspan::Normalize;
use lightspan::problem::{
    DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, LightConvBackwardProblem,
    LightConvProblem, LightConvWanted, SpanConvBackwardProblem, SpanConvProblem, SpanConvWanted,
};
use lightspan::wgpu::{
    DynamicConvBackward, DynamicConvBackwardArgs, LightConvBackward, LightConvBackwardArgs, SpanConvBackward,
    SpanConvBackwardArgs, TapArgs,
};

use super::*;
use crate::support::each;

/// Buffers for outputs that are not the first, and for scratch memory.
fn buffers<const N: usize>(b: &Bench) -> [Buffer; N] {
    [(); N].map(|()| empty(&b.gpu, 4 * NUMBERS as u64, BufferUsages::STORAGE))
}

fn little(expected: usize, got: usize) -> Error {
    Error::Scratch { expected, got }
}

#[test]
fn light_conv() {
    let Some(b) = Bench::new() else { return };
    let [dweight, dbias, sums, statistics] = &buffers(&b);
    let args = LightConvBackwardArgs {
        sequences: &b.good,
        x: rows(b.some()),
        weight: b.some(),
        seed: None,
        dy: rows(b.some()),
        dx: Some(rows(b.out())),
        dweight: Some(dweight.into()),
        dbias: Some(dbias.into()),
    };
    let operator = |conv, wanted| {
        let problem = LightConvBackwardProblem::new(LightConvProblem::new(conv), wanted).unwrap();
        LightConvBackward::new(&b.gpu, problem).unwrap()
    };
    let all = operator(conv(4).with_bias(true), LightConvWanted::ALL);
    // A part for each sequence, of two heads of four numbers.
    assert_eq!(all.scratch_len(), [16, 0]);
    let memory = [Some(sums), None];
    let run = |args| all.bind(args, memory);
    assert_eq!(run(args).unwrap().dispatches(), 4);
    each([
        (run(LightConvBackwardArgs { sequences: &b.other, ..args }), other_sequences()),
        (run(LightConvBackwardArgs { sequences: &b.later, ..args }), missing("history")),
        (run(LightConvBackwardArgs { x: rows(b.last(23)), ..args }), short("x")),
        (run(LightConvBackwardArgs { weight: b.last(5), ..args }), short("weight")),
        (run(LightConvBackwardArgs { seed: Some(1), ..args }), surplus("seed")),
        (run(LightConvBackwardArgs { dy: rows(b.last(23)), ..args }), short("dy")),
        (run(LightConvBackwardArgs { dy: rows(b.unbound()), ..args }), usage("dy")),
        (run(LightConvBackwardArgs { dy: Rows::strided(b.some(), 3), ..args }), stride("dy", 4)),
        (run(LightConvBackwardArgs { dy: rows(b.out()), ..args }), shared("dx", "dy")),
        (run(LightConvBackwardArgs { dx: None, ..args }), missing("dx")),
        (run(LightConvBackwardArgs { dweight: None, ..args }), missing("dweight")),
        (run(LightConvBackwardArgs { dbias: None, ..args }), missing("dbias")),
        (run(LightConvBackwardArgs { dx: Some(Rows::strided(b.out(), 3)), ..args }), stride("dx", 4)),
        (run(LightConvBackwardArgs { dweight: Some(Elements::at(dweight, 195)), ..args }), short("dweight")),
        (run(LightConvBackwardArgs { dbias: Some(Elements::at(dbias, 197)), ..args }), short("dbias")),
        (run(LightConvBackwardArgs { dweight: Some(b.out()), ..args }), shared("dweight", "dx")),
        (all.bind(args, [None, None]), little(16, 0)),
        (all.bind(args, [Some(&b.copies), None]), usage("scratch")),
    ]);
    // Over the taps in range every token has a softmax of its own: of two heads of six tokens two numbers each.
    let edges = operator(conv(4).with_normalize(Normalize::SoftmaxInRange), LightConvWanted::ALL);
    let [sums_len, statistics_len] = edges.scratch_len();
    assert_eq!(statistics_len, 24);
    let unbiased = LightConvBackwardArgs { dbias: None, ..args };
    assert_eq!(edges.bind(unbiased, [Some(sums), Some(statistics)]).unwrap().dispatches(), 5);
    each([
        (edges.bind(unbiased, [None, Some(statistics)]), little(sums_len as usize, 0)),
        (edges.bind(unbiased, memory), little(24, 0)),
    ]);
    let training = operator(dropped(4), LightConvWanted::ALL);
    assert_eq!(training.bind(unbiased, memory).unwrap_err(), missing("seed"));
    // What is not wanted is not given, and wants no memory.
    let none = operator(conv(4).with_bias(true), LightConvWanted::NONE);
    let nothing = LightConvBackwardArgs { dx: None, dweight: None, dbias: None, ..args };
    let run = |args| none.bind(args, [None, None]);
    assert!(run(nothing).unwrap().is_empty());
    each([
        (run(LightConvBackwardArgs { dx: args.dx, ..nothing }), surplus("dx")),
        (run(LightConvBackwardArgs { dweight: args.dweight, ..nothing }), surplus("dweight")),
        (run(LightConvBackwardArgs { dbias: args.dbias, ..nothing }), surplus("dbias")),
    ]);
}

#[test]
fn dynamic_conv() {
    let Some(b) = Bench::new() else { return };
    let [dlogits, dweight, dweight_bias, dquery, dbias] = &buffers(&b);
    let scratch: &[Buffer; 4] = &buffers(&b);
    let memory = scratch.each_ref().map(Some);
    let operator = |forward: Result<DynamicConvProblem, Error>, wanted| {
        let problem = DynamicConvBackwardProblem::new(forward.unwrap(), wanted).unwrap();
        DynamicConvBackward::new(&b.gpu, problem).unwrap()
    };
    let conv = conv(4).with_bias(true);
    // Given logits.
    let given = operator(DynamicConvProblem::given(conv), DynamicConvWanted::ALL);
    assert_eq!(given.scratch_len(), [0, 24, 0, 0]);
    let args = DynamicConvBackwardArgs {
        sequences: &b.good,
        x: rows(b.some()),
        taps: TapArgs::Given { logits: rows(b.some()) },
        seed: None,
        dy: rows(b.some()),
        dx: Some(rows(b.out())),
        dlogits: Some(rows(dlogits.into())),
        dweight: None,
        dweight_bias: None,
        dquery: None,
        dbias: Some(dbias.into()),
    };
    let run = |args| given.bind(args, memory);
    assert_eq!(run(args).unwrap().dispatches(), 4);
    each([
        (run(DynamicConvBackwardArgs { sequences: &b.other, ..args }), other_sequences()),
        (run(DynamicConvBackwardArgs { sequences: &b.later, ..args }), missing("history")),
        (run(DynamicConvBackwardArgs { x: rows(b.last(23)), ..args }), short("x")),
        (run(DynamicConvBackwardArgs { seed: Some(1), ..args }), surplus("seed")),
        (run(DynamicConvBackwardArgs { dy: rows(b.last(23)), ..args }), short("dy")),
        (run(DynamicConvBackwardArgs { dy: rows(b.out()), ..args }), shared("dx", "dy")),
        (run(DynamicConvBackwardArgs { dx: None, ..args }), missing("dx")),
        (run(DynamicConvBackwardArgs { dlogits: None, ..args }), missing("dlogits")),
        (run(DynamicConvBackwardArgs { dbias: None, ..args }), missing("dbias")),
        (
            run(DynamicConvBackwardArgs { dlogits: Some(Rows::strided(dlogits, 5)), ..args }),
            stride("dlogits", 6),
        ),
        (run(DynamicConvBackwardArgs { dlogits: Some(rows(b.some())), ..args }), shared("dlogits", "logits")),
        (run(DynamicConvBackwardArgs { dweight: Some(dweight.into()), ..args }), surplus("dweight")),
        (
            run(DynamicConvBackwardArgs { dweight_bias: Some(dweight_bias.into()), ..args }),
            surplus("dweight_bias"),
        ),
        (run(DynamicConvBackwardArgs { dquery: Some(rows(dquery.into())), ..args }), surplus("dquery")),
        (given.bind(args, [None; 4]), little(24, 0)),
    ]);
    // Generated from a query of five channels.
    let generated =
        || DynamicConvProblem::generated(conv).and_then(|it| it.with_query(5, F32)?.with_weight_bias(true));
    let all = operator(generated(), DynamicConvWanted::ALL);
    assert_eq!(all.scratch_len(), [36, 24, 36, 0]);
    let taps =
        TapArgs::Generated { weight: b.some(), weight_bias: Some(b.some()), query: Some(rows(b.some())) };
    let full = DynamicConvBackwardArgs {
        taps,
        dlogits: None,
        dweight: Some(dweight.into()),
        dweight_bias: Some(dweight_bias.into()),
        dquery: Some(rows(dquery.into())),
        ..args
    };
    let run = |args| all.bind(args, memory);
    assert_eq!(run(full).unwrap().dispatches(), 8);
    each([
        (run(DynamicConvBackwardArgs { taps: args.taps, ..full }), surplus("logits")),
        (run(DynamicConvBackwardArgs { dlogits: args.dlogits, ..full }), surplus("dlogits")),
        (run(DynamicConvBackwardArgs { dweight: None, ..full }), missing("dweight")),
        (run(DynamicConvBackwardArgs { dweight_bias: None, ..full }), missing("dweight_bias")),
        (run(DynamicConvBackwardArgs { dquery: None, ..full }), missing("dquery")),
        (
            run(DynamicConvBackwardArgs { dquery: Some(Rows::strided(dquery, 4)), ..full }),
            stride("dquery", 5),
        ),
        (
            run(DynamicConvBackwardArgs { dweight: Some(Elements::at(dweight, 171)), ..full }),
            short("dweight"),
        ),
        (all.bind(full, [None, memory[1], memory[2], None]), little(36, 0)),
        (all.bind(full, [memory[0], memory[1], None, None]), little(36, 0)),
    ]);
    // Where x is its own query, what it has besides is kept for one rounding.
    let own = operator(DynamicConvProblem::generated(conv), DynamicConvWanted::ALL);
    assert_eq!(own.scratch_len(), [36, 24, 36, 24]);
    let none = operator(generated(), DynamicConvWanted::NONE);
    assert_eq!(none.scratch_len(), [0; 4]);
    let nothing = DynamicConvBackwardArgs {
        dx: None,
        dweight: None,
        dweight_bias: None,
        dquery: None,
        dbias: None,
        ..full
    };
    assert!(none.bind(nothing, [None; 4]).unwrap().is_empty());
}

#[test]
fn span_conv() {
    let Some(b) = Bench::new() else { return };
    let [dquery, ddepthwise, dpointwise, dvalue, dweight, dbias] = &buffers(&b);
    let scratch: &[Buffer; 5] = &buffers(&b);
    let memory = scratch.each_ref().map(Some);
    let operator = |wanted| {
        // C = 4, A = 6.
        let forward = SpanConvProblem::new(4, conv(6).with_bias(true)).unwrap();
        SpanConvBackward::new(&b.gpu, SpanConvBackwardProblem::new(forward, wanted).unwrap()).unwrap()
    };
    let all = operator(SpanConvWanted::ALL);
    let lens = all.scratch_len();
    assert_eq!(lens[..2], [36, 36]);
    let args = SpanConvBackwardArgs {
        sequences: &b.good,
        x: rows(b.some()),
        query: rows(b.some()),
        value: rows(b.some()),
        depthwise: b.some(),
        pointwise: b.some(),
        key_bias: None,
        weight: b.some(),
        weight_bias: None,
        seed: None,
        dy: rows(b.some()),
        dx: Some(rows(b.out())),
        dquery: Some(rows(dquery.into())),
        ddepthwise: Some(ddepthwise.into()),
        dpointwise: Some(dpointwise.into()),
        dkey_bias: None,
        dvalue: Some(rows(dvalue.into())),
        dweight: Some(dweight.into()),
        dweight_bias: None,
        dbias: Some(dbias.into()),
    };
    let run = |args| all.bind(args, memory);
    assert!(run(args).unwrap().dispatches() > 8);
    each([
        (run(SpanConvBackwardArgs { sequences: &b.other, ..args }), other_sequences()),
        (run(SpanConvBackwardArgs { sequences: &b.later, ..args }), missing("history")),
        (run(SpanConvBackwardArgs { x: rows(b.last(23)), ..args }), short("x")),
        (run(SpanConvBackwardArgs { query: rows(b.last(35)), ..args }), short("query")),
        (run(SpanConvBackwardArgs { value: rows(b.last(35)), ..args }), short("value")),
        (run(SpanConvBackwardArgs { depthwise: b.last(11), ..args }), short("depthwise")),
        (run(SpanConvBackwardArgs { pointwise: b.last(23), ..args }), short("pointwise")),
        (run(SpanConvBackwardArgs { weight: b.last(35), ..args }), short("weight")),
        (run(SpanConvBackwardArgs { key_bias: Some(b.some()), ..args }), surplus("key_bias")),
        (run(SpanConvBackwardArgs { weight_bias: Some(b.some()), ..args }), surplus("weight_bias")),
        (run(SpanConvBackwardArgs { seed: Some(1), ..args }), surplus("seed")),
        (run(SpanConvBackwardArgs { dy: rows(b.last(35)), ..args }), short("dy")),
        (run(SpanConvBackwardArgs { dx: None, ..args }), missing("dx")),
        (run(SpanConvBackwardArgs { dquery: None, ..args }), missing("dquery")),
        (run(SpanConvBackwardArgs { ddepthwise: None, ..args }), missing("ddepthwise")),
        (run(SpanConvBackwardArgs { dpointwise: None, ..args }), missing("dpointwise")),
        (run(SpanConvBackwardArgs { dvalue: None, ..args }), missing("dvalue")),
        (run(SpanConvBackwardArgs { dweight: None, ..args }), missing("dweight")),
        (run(SpanConvBackwardArgs { dbias: None, ..args }), missing("dbias")),
        (run(SpanConvBackwardArgs { dkey_bias: Some(dbias.into()), ..args }), surplus("dkey_bias")),
        (run(SpanConvBackwardArgs { dweight_bias: Some(dbias.into()), ..args }), surplus("dweight_bias")),
        (run(SpanConvBackwardArgs { dvalue: Some(rows(b.some())), ..args }), shared("dvalue", "x")),
    ]);
    for (i, len) in lens.into_iter().enumerate() {
        let mut less = memory;
        less[i] = None;
        assert_eq!(all.bind(args, less).unwrap_err(), little(len as usize, 0));
    }
    let none = operator(SpanConvWanted::NONE);
    assert_eq!(none.scratch_len(), [0; 5]);
    let nothing = SpanConvBackwardArgs {
        dx: None,
        dquery: None,
        ddepthwise: None,
        dpointwise: None,
        dvalue: None,
        dweight: None,
        dbias: None,
        ..args
    };
    let run = |args| none.bind(args, [None; 5]);
    assert!(run(nothing).unwrap().is_empty());
    each([
        (run(SpanConvBackwardArgs { x: rows(b.last(23)), ..nothing }), short("x")),
        (run(SpanConvBackwardArgs { dx: args.dx, ..nothing }), surplus("dx")),
        (run(SpanConvBackwardArgs { dquery: args.dquery, ..nothing }), surplus("dquery")),
        (run(SpanConvBackwardArgs { ddepthwise: args.ddepthwise, ..nothing }), surplus("ddepthwise")),
        (run(SpanConvBackwardArgs { dpointwise: args.dpointwise, ..nothing }), surplus("dpointwise")),
        (run(SpanConvBackwardArgs { dvalue: args.dvalue, ..nothing }), surplus("dvalue")),
        (run(SpanConvBackwardArgs { dweight: args.dweight, ..nothing }), surplus("dweight")),
        (run(SpanConvBackwardArgs { dbias: args.dbias, ..nothing }), surplus("dbias")),
    ]);
}
