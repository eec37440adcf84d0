//! The same of linear layers, norms and attention, and of what a decoder keeps.

use super::*;

#[test]
fn linear() {
    let mut outputs = Outputs::new(6, 5);
    let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut y = || ys.next().unwrap();
    let plain = |y| cpu::LinearArgs { x: rows(24), weight: some(20), bias: None, residual: None, y };
    let run = |bias, args| {
        let problem = LinearProblem::new(6, 4, 5, F32).unwrap().with_bias(bias);
        let operator = cpu::Linear::new(problem);
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    let of_y = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 4),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    each(of_y.map(|y| run(false, plain(y))).into_iter().zip(wrong_outputs("y", 6, 5)));
    each([
        (run(false, cpu::LinearArgs { x: rows(23), ..plain(y()) }), short("x", 24)),
        (run(false, cpu::LinearArgs { x: f16_rows(), ..plain(y()) }), dtype("x", F16)),
        (run(false, cpu::LinearArgs { x: Rows::strided(&ONES[..], 3), ..plain(y()) }), stride("x", 4)),
        (run(false, cpu::LinearArgs { weight: some(19), ..plain(y()) }), short("weight", 20)),
        (run(false, cpu::LinearArgs { weight: bf16s(), ..plain(y()) }), dtype("weight", BF16)),
        (run(false, cpu::LinearArgs { bias: Some(some(5)), ..plain(y()) }), surplus("bias")),
        (run(true, plain(y())), missing("bias")),
        (run(true, cpu::LinearArgs { bias: Some(some(4)), ..plain(y()) }), short("bias", 5)),
        (run(true, cpu::LinearArgs { bias: Some(bf16s()), ..plain(y()) }), dtype("bias", BF16)),
        (run(false, cpu::LinearArgs { residual: Some(rows(30)), ..plain(y()) }), surplus("residual")),
    ]);
    // A residual, and the weight and bias of a GLU, which have two rows for each output.
    let run = |args| {
        let problem =
            LinearProblem::new(6, 4, 5, F32).and_then(|problem| problem.with_activation(Activation::Glu));
        let operator = cpu::Linear::new(problem.unwrap().with_bias(true).with_residual(true));
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    let full =
        |y| cpu::LinearArgs { weight: some(40), bias: Some(some(10)), residual: Some(rows(30)), ..plain(y) };
    let residual = |residual, y| cpu::LinearArgs { residual, ..full(y) };
    each([
        (run(cpu::LinearArgs { weight: some(39), ..full(y()) }), short("weight", 40)),
        (run(cpu::LinearArgs { bias: Some(some(9)), ..full(y()) }), short("bias", 10)),
        (run(residual(None, y())), missing("residual")),
        (run(residual(Some(rows(29)), y())), short("residual", 30)),
        (run(residual(Some(f16_rows()), y())), dtype("residual", F16)),
        (run(residual(Some(Rows::strided(&ONES[..], 4)), y())), stride("residual", 5)),
    ]);
    assert!(outputs.untouched());
}

#[test]
fn norm() {
    let mut outputs = Outputs::new(6, 4);
    let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut y = || ys.next().unwrap();
    let plain = |y| cpu::NormArgs { x: rows(24), residual: None, weight: some(4), bias: None, y, sum: None };
    let run = |residual, bias, args| {
        let problem = NormProblem::new(NormKind::Layer, 6, 4, F32).unwrap();
        let operator = cpu::Norm::new(problem.with_residual(residual).with_bias(bias));
        assert_eq!(operator.problem().has_bias(), bias);
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    let of_y = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 3),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    let none = NormResidual::None;
    each(of_y.map(|y| run(none, false, plain(y))).into_iter().zip(wrong_outputs("y", 6, 4)));
    let (after, before) = (NormResidual::After, NormResidual::Before { sum: true });
    let added = |residual, y| cpu::NormArgs { residual: Some(residual), ..plain(y) };
    let summed = |sum, y| cpu::NormArgs { sum, ..added(rows(24), y) };
    let (mut sums, mut few, mut halves) = ([0.0f32; 24], [0.0f32; 23], [f16::ONE; 24]);
    each([
        (run(none, false, cpu::NormArgs { x: rows(23), ..plain(y()) }), short("x", 24)),
        (run(none, false, cpu::NormArgs { x: f16_rows(), ..plain(y()) }), dtype("x", F16)),
        (run(none, false, cpu::NormArgs { x: Rows::strided(&ONES[..], 3), ..plain(y()) }), stride("x", 4)),
        (run(none, false, cpu::NormArgs { weight: some(3), ..plain(y()) }), short("weight", 4)),
        (run(none, false, cpu::NormArgs { weight: bf16s(), ..plain(y()) }), dtype("weight", BF16)),
        (run(none, false, cpu::NormArgs { bias: Some(some(4)), ..plain(y()) }), surplus("bias")),
        (run(none, true, plain(y())), missing("bias")),
        (run(none, true, cpu::NormArgs { bias: Some(some(3)), ..plain(y()) }), short("bias", 4)),
        (run(none, false, added(rows(24), y())), surplus("residual")),
        (run(after, false, plain(y())), missing("residual")),
        (run(after, false, added(rows(23), y())), short("residual", 24)),
        (run(after, false, added(f16_rows(), y())), dtype("residual", F16)),
        (run(before, false, added(rows(24), y())), missing("sum")),
        (run(after, false, summed(Some(RowsMut::contiguous(&mut sums[..])), y())), surplus("sum")),
        (run(before, false, summed(Some(RowsMut::contiguous(&mut few[..])), y())), short("sum", 24)),
        (run(before, false, summed(Some(RowsMut::contiguous(&mut halves[..])), y())), dtype("sum", F16)),
    ]);
    let operator = cpu::Norm::new(NormProblem::new(NormKind::Rms, 6, 4, F32).unwrap());
    let (expected, got) = (operator.scratch_len(), operator.scratch_len() - 1);
    assert_eq!(operator.run(plain(y()), &mut vec![0.0; got]), Err(Error::Scratch { expected, got }));
    assert!(sums.iter().chain(&few).all(|&sum| sum == 0.0));
    assert!(outputs.untouched());
}

#[test]
fn attention() {
    let Tokens { good: queries, other, .. } = tokens();
    let keys = Sequences::batch(2, 5).unwrap();
    for kind in [AttentionKind::Naive, AttentionKind::Fused] {
        let mut outputs = Outputs::new(6, 4);
        let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
        let mut y = || ys.next().unwrap();
        let plain = |y| cpu::AttentionArgs {
            queries: &queries,
            keys: &keys,
            q: rows(24),
            k: rows(40),
            v: rows(40),
            y,
        };
        let run = |args| {
            let problem = AttentionProblem::new(queries.shape(), keys.shape(), 2, 2, F32).unwrap();
            let operator = cpu::Attention::new(problem, kind);
            operator.run(args, &mut vec![0.0; operator.scratch_len(&queries, &keys)])
        };
        let of_y = [
            RowsMut::contiguous(&mut outputs.short[..]),
            RowsMut::strided(&mut outputs.narrow[..], 3),
            RowsMut::contiguous(&mut outputs.half[..]),
        ];
        each(of_y.map(|y| run(plain(y))).into_iter().zip(wrong_outputs("y", 6, 4)));
        let not = |expected: &Sequences, got: &Sequences| Error::Sequences {
            expected: expected.shape().to_string(),
            got: got.shape().to_string(),
        };
        each([
            (run(cpu::AttentionArgs { queries: &other, ..plain(y()) }), not(&queries, &other)),
            (run(cpu::AttentionArgs { keys: &queries, ..plain(y()) }), not(&keys, &queries)),
            (run(cpu::AttentionArgs { q: rows(23), ..plain(y()) }), short("q", 24)),
            (run(cpu::AttentionArgs { q: f16_rows(), ..plain(y()) }), dtype("q", F16)),
            (run(cpu::AttentionArgs { k: rows(39), ..plain(y()) }), short("k", 40)),
            (run(cpu::AttentionArgs { k: f16_rows(), ..plain(y()) }), dtype("k", F16)),
            (run(cpu::AttentionArgs { v: rows(39), ..plain(y()) }), short("v", 40)),
            (run(cpu::AttentionArgs { v: f16_rows(), ..plain(y()) }), dtype("v", F16)),
            (run(cpu::AttentionArgs { v: Rows::strided(&ONES[..], 3), ..plain(y()) }), stride("v", 4)),
        ]);
        assert!(outputs.untouched());
    }
}

#[test]
fn history() {
    let Tokens { good: sequences, other, .. } = tokens();
    // Two sequences remember two tokens of four channels each.
    let mut outputs = Outputs::new(4, 4);
    let mut nexts = outputs.calls.chunks_mut(outputs.len).map(Into::into);
    let mut next = || nexts.next().unwrap();
    let plain = |next| cpu::HistoryArgs { sequences: &sequences, x: rows(24), history: some(16), next };
    let operator = cpu::History::new(HistoryProblem::new(conv(4)).unwrap());
    let run = |args| operator.run(args);
    each([
        (run(plain((&mut outputs.short[..]).into())), short("next", 16)),
        (run(plain((&mut outputs.half[..]).into())), dtype("next", F16)),
        (run(cpu::HistoryArgs { sequences: &other, ..plain(next()) }), other_sequences()),
        (run(cpu::HistoryArgs { x: rows(23), ..plain(next()) }), short("x", 24)),
        (run(cpu::HistoryArgs { x: f16_rows(), ..plain(next()) }), dtype("x", F16)),
        (run(cpu::HistoryArgs { x: Rows::strided(&ONES[..], 3), ..plain(next()) }), stride("x", 4)),
        (run(cpu::HistoryArgs { history: some(15), ..plain(next()) }), short("history", 16)),
        (run(cpu::HistoryArgs { history: bf16s(), ..plain(next()) }), dtype("history", BF16)),
    ]);
    assert!(outputs.untouched());
}

#[test]
fn append() {
    let Tokens { good: sequences, later, other } = tokens();
    // Room for four tokens of each of two sequences, four channels each.
    let mut outputs = Outputs::new(8, 4);
    let mut caches = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut cache = || caches.next().unwrap();
    let plain = |cache| cpu::AppendArgs { sequences: &sequences, x: rows(24), cache };
    let run_in = |room, args| {
        cpu::Append::new(AppendProblem::new(tokens().good.shape(), 4, room, F32).unwrap()).run(args)
    };
    let run = |args| run_in(4, args);
    let of_cache = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 3),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    each(of_cache.map(|cache| run(plain(cache))).into_iter().zip(wrong_outputs("cache", 8, 4)));
    each([
        (run(cpu::AppendArgs { sequences: &other, ..plain(cache()) }), other_sequences()),
        (run(cpu::AppendArgs { x: rows(23), ..plain(cache()) }), short("x", 24)),
        (run(cpu::AppendArgs { x: f16_rows(), ..plain(cache()) }), dtype("x", F16)),
        (run(cpu::AppendArgs { x: Rows::strided(&ONES[..], 3), ..plain(cache()) }), stride("x", 4)),
        (
            run_in(3, cpu::AppendArgs { sequences: &later, ..plain(cache()) }),
            Error::CacheRoom { sequence: 1, tokens: 4, room: 3 },
        ),
        (run_in(2, plain(cache())), Error::CacheRoom { sequence: 0, tokens: 3, room: 2 }),
    ]);
    assert!(outputs.untouched());
}
