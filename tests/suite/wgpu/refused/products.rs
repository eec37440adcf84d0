//! Linear layers, norms and attention, and buffers of another device.

use lightspan::ops::AttentionKind;
use lightspan::problem::{
    Activation, AttentionProblem, LightConvProblem, LinearProblem, NormKind, NormProblem, NormResidual,
};
use lightspan::wgpu::{
    Attention, AttentionArgs, LightConv, LightConvArgs, Linear, LinearArgs, Norm, NormArgs,
};
use lightspan::{DType::F16, DType::F32, Sequences};

use super::*;
use crate::support::each;
use crate::support::gpu::adapter;
use pollster::block_on;

#[test]
fn linear() {
    let Some(b) = Bench::new() else { return };
    let plain =
        LinearArgs { x: rows(b.some()), weight: b.some(), bias: None, residual: None, y: rows(b.out()) };
    let run = |bias, args| {
        let problem = LinearProblem::new(6, 4, 5, F32).unwrap().with_bias(bias);
        Linear::new(&b.gpu, problem).unwrap().bind(args)
    };
    let with = LinearArgs { bias: Some(b.some()), ..plain };
    assert_eq!((run(false, plain).unwrap().dispatches(), run(true, with).unwrap().dispatches()), (1, 1));
    each([
        (run(false, LinearArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (run(false, LinearArgs { x: rows(b.unbound()), ..plain }), usage("x")),
        (run(false, LinearArgs { x: Rows::strided(b.some(), 3), ..plain }), stride("x", 4)),
        (run(false, LinearArgs { x: rows(b.out()), ..plain }), shared("y", "x")),
        (run(false, LinearArgs { weight: b.last(19), ..plain }), short("weight")),
        (run(false, LinearArgs { weight: b.out(), ..plain }), shared("y", "weight")),
        (run(false, LinearArgs { bias: Some(b.some()), ..plain }), surplus("bias")),
        (run(true, plain), missing("bias")),
        (run(true, LinearArgs { bias: Some(b.last(4)), ..plain }), short("bias")),
        (run(true, LinearArgs { bias: Some(b.out()), ..plain }), shared("y", "bias")),
        (run(false, LinearArgs { y: Rows::strided(b.out(), 4), ..plain }), stride("y", 5)),
        (run(false, LinearArgs { y: rows(Elements::at(&b.output, NUMBERS - 29)), ..plain }), short("y")),
        (run(false, LinearArgs { y: rows(b.unbound()), ..plain }), usage("y")),
        (run(false, LinearArgs { residual: Some(rows(b.some())), ..plain }), surplus("residual")),
    ]);
    // A residual, and the weight and bias of a GLU, which have two rows for each output.
    let run = |args| {
        let problem =
            LinearProblem::new(6, 4, 5, F32).and_then(|problem| problem.with_activation(Activation::Glu));
        let problem = problem.unwrap().with_bias(true).with_residual(true);
        Linear::new(&b.gpu, problem).unwrap().bind(args)
    };
    let full = LinearArgs { bias: Some(b.some()), residual: Some(rows(b.some())), ..plain };
    let residual = |residual| run(LinearArgs { residual, ..full });
    assert_eq!(run(full).unwrap().dispatches(), 1);
    each([
        (run(LinearArgs { weight: b.last(39), ..full }), short("weight")),
        (run(LinearArgs { bias: Some(b.last(9)), ..full }), short("bias")),
        (residual(None), missing("residual")),
        (residual(Some(rows(b.last(29)))), short("residual")),
        (residual(Some(Rows::strided(b.some(), 4))), stride("residual", 5)),
        (residual(Some(rows(b.out()))), shared("y", "residual")),
    ]);
    // Sizes that no address reaches are no overflow.
    let far = Elements::at(&b.inputs[0], usize::MAX);
    let wide = Rows::strided(b.some(), usize::MAX);
    let run = |args| Linear::new(&b.gpu, LinearProblem::new(6, 4, 5, F32).unwrap()).unwrap().bind(args);
    let too_large = |sizes: [usize; 2]| Error::TooLarge { what: "x", sizes: sizes.to_vec() };
    each([
        (run(LinearArgs { x: rows(far), ..plain }), too_large([usize::MAX, 24])),
        (run(LinearArgs { x: wide, ..plain }), too_large([6, usize::MAX])),
    ]);
}

/// Numbers of 16 bits lie two in a word: a range that ends within one needs all of it.
#[test]
fn half_words() {
    let Some(b) = Bench::new() else { return };
    let run = |x| {
        let problem = LinearProblem::new(1, 3, 1, F16).unwrap();
        let args = LinearArgs { x: rows(x), weight: b.some(), bias: None, residual: None, y: rows(b.out()) };
        Linear::new(&b.gpu, problem).unwrap().bind(args).map(drop)
    };
    let last = |len| Elements::at(&b.inputs[0], 2 * NUMBERS - len);
    assert_eq!([run(last(3)), run(last(4))], [Ok(()), Ok(())]);
    let needed = Error::Length { tensor: "x", expected: 2 * NUMBERS + 2, got: 2 * NUMBERS };
    assert_eq!([run(last(2)), run(last(1))], [Err(needed.clone()), Err(needed)]);
    // A buffer of three numbers holds a word and a half, of which a binding takes no half.
    let three = empty(&b.gpu, 6, BufferUsages::STORAGE);
    let needed = Error::Length { tensor: "x", expected: 4, got: 3 };
    assert_eq!(run((&three).into()), Err(needed));
}

#[test]
fn norm() {
    let Some(b) = Bench::new() else { return };
    let plain = NormArgs {
        x: rows(b.some()),
        residual: None,
        weight: b.some(),
        bias: None,
        y: rows(b.out()),
        sum: None,
    };
    let run = |residual, bias, args| {
        let problem = NormProblem::new(NormKind::Layer, 6, 4, F32).unwrap();
        Norm::new(&b.gpu, problem.with_residual(residual).with_bias(bias)).unwrap().bind(args)
    };
    let sums = empty(&b.gpu, 4 * NUMBERS as u64, BufferUsages::STORAGE);
    let (none, after, before) = (NormResidual::None, NormResidual::After, NormResidual::Before { sum: true });
    let added = NormArgs { residual: Some(rows(b.some())), ..plain };
    let summed = NormArgs { sum: Some(rows((&sums).into())), ..added };
    let full = NormArgs { bias: Some(b.some()), ..added };
    assert_eq!(run(none, false, plain).unwrap().dispatches(), 1);
    assert_eq!(run(after, true, full).unwrap().dispatches(), 1);
    assert_eq!(run(before, false, summed).unwrap().dispatches(), 2);
    each([
        (run(none, false, NormArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (run(none, false, NormArgs { x: rows(b.unbound()), ..plain }), usage("x")),
        (run(none, false, NormArgs { x: Rows::strided(b.some(), 3), ..plain }), stride("x", 4)),
        (run(none, false, NormArgs { x: rows(b.out()), ..plain }), shared("y", "x")),
        (run(none, false, NormArgs { weight: b.last(3), ..plain }), short("weight")),
        (run(none, false, NormArgs { weight: b.out(), ..plain }), shared("y", "weight")),
        (run(none, false, NormArgs { bias: Some(b.some()), ..plain }), surplus("bias")),
        (run(none, true, plain), missing("bias")),
        (run(none, true, NormArgs { bias: Some(b.last(3)), ..plain }), short("bias")),
        (run(none, false, added), surplus("residual")),
        (run(after, false, plain), missing("residual")),
        (run(after, false, NormArgs { residual: Some(rows(b.last(23))), ..plain }), short("residual")),
        (run(after, false, NormArgs { residual: Some(rows(b.out())), ..plain }), shared("y", "residual")),
        (run(before, false, added), missing("sum")),
        (run(after, false, summed), surplus("sum")),
        (run(before, false, NormArgs { sum: Some(rows(b.some())), ..added }), shared("sum", "x")),
        (run(before, false, NormArgs { sum: Some(rows(b.out())), ..added }), shared("sum", "y")),
        (run(before, false, NormArgs { sum: Some(rows(b.unbound())), ..added }), usage("sum")),
        (run(none, false, NormArgs { y: Rows::strided(b.out(), 3), ..plain }), stride("y", 4)),
        (run(none, false, NormArgs { y: rows(Elements::at(&b.output, NUMBERS - 23)), ..plain }), short("y")),
    ]);
}

#[test]
fn attention() {
    let Some(b) = Bench::new() else { return };
    let keys = Sequences::batch(2, 5).unwrap();
    let list = DeviceSequences::new(&b.gpu, &keys).unwrap();
    // Scores of two heads of six queries with five keys each.
    let all = empty(&b.gpu, 4 * 60, BufferUsages::STORAGE);
    let less = empty(&b.gpu, 4 * 59, BufferUsages::STORAGE);
    let [good, _, other] = sequences();
    for kind in [AttentionKind::Naive, AttentionKind::Fused] {
        let plain = AttentionArgs {
            queries: &b.good,
            keys: &list,
            q: rows(b.some()),
            k: rows(b.some()),
            v: rows(b.some()),
            y: rows(b.out()),
        };
        let problem = AttentionProblem::new(good.shape(), keys.shape(), 2, 2, F32).unwrap();
        let operator = Attention::new(&b.gpu, problem, kind).unwrap();
        let run = |args| operator.bind(args, Some(&all));
        let not = |expected: &Sequences, got: &Sequences| Error::Sequences {
            expected: expected.shape().to_string(),
            got: got.shape().to_string(),
        };
        let dispatches = if kind == AttentionKind::Naive { 3 } else { 1 };
        assert_eq!(run(plain).unwrap().dispatches(), dispatches);
        each([
            (run(AttentionArgs { queries: &b.other, ..plain }), not(&good, &other)),
            (run(AttentionArgs { keys: &b.good, ..plain }), not(&keys, &good)),
            (run(AttentionArgs { q: rows(b.last(23)), ..plain }), short("q")),
            (run(AttentionArgs { k: rows(b.last(39)), ..plain }), short("k")),
            (run(AttentionArgs { v: rows(b.last(39)), ..plain }), short("v")),
            (run(AttentionArgs { v: Rows::strided(b.some(), 3), ..plain }), stride("v", 4)),
            (run(AttentionArgs { v: rows(b.unbound()), ..plain }), usage("v")),
            (run(AttentionArgs { v: rows(b.out()), ..plain }), shared("y", "v")),
            (run(AttentionArgs { y: Rows::strided(b.out(), 3), ..plain }), stride("y", 4)),
        ]);
        if kind == AttentionKind::Naive {
            assert_eq!(operator.scratch_len(&list), 60);
            each([
                (operator.bind(plain, None), Error::Scratch { expected: 60, got: 0 }),
                (operator.bind(plain, Some(&less)), Error::Scratch { expected: 60, got: 59 }),
                (operator.bind(plain, Some(&b.inputs[0])), shared("scratch", "q")),
                (operator.bind(plain, Some(&b.output)), shared("y", "scratch")),
            ]);
        } else {
            assert_eq!(operator.scratch_len(&list), 0);
            assert_eq!(operator.bind(plain, None).unwrap().dispatches(), 1);
        }
    }
}

/// Sequences know their device; buffers do not, and the driver refuses them.
#[test]
fn buffers_and_sequences_of_another_device() {
    let (Some(b), Some(adapter)) = (Bench::new(), adapter()) else { return };
    let [one, other] = [0, 1].map(|_| {
        let (device, queue) = block_on(adapter.request_device(&Default::default())).unwrap();
        Gpu::new(device, queue).unwrap()
    });
    let [own, foreign] = [&one, &other].map(|gpu| empty(gpu, 4 * NUMBERS as u64, BufferUsages::STORAGE));
    let y = empty(&one, 4 * NUMBERS as u64, BufferUsages::STORAGE);
    let [good, _, _] = sequences();
    let [list, foreign_list] = [&one, &other].map(|gpu| DeviceSequences::new(gpu, &good).unwrap());
    let operator = LightConv::new(&one, LightConvProblem::new(conv(4))).unwrap();
    let plain = LightConvArgs {
        sequences: &list,
        x: rows((&own).into()),
        weight: (&own).into(),
        bias: None,
        history: None,
        seed: None,
        y: rows((&y).into()),
    };
    for args in [
        LightConvArgs { x: rows((&foreign).into()), ..plain },
        LightConvArgs { y: rows((&foreign).into()), ..plain },
    ] {
        match operator.bind(args) {
            Err(Error::Driver { what: "light_conv", reason }) => assert!(!reason.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    let (expected, got) = (one.name().to_owned(), "another device".to_owned());
    let error = Error::Device { tensor: "sequences", expected, got };
    each([
        (operator.bind(LightConvArgs { sequences: &foreign_list, ..plain }), error.clone()),
        // Of another instance of wgpu, whose devices count as equal to those of this one.
        (operator.bind(LightConvArgs { sequences: &b.good, ..plain }), error),
    ]);
    assert_eq!(operator.bind(plain).unwrap().dispatches(), 1);
}
