//! The same of convolutions.

use lightspan::problem::{
    DynamicConvBackwardProblem, DynamicConvWanted, LightConvBackwardProblem, LightConvWanted,
    SpanConvBackwardProblem, SpanConvWanted,
};

use super::*;

const SEED: Option<u64> = Some(7);

/// Gradients of a parameter that are wrong in the ways of [`wrong_parameter`].
fn wrong_elements(outputs: &mut Outputs) -> [Option<ElementsMut<'_>>; 2] {
    [Some((&mut outputs.short[..]).into()), Some((&mut outputs.half[..]).into())]
}

#[test]
fn light_conv() {
    let Tokens { good: sequences, later, other } = tokens();
    let (mut dx, mut dweight, mut dbias) = (Outputs::new(6, 4), Outputs::new(2, 3), Outputs::new(1, 4));
    let mut dxs = dx.calls.chunks_mut(dx.len).map(RowsMut::contiguous);
    let mut dweights = dweight.calls.chunks_mut(dweight.len).map(ElementsMut::from);
    let mut dbiases = dbias.calls.chunks_mut(dbias.len).map(ElementsMut::from);
    let mut plain = || cpu::LightConvBackwardArgs {
        sequences: &sequences,
        x: rows(24),
        weight: some(6),
        seed: SEED,
        dy: rows(24),
        dx: dxs.next(),
        dweight: dweights.next(),
        dbias: dbiases.next(),
    };
    let operator = |conv, wanted| {
        let problem = LightConvBackwardProblem::new(LightConvProblem::new(conv), wanted).unwrap();
        cpu::LightConvBackward::new(problem)
    };
    let (all, none) = (
        operator(dropped(4).with_bias(true), LightConvWanted::ALL),
        operator(dropped(4).with_bias(true), LightConvWanted::NONE),
    );
    let without = operator(conv(4), LightConvWanted::ALL);
    let scratch_len = all.scratch_len();
    let run =
        |operator: &cpu::LightConvBackward, args| operator.run(args, &mut vec![0.0; operator.scratch_len()]);
    type Args<'a> = cpu::LightConvBackwardArgs<'a>;
    let mut wrong_dx = Outputs::new(6, 4);
    let of_dx = wrong_rows(&mut wrong_dx, 4).map(|dx| run(&all, Args { dx, ..plain() }));
    each(of_dx.into_iter().zip(wrong_outputs("dx", 6, 4)));
    let (mut wrong_dweight, mut wrong_dbias) = (Outputs::new(2, 3), Outputs::new(1, 4));
    let of_dweight = wrong_elements(&mut wrong_dweight).map(|dweight| run(&all, Args { dweight, ..plain() }));
    each(of_dweight.into_iter().zip(wrong_parameter("dweight", 6)));
    let of_dbias = wrong_elements(&mut wrong_dbias).map(|dbias| run(&all, Args { dbias, ..plain() }));
    each(of_dbias.into_iter().zip(wrong_parameter("dbias", 4)));
    each([
        (run(&all, Args { sequences: &other, ..plain() }), other_sequences()),
        (run(&all, Args { sequences: &later, ..plain() }), missing("history")),
        (run(&all, Args { x: rows(23), ..plain() }), short("x", 24)),
        (run(&all, Args { x: f16_rows(), ..plain() }), dtype("x", F16)),
        (run(&all, Args { x: Rows::strided(&ONES[..], 3), ..plain() }), stride("x", 4)),
        (run(&all, Args { weight: some(5), ..plain() }), short("weight", 6)),
        (run(&all, Args { weight: bf16s(), ..plain() }), dtype("weight", BF16)),
        (run(&all, Args { seed: None, ..plain() }), missing("seed")),
        (run(&without, plain()), surplus("seed")),
        (run(&all, Args { dy: rows(23), ..plain() }), short("dy", 24)),
        (run(&all, Args { dy: f16_rows(), ..plain() }), dtype("dy", F16)),
        (run(&all, Args { dy: Rows::strided(&ONES[..], 3), ..plain() }), stride("dy", 4)),
        (run(&all, Args { dx: None, ..plain() }), missing("dx")),
        (run(&all, Args { dweight: None, ..plain() }), missing("dweight")),
        (run(&all, Args { dbias: None, ..plain() }), missing("dbias")),
        (run(&without, Args { seed: None, ..plain() }), surplus("dbias")),
        (run(&none, Args { dweight: None, dbias: None, ..plain() }), surplus("dx")),
        (run(&none, Args { dx: None, dbias: None, ..plain() }), surplus("dweight")),
        (run(&none, Args { dx: None, dweight: None, ..plain() }), surplus("dbias")),
        (all.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
    ]);
    assert!([dx, wrong_dx, dweight, wrong_dweight, dbias, wrong_dbias].iter().all(Outputs::untouched));
}

#[test]
fn dynamic_conv_given() {
    let Tokens { good: sequences, later, other } = tokens();
    let (mut dx, mut dlogits, mut dbias) = (Outputs::new(6, 4), Outputs::new(6, 6), Outputs::new(1, 4));
    let mut dxs = dx.calls.chunks_mut(dx.len).map(RowsMut::contiguous);
    let mut all_dlogits = dlogits.calls.chunks_mut(dlogits.len).map(RowsMut::contiguous);
    let mut dbiases = dbias.calls.chunks_mut(dbias.len).map(ElementsMut::from);
    let logits = |logits| TapArgs::Given { logits };
    let mut plain = || cpu::DynamicConvBackwardArgs {
        sequences: &sequences,
        x: rows(24),
        taps: logits(rows(36)),
        seed: SEED,
        dy: rows(24),
        dx: dxs.next(),
        dlogits: all_dlogits.next(),
        dweight: None,
        dweight_bias: None,
        dquery: None,
        dbias: dbiases.next(),
    };
    let operator = |wanted| {
        let forward = DynamicConvProblem::given(dropped(4).with_bias(true)).unwrap();
        cpu::DynamicConvBackward::new(DynamicConvBackwardProblem::new(forward, wanted).unwrap())
    };
    let (all, none) = (operator(DynamicConvWanted::ALL), operator(DynamicConvWanted::NONE));
    let scratch_len = all.scratch_len();
    let run = |operator: &cpu::DynamicConvBackward, args| {
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    type Args<'a> = cpu::DynamicConvBackwardArgs<'a>;
    let (mut wrong_dx, mut wrong_dlogits) = (Outputs::new(6, 4), Outputs::new(6, 6));
    let of_dx = wrong_rows(&mut wrong_dx, 4).map(|dx| run(&all, Args { dx, ..plain() }));
    each(of_dx.into_iter().zip(wrong_outputs("dx", 6, 4)));
    let of_dlogits = wrong_rows(&mut wrong_dlogits, 6).map(|dlogits| run(&all, Args { dlogits, ..plain() }));
    each(of_dlogits.into_iter().zip(wrong_outputs("dlogits", 6, 6)));
    let mut surplus_gradient = Outputs::new(6, 6);
    let own = TapArgs::Generated { weight: some(24), weight_bias: None, query: None };
    each([
        (run(&all, Args { sequences: &other, ..plain() }), other_sequences()),
        (run(&all, Args { sequences: &later, ..plain() }), missing("history")),
        (run(&all, Args { x: rows(23), ..plain() }), short("x", 24)),
        (run(&all, Args { x: f16_rows(), ..plain() }), dtype("x", F16)),
        (run(&all, Args { taps: logits(rows(35)), ..plain() }), short("logits", 36)),
        (run(&all, Args { taps: logits(f16_rows()), ..plain() }), dtype("logits", F16)),
        (run(&all, Args { taps: logits(Rows::strided(&ONES[..], 5)), ..plain() }), stride("logits", 6)),
        (run(&all, Args { taps: own, ..plain() }), missing("logits")),
        (run(&all, Args { seed: None, ..plain() }), missing("seed")),
        (run(&all, Args { dy: rows(23), ..plain() }), short("dy", 24)),
        (run(&all, Args { dy: f16_rows(), ..plain() }), dtype("dy", F16)),
        (run(&all, Args { dx: None, ..plain() }), missing("dx")),
        (run(&all, Args { dlogits: None, ..plain() }), missing("dlogits")),
        (run(&all, Args { dbias: None, ..plain() }), missing("dbias")),
        (
            run(&all, Args { dweight: Some((&mut surplus_gradient.calls[..]).into()), ..plain() }),
            surplus("dweight"),
        ),
        (run(&none, Args { dlogits: None, dbias: None, ..plain() }), surplus("dx")),
        (run(&none, Args { dx: None, dbias: None, ..plain() }), surplus("dlogits")),
        (run(&none, Args { dx: None, dlogits: None, ..plain() }), surplus("dbias")),
        (all.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
    ]);
    let outputs = [dx, wrong_dx, dlogits, wrong_dlogits, dbias, surplus_gradient];
    assert!(outputs.iter().all(Outputs::untouched));
}

#[test]
fn dynamic_conv() {
    let Tokens { good: sequences, .. } = tokens();
    // A query of five channels.
    let (mut dx, mut dweight, mut dquery) = (Outputs::new(6, 4), Outputs::new(6, 5), Outputs::new(6, 5));
    let (mut dweight_bias, mut dbias) = (Outputs::new(1, 6), Outputs::new(1, 4));
    let mut dxs = dx.calls.chunks_mut(dx.len).map(RowsMut::contiguous);
    let mut dweights = dweight.calls.chunks_mut(dweight.len).map(ElementsMut::from);
    let mut dweight_biases = dweight_bias.calls.chunks_mut(dweight_bias.len).map(ElementsMut::from);
    let mut dqueries = dquery.calls.chunks_mut(dquery.len).map(RowsMut::contiguous);
    let mut dbiases = dbias.calls.chunks_mut(dbias.len).map(ElementsMut::from);
    let generator = |weight, weight_bias, query| TapArgs::Generated { weight, weight_bias, query };
    let (bias, query) = (Some(some(6)), Some(rows(30)));
    let mut plain = || cpu::DynamicConvBackwardArgs {
        sequences: &sequences,
        x: rows(24),
        taps: generator(some(30), bias, query),
        seed: SEED,
        dy: rows(24),
        dx: dxs.next(),
        dlogits: None,
        dweight: dweights.next(),
        dweight_bias: dweight_biases.next(),
        dquery: dqueries.next(),
        dbias: dbiases.next(),
    };
    let operator = |separate: bool, wanted| {
        let mut forward = DynamicConvProblem::generated(dropped(4).with_bias(true)).unwrap();
        if separate {
            forward = forward.with_query(5, F32).unwrap();
        }
        let forward = forward.with_weight_bias(separate).unwrap();
        cpu::DynamicConvBackward::new(DynamicConvBackwardProblem::new(forward, wanted).unwrap())
    };
    let [all, none] = [DynamicConvWanted::ALL, DynamicConvWanted::NONE].map(|wanted| operator(true, wanted));
    let own = operator(false, DynamicConvWanted::ALL);
    let scratch_len = all.scratch_len();
    let run = |operator: &cpu::DynamicConvBackward, args| {
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    type Args<'a> = cpu::DynamicConvBackwardArgs<'a>;
    let (mut wrong_dquery, mut wrong_dweight) = (Outputs::new(6, 5), Outputs::new(6, 5));
    let mut wrong_bias = Outputs::new(1, 6);
    let of_dquery = wrong_rows(&mut wrong_dquery, 5).map(|dquery| run(&all, Args { dquery, ..plain() }));
    each(of_dquery.into_iter().zip(wrong_outputs("dquery", 6, 5)));
    let of_dweight = wrong_elements(&mut wrong_dweight).map(|dweight| run(&all, Args { dweight, ..plain() }));
    each(of_dweight.into_iter().zip(wrong_parameter("dweight", 30)));
    let of_bias =
        wrong_elements(&mut wrong_bias).map(|dweight_bias| run(&all, Args { dweight_bias, ..plain() }));
    each(of_bias.into_iter().zip(wrong_parameter("dweight_bias", 6)));
    let mut surplus_gradient = Outputs::new(6, 6);
    let of_own = generator(some(24), None, None);
    each([
        (run(&all, Args { taps: generator(some(29), bias, query), ..plain() }), short("weight", 30)),
        (run(&all, Args { taps: generator(bf16s(), bias, query), ..plain() }), dtype("weight", BF16)),
        (run(&all, Args { taps: generator(some(30), None, query), ..plain() }), missing("weight_bias")),
        (
            run(&all, Args { taps: generator(some(30), Some(some(5)), query), ..plain() }),
            short("weight_bias", 6),
        ),
        (run(&all, Args { taps: generator(some(30), bias, None), ..plain() }), missing("query")),
        (run(&all, Args { taps: generator(some(30), bias, Some(rows(29))), ..plain() }), short("query", 30)),
        (
            run(&all, Args { taps: generator(some(30), bias, Some(f16_rows())), ..plain() }),
            dtype("query", F16),
        ),
        (run(&all, Args { taps: TapArgs::Given { logits: rows(36) }, ..plain() }), surplus("logits")),
        (run(&own, Args { taps: generator(some(24), None, query), ..plain() }), surplus("query")),
        (run(&own, Args { taps: generator(some(24), bias, None), ..plain() }), surplus("weight_bias")),
        (run(&own, Args { taps: of_own, dquery: None, ..plain() }), surplus("dweight_bias")),
        (run(&own, Args { taps: of_own, dweight_bias: None, ..plain() }), surplus("dquery")),
        (run(&all, Args { seed: None, ..plain() }), missing("seed")),
        (
            run(
                &all,
                Args { dlogits: Some(RowsMut::contiguous(&mut surplus_gradient.calls[..])), ..plain() },
            ),
            surplus("dlogits"),
        ),
        (run(&all, Args { dx: None, ..plain() }), missing("dx")),
        (run(&all, Args { dweight: None, ..plain() }), missing("dweight")),
        (run(&all, Args { dweight_bias: None, ..plain() }), missing("dweight_bias")),
        (run(&all, Args { dquery: None, ..plain() }), missing("dquery")),
        (run(&all, Args { dbias: None, ..plain() }), missing("dbias")),
        (run(&none, Args { dx: None, dweight: None, dweight_bias: None, ..plain() }), surplus("dquery")),
        (all.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
    ]);
    let outputs = [dx, dweight, wrong_dweight, dweight_bias, wrong_bias, dquery, wrong_dquery, dbias];
    assert!(outputs.iter().chain([&surplus_gradient]).all(Outputs::untouched));
}

#[test]
fn span_conv() {
    let Tokens { good: sequences, later, other } = tokens();
    // C = 4, A = 6.
    let [mut dx, mut dquery, mut dvalue] = [4, 6, 6].map(|channels| Outputs::new(6, channels));
    let [mut ddepthwise, mut dpointwise, mut dkey_bias] =
        [(4, 3), (6, 4), (1, 6)].map(|(rows, columns)| Outputs::new(rows, columns));
    let [mut dweight, mut dweight_bias, mut dbias] =
        [(6, 6), (1, 6), (1, 6)].map(|(rows, columns)| Outputs::new(rows, columns));
    let [mut dxs, mut dqueries, mut dvalues] = [&mut dx, &mut dquery, &mut dvalue]
        .map(|outputs| outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous));
    let parameters =
        [&mut ddepthwise, &mut dpointwise, &mut dkey_bias, &mut dweight, &mut dweight_bias, &mut dbias];
    let mut parameters =
        parameters.map(|outputs| outputs.calls.chunks_mut(outputs.len).map(ElementsMut::from));
    let mut plain = || {
        let [ddepthwise, dpointwise, dkey_bias, dweight, dweight_bias, dbias] =
            parameters.each_mut().map(|parameter| parameter.next());
        cpu::SpanConvBackwardArgs {
            sequences: &sequences,
            x: rows(24),
            query: rows(36),
            value: rows(36),
            depthwise: some(12),
            pointwise: some(24),
            key_bias: Some(some(6)),
            weight: some(36),
            weight_bias: Some(some(6)),
            seed: SEED,
            dy: rows(36),
            dx: dxs.next(),
            dquery: dqueries.next(),
            ddepthwise,
            dpointwise,
            dkey_bias,
            dvalue: dvalues.next(),
            dweight,
            dweight_bias,
            dbias,
        }
    };
    let operator = |wanted| {
        let forward = SpanConvProblem::new(4, dropped(6).with_bias(true))
            .unwrap()
            .with_key_bias(true)
            .with_weight_bias(true);
        cpu::SpanConvBackward::new(SpanConvBackwardProblem::new(forward, wanted).unwrap())
    };
    let all = operator(SpanConvWanted::ALL);
    let scratch_len = all.scratch_len();
    let run =
        |operator: &cpu::SpanConvBackward, args| operator.run(args, &mut vec![0.0; operator.scratch_len()]);
    type Args<'a> = cpu::SpanConvBackwardArgs<'a>;
    let (mut wrong_dx, mut wrong_dvalue) = (Outputs::new(6, 4), Outputs::new(6, 6));
    let of_dx = wrong_rows(&mut wrong_dx, 4).map(|dx| run(&all, Args { dx, ..plain() }));
    each(of_dx.into_iter().zip(wrong_outputs("dx", 6, 4)));
    let of_dvalue = wrong_rows(&mut wrong_dvalue, 6).map(|dvalue| run(&all, Args { dvalue, ..plain() }));
    each(of_dvalue.into_iter().zip(wrong_outputs("dvalue", 6, 6)));
    let mut without = |wanted| run(&operator(wanted), plain());
    let most = SpanConvWanted::ALL;
    each([
        (without(SpanConvWanted { x: false, ..most }), surplus("dx")),
        (without(SpanConvWanted { query: false, ..most }), surplus("dquery")),
        (without(SpanConvWanted { depthwise: false, ..most }), surplus("ddepthwise")),
        (without(SpanConvWanted { pointwise: false, ..most }), surplus("dpointwise")),
        (without(SpanConvWanted { key_bias: false, ..most }), surplus("dkey_bias")),
        (without(SpanConvWanted { value: false, ..most }), surplus("dvalue")),
        (without(SpanConvWanted { weight: false, ..most }), surplus("dweight")),
        (without(SpanConvWanted { weight_bias: false, ..most }), surplus("dweight_bias")),
        (without(SpanConvWanted { bias: false, ..most }), surplus("dbias")),
    ]);
    each([
        (run(&all, Args { sequences: &other, ..plain() }), other_sequences()),
        (run(&all, Args { sequences: &later, ..plain() }), missing("value_history")),
        (run(&all, Args { x: rows(23), ..plain() }), short("x", 24)),
        (run(&all, Args { x: f16_rows(), ..plain() }), dtype("x", F16)),
        (run(&all, Args { query: rows(35), ..plain() }), short("query", 36)),
        (run(&all, Args { value: rows(35), ..plain() }), short("value", 36)),
        (run(&all, Args { value: f16_rows(), ..plain() }), dtype("value", F16)),
        (run(&all, Args { depthwise: some(11), ..plain() }), short("depthwise", 12)),
        (run(&all, Args { pointwise: some(23), ..plain() }), short("pointwise", 24)),
        (run(&all, Args { key_bias: None, ..plain() }), missing("key_bias")),
        (run(&all, Args { weight: some(35), ..plain() }), short("weight", 36)),
        (run(&all, Args { weight: bf16s(), ..plain() }), dtype("weight", BF16)),
        (run(&all, Args { weight_bias: None, ..plain() }), missing("weight_bias")),
        (run(&all, Args { seed: None, ..plain() }), missing("seed")),
        (run(&all, Args { dy: rows(35), ..plain() }), short("dy", 36)),
        (run(&all, Args { dy: f16_rows(), ..plain() }), dtype("dy", F16)),
        (run(&all, Args { dx: None, ..plain() }), missing("dx")),
        (run(&all, Args { dquery: None, ..plain() }), missing("dquery")),
        (run(&all, Args { ddepthwise: None, ..plain() }), missing("ddepthwise")),
        (run(&all, Args { dpointwise: None, ..plain() }), missing("dpointwise")),
        (run(&all, Args { dkey_bias: None, ..plain() }), missing("dkey_bias")),
        (run(&all, Args { dvalue: None, ..plain() }), missing("dvalue")),
        (run(&all, Args { dweight: None, ..plain() }), missing("dweight")),
        (run(&all, Args { dweight_bias: None, ..plain() }), missing("dweight_bias")),
        (run(&all, Args { dbias: None, ..plain() }), missing("dbias")),
        (all.run(plain(), &mut vec![0.0; scratch_len - 1]), too_little_scratch(scratch_len)),
    ]);
    let of_tokens = [dx, wrong_dx, dquery, dvalue, wrong_dvalue];
    let of_parameters = [ddepthwise, dpointwise, dkey_bias, dweight, dweight_bias, dbias];
    assert!(of_tokens.iter().chain(&of_parameters).all(Outputs::untouched));
}
