//! The same of the gradients of linear layers, span-aware keys and attention: each is given exactly where it is wanted.

mod convolutions;

use lightspan::problem::{
    Activation, AttentionBackwardProblem, AttentionWanted, LinearBackwardProblem, LinearWanted,
    SpanKeyBackwardProblem, SpanKeyWanted,
};

use super::*;

/// What is wrong with the gradient of a parameter: too short, another type.
fn wrong_parameter(tensor: &'static str, len: usize) -> [Error; 2] {
    [short(tensor, len), dtype(tensor, F16)]
}

/// Gradients of tokens that are wrong in the ways of [`wrong_outputs`].
fn wrong_rows(outputs: &mut Outputs, channels: usize) -> [Option<RowsMut<'_>>; 3] {
    [
        Some(RowsMut::contiguous(&mut outputs.short[..])),
        Some(RowsMut::strided(&mut outputs.narrow[..], channels - 1)),
        Some(RowsMut::contiguous(&mut outputs.half[..])),
    ]
}

fn too_little_scratch(expected: usize) -> Error {
    Error::Scratch { expected, got: expected - 1 }
}

#[test]
fn linear() {
    let (mut dx, mut dweight, mut dbias) = (Outputs::new(6, 4), Outputs::new(5, 4), Outputs::new(1, 5));
    let mut dxs = dx.calls.chunks_mut(dx.len).map(RowsMut::contiguous);
    let mut dweights = dweight.calls.chunks_mut(dweight.len).map(ElementsMut::from);
    let mut dbiases = dbias.calls.chunks_mut(dbias.len).map(ElementsMut::from);
    let mut plain = || cpu::LinearBackwardArgs {
        x: rows(24),
        weight: some(20),
        y: Some(rows(30)),
        dy: rows(30),
        dx: dxs.next(),
        dweight: dweights.next(),
        dbias: dbiases.next(),
    };
    let operator = |activation, wanted| {
        let forward =
            LinearProblem::new(6, 4, 5, F32).and_then(|problem| problem.with_activation(activation));
        let forward = forward.unwrap().with_bias(true);
        cpu::LinearBackward::new(LinearBackwardProblem::new(forward, wanted).unwrap())
    };
    let [relu, identity] =
        [Activation::Relu, Activation::Identity].map(|activation| operator(activation, LinearWanted::ALL));
    let none = operator(Activation::Relu, LinearWanted::NONE);
    let scratch_len = relu.scratch_len();
    let run =
        |operator: &cpu::LinearBackward, args| operator.run(args, &mut vec![0.0; operator.scratch_len()]);
    type Args<'a> = cpu::LinearBackwardArgs<'a>;
    let mut wrong_dx = Outputs::new(6, 4);
    let of_dx = wrong_rows(&mut wrong_dx, 4).map(|dx| run(&relu, Args { dx, ..plain() }));
    each(of_dx.into_iter().zip(wrong_outputs("dx", 6, 4)));
    let of_dweight = [(&mut dweight.short[..]).into(), (&mut dweight.half[..]).into()];
    let of_dweight = of_dweight.map(|dweight| run(&relu, Args { dweight: Some(dweight), ..plain() }));
    each(of_dweight.into_iter().zip(wrong_parameter("dweight", 20)));
    let of_dbias = [(&mut dbias.short[..]).into(), (&mut dbias.half[..]).into()];
    let of_dbias = of_dbias.map(|dbias| run(&relu, Args { dbias: Some(dbias), ..plain() }));
    each(of_dbias.into_iter().zip(wrong_parameter("dbias", 5)));
    each([
        (run(&relu, Args { x: rows(23), ..plain() }), short("x", 24)),
        (run(&relu, Args { x: f16_rows(), ..plain() }), dtype("x", F16)),
        (run(&relu, Args { x: Rows::strided(&ONES[..], 3), ..plain() }), stride("x", 4)),
        (run(&relu, Args { weight: some(19), ..plain() }), short("weight", 20)),
        (run(&relu, Args { weight: bf16s(), ..plain() }), dtype("weight", BF16)),
        (run(&relu, Args { y: None, ..plain() }), missing("y")),
        (run(&relu, Args { y: Some(rows(29)), ..plain() }), short("y", 30)),
        (run(&relu, Args { y: Some(f16_rows()), ..plain() }), dtype("y", F16)),
        (run(&identity, plain()), surplus("y")),
        (run(&relu, Args { dy: rows(29), ..plain() }), short("dy", 30)),
        (run(&relu, Args { dy: f16_rows(), ..plain() }), dtype("dy", F16)),
        (run(&relu, Args { dy: Rows::strided(&ONES[..], 4), ..plain() }), stride("dy", 5)),
        (run(&relu, Args { dx: None, ..plain() }), missing("dx")),
        (run(&relu, Args { dweight: None, ..plain() }), missing("dweight")),
        (run(&relu, Args { dbias: None, ..plain() }), missing("dbias")),
        (run(&none, Args { dweight: None, dbias: None, ..plain() }), surplus("dx")),
        (run(&none, Args { dx: None, dbias: None, ..plain() }), surplus("dweight")),
        (run(&none, Args { dx: None, dweight: None, ..plain() }), surplus("dbias")),
        (relu.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
    ]);
    assert!([dx, wrong_dx, dweight, dbias].iter().all(Outputs::untouched));
}

#[test]
fn span_key() {
    let Tokens { good: sequences, later, other } = tokens();
    // Six tokens, C = 4, A = 5, K = 3.
    let (mut dx, mut dquery, mut ddepthwise) = (Outputs::new(6, 4), Outputs::new(6, 5), Outputs::new(4, 3));
    let (mut dpointwise, mut dkey_bias) = (Outputs::new(5, 4), Outputs::new(1, 5));
    let mut dxs = dx.calls.chunks_mut(dx.len).map(RowsMut::contiguous);
    let mut dqueries = dquery.calls.chunks_mut(dquery.len).map(RowsMut::contiguous);
    let mut ddepthwises = ddepthwise.calls.chunks_mut(ddepthwise.len).map(ElementsMut::from);
    let mut dpointwises = dpointwise.calls.chunks_mut(dpointwise.len).map(ElementsMut::from);
    let mut dkey_biases = dkey_bias.calls.chunks_mut(dkey_bias.len).map(ElementsMut::from);
    let mut plain = || cpu::SpanKeyBackwardArgs {
        sequences: &sequences,
        x: rows(24),
        query: rows(30),
        depthwise: some(12),
        pointwise: some(20),
        key_bias: Some(some(5)),
        dz: rows(30),
        dx: dxs.next(),
        dquery: dqueries.next(),
        ddepthwise: ddepthwises.next(),
        dpointwise: dpointwises.next(),
        dkey_bias: dkey_biases.next(),
    };
    let operator = |key_bias, wanted| {
        let window = Window::causal(3).unwrap();
        let forward = SpanKeyProblem::new(sequences.shape(), 4, 5, window, F32).unwrap();
        let problem = SpanKeyBackwardProblem::new(forward.with_key_bias(key_bias), wanted).unwrap();
        cpu::SpanKeyBackward::new(problem)
    };
    let (all, none) = (operator(true, SpanKeyWanted::ALL), operator(true, SpanKeyWanted::NONE));
    let without_bias = operator(false, SpanKeyWanted::ALL);
    let scratch_len = all.scratch_len();
    let run =
        |operator: &cpu::SpanKeyBackward, args| operator.run(args, &mut vec![0.0; operator.scratch_len()]);
    type Args<'a> = cpu::SpanKeyBackwardArgs<'a>;
    let mut wrong_dx = Outputs::new(6, 4);
    let of_dx = wrong_rows(&mut wrong_dx, 4).map(|dx| run(&all, Args { dx, ..plain() }));
    each(of_dx.into_iter().zip(wrong_outputs("dx", 6, 4)));
    let mut wrong_dquery = Outputs::new(6, 5);
    let of_dquery = wrong_rows(&mut wrong_dquery, 5).map(|dquery| run(&all, Args { dquery, ..plain() }));
    each(of_dquery.into_iter().zip(wrong_outputs("dquery", 6, 5)));
    let of_ddepthwise = [(&mut ddepthwise.short[..]).into(), (&mut ddepthwise.half[..]).into()];
    let of_ddepthwise = of_ddepthwise.map(|given| run(&all, Args { ddepthwise: Some(given), ..plain() }));
    each(of_ddepthwise.into_iter().zip(wrong_parameter("ddepthwise", 12)));
    let of_dpointwise = [(&mut dpointwise.short[..]).into(), (&mut dpointwise.half[..]).into()];
    let of_dpointwise = of_dpointwise.map(|given| run(&all, Args { dpointwise: Some(given), ..plain() }));
    each(of_dpointwise.into_iter().zip(wrong_parameter("dpointwise", 20)));
    let of_dkey_bias = [(&mut dkey_bias.short[..]).into(), (&mut dkey_bias.half[..]).into()];
    let of_dkey_bias = of_dkey_bias.map(|given| run(&all, Args { dkey_bias: Some(given), ..plain() }));
    each(of_dkey_bias.into_iter().zip(wrong_parameter("dkey_bias", 5)));
    // What is not wanted is found in this order.
    each([
        (run(&none, plain()), surplus("dx")),
        (run(&none, Args { dx: None, ..plain() }), surplus("dquery")),
        (run(&none, Args { dx: None, dquery: None, ..plain() }), surplus("ddepthwise")),
        (run(&none, Args { dx: None, dquery: None, ddepthwise: None, ..plain() }), surplus("dpointwise")),
        (
            run(&none, Args { dx: None, dquery: None, ddepthwise: None, dpointwise: None, ..plain() }),
            surplus("dkey_bias"),
        ),
    ]);
    each([
        (run(&all, Args { sequences: &other, ..plain() }), other_sequences()),
        (run(&all, Args { sequences: &later, ..plain() }), missing("history")),
        (run(&all, Args { x: rows(23), ..plain() }), short("x", 24)),
        (run(&all, Args { x: f16_rows(), ..plain() }), dtype("x", F16)),
        (run(&all, Args { x: Rows::strided(&ONES[..], 3), ..plain() }), stride("x", 4)),
        (run(&all, Args { query: rows(29), ..plain() }), short("query", 30)),
        (run(&all, Args { query: f16_rows(), ..plain() }), dtype("query", F16)),
        (run(&all, Args { depthwise: some(11), ..plain() }), short("depthwise", 12)),
        (run(&all, Args { depthwise: bf16s(), ..plain() }), dtype("depthwise", BF16)),
        (run(&all, Args { pointwise: some(19), ..plain() }), short("pointwise", 20)),
        (run(&all, Args { pointwise: bf16s(), ..plain() }), dtype("pointwise", BF16)),
        (run(&all, Args { key_bias: None, ..plain() }), missing("key_bias")),
        (run(&all, Args { key_bias: Some(some(4)), ..plain() }), short("key_bias", 5)),
        (run(&all, Args { key_bias: Some(bf16s()), ..plain() }), dtype("key_bias", BF16)),
        (run(&without_bias, plain()), surplus("key_bias")),
        (run(&without_bias, Args { key_bias: None, ..plain() }), surplus("dkey_bias")),
        (run(&all, Args { dz: rows(29), ..plain() }), short("dz", 30)),
        (run(&all, Args { dz: f16_rows(), ..plain() }), dtype("dz", F16)),
        (run(&all, Args { dz: Rows::strided(&ONES[..], 4), ..plain() }), stride("dz", 5)),
        (run(&all, Args { dx: None, ..plain() }), missing("dx")),
        (run(&all, Args { dquery: None, ..plain() }), missing("dquery")),
        (run(&all, Args { ddepthwise: None, ..plain() }), missing("ddepthwise")),
        (run(&all, Args { dpointwise: None, ..plain() }), missing("dpointwise")),
        (run(&all, Args { dkey_bias: None, ..plain() }), missing("dkey_bias")),
        (all.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
    ]);
    assert!(
        [dx, wrong_dx, dquery, wrong_dquery, ddepthwise, dpointwise, dkey_bias]
            .iter()
            .all(Outputs::untouched)
    );
}

#[test]
fn attention() {
    let Tokens { good: queries, other, .. } = tokens();
    let keys = Sequences::batch(2, 5).unwrap();
    for kind in [AttentionKind::Naive, AttentionKind::Fused] {
        let (mut dq, mut dk, mut dv) = (Outputs::new(6, 4), Outputs::new(10, 4), Outputs::new(10, 4));
        let mut dqs = dq.calls.chunks_mut(dq.len).map(RowsMut::contiguous);
        let mut dks = dk.calls.chunks_mut(dk.len).map(RowsMut::contiguous);
        let mut dvs = dv.calls.chunks_mut(dv.len).map(RowsMut::contiguous);
        let mut plain = || cpu::AttentionBackwardArgs {
            queries: &queries,
            keys: &keys,
            q: rows(24),
            k: rows(40),
            v: rows(40),
            y: rows(24),
            dy: rows(24),
            dq: dqs.next(),
            dk: dks.next(),
            dv: dvs.next(),
        };
        let operator = |wanted| {
            let forward = AttentionProblem::new(queries.shape(), keys.shape(), 2, 2, F32).unwrap();
            cpu::AttentionBackward::new(AttentionBackwardProblem::new(forward, wanted), kind)
        };
        let (all, none) = (operator(AttentionWanted::ALL), operator(AttentionWanted::NONE));
        let scratch_len = all.scratch_len(&queries, &keys);
        let run = |operator: &cpu::AttentionBackward, args| operator.run(args, &mut vec![0.0; scratch_len]);
        type Args<'a> = cpu::AttentionBackwardArgs<'a>;
        let (mut wrong_q, mut wrong_k, mut wrong_v) =
            (Outputs::new(6, 4), Outputs::new(10, 4), Outputs::new(10, 4));
        let of_dq = wrong_rows(&mut wrong_q, 4).map(|dq| run(&all, Args { dq, ..plain() }));
        each(of_dq.into_iter().zip(wrong_outputs("dq", 6, 4)));
        let of_dk = wrong_rows(&mut wrong_k, 4).map(|dk| run(&all, Args { dk, ..plain() }));
        each(of_dk.into_iter().zip(wrong_outputs("dk", 10, 4)));
        let of_dv = wrong_rows(&mut wrong_v, 4).map(|dv| run(&all, Args { dv, ..plain() }));
        each(of_dv.into_iter().zip(wrong_outputs("dv", 10, 4)));
        let not = |expected: &Sequences, got: &Sequences| Error::Sequences {
            expected: expected.shape().to_string(),
            got: got.shape().to_string(),
        };
        each([
            (run(&all, Args { queries: &other, ..plain() }), not(&queries, &other)),
            (run(&all, Args { keys: &queries, ..plain() }), not(&keys, &queries)),
            (run(&all, Args { q: rows(23), ..plain() }), short("q", 24)),
            (run(&all, Args { q: f16_rows(), ..plain() }), dtype("q", F16)),
            (run(&all, Args { k: rows(39), ..plain() }), short("k", 40)),
            (run(&all, Args { k: f16_rows(), ..plain() }), dtype("k", F16)),
            (run(&all, Args { v: rows(39), ..plain() }), short("v", 40)),
            (run(&all, Args { v: Rows::strided(&ONES[..], 3), ..plain() }), stride("v", 4)),
            (run(&all, Args { y: rows(23), ..plain() }), short("y", 24)),
            (run(&all, Args { y: f16_rows(), ..plain() }), dtype("y", F16)),
            (run(&all, Args { dy: rows(23), ..plain() }), short("dy", 24)),
            (run(&all, Args { dy: f16_rows(), ..plain() }), dtype("dy", F16)),
            (run(&all, Args { dq: None, ..plain() }), missing("dq")),
            (run(&all, Args { dk: None, ..plain() }), missing("dk")),
            (run(&all, Args { dv: None, ..plain() }), missing("dv")),
            (run(&none, Args { dk: None, dv: None, ..plain() }), surplus("dq")),
            (run(&none, Args { dq: None, dv: None, ..plain() }), surplus("dk")),
            (run(&none, Args { dq: None, dk: None, ..plain() }), surplus("dv")),
            (all.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
        ]);
        assert!([dq, dk, dv, wrong_q, wrong_k, wrong_v].iter().all(Outputs::untouched));
    }
}
