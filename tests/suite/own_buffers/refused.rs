//! What each wrong argument of the CPU room is answered; the output is as it was.

mod gradients;
mod products;

use lightspan::cpu::{self, Elements, ElementsMut, Rows, RowsMut, TapArgs};
use lightspan::ops::AttentionKind;
use lightspan::problem::{
    Activation, AppendProblem, AttentionProblem, Convolution, DynamicConvProblem, HistoryProblem,
    LightConvProblem, LinearProblem, NormKind, NormProblem, NormResidual, SpanConvProblem, SpanKeyProblem,
};
use lightspan::{DType, DropoutRate, Error, Sequences, Window, bf16, f16};

use crate::own_buffers::UNTOUCHED;
use crate::support::each;

use DType::{BF16, F16, F32};

/// Enough numbers for any argument here, and too many for none.
const ONES: [f32; 200] = [1.0; 200];
const BF16_ONES: [bf16; 200] = [bf16::ONE; 200];
const F16_ONES: [f16; 200] = [f16::ONE; 200];

/// Six tokens in two sequences, and others that do not fit.
struct Tokens {
    good: Sequences,
    later: Sequences,
    other: Sequences,
}

fn tokens() -> Tokens {
    let good = Sequences::batch(2, 3).unwrap();
    Tokens { later: good.clone().after(&[0, 1]).unwrap(), good, other: Sequences::batch(3, 2).unwrap() }
}

/// H = 2, K = 3 (so H K = 6), a history of two tokens for each sequence.
fn conv(channels: usize) -> Convolution {
    let window = Window::causal(3).unwrap();
    Convolution::new(tokens().good.shape(), channels, 2, window, F32).unwrap()
}

fn full(channels: usize) -> Convolution {
    conv(channels).with_bias(true).with_history(true).unwrap()
}

/// With dropout, whose seed each call gives.
fn dropped(channels: usize) -> Convolution {
    conv(channels).with_dropout(Some(DropoutRate::new(0.5).unwrap()))
}

fn rows(len: usize) -> Rows<'static> {
    Rows::contiguous(&ONES[..len])
}

fn some(len: usize) -> Elements<'static> {
    (&ONES[..len]).into()
}

fn bf16s() -> Elements<'static> {
    (&BF16_ONES[..]).into()
}

fn f16_rows() -> Rows<'static> {
    Rows::contiguous(&F16_ONES[..])
}

fn missing(tensor: &'static str) -> Error {
    Error::Missing { tensor }
}

fn surplus(tensor: &'static str) -> Error {
    Error::Surplus { tensor }
}

/// One element less than is needed.
fn short(tensor: &'static str, expected: usize) -> Error {
    Error::Length { tensor, expected, got: expected - 1 }
}

fn dtype(tensor: &'static str, got: DType) -> Error {
    Error::DType { tensor, expected: vec![F32], got }
}

fn stride(tensor: &'static str, channels: usize) -> Error {
    Error::Stride { tensor, stride: channels - 1, channels }
}

fn other_sequences() -> Error {
    let Tokens { good, other, .. } = tokens();
    Error::Sequences { expected: good.shape().to_string(), got: other.shape().to_string() }
}

/// Outputs of six rows of `channels` numbers, one for each call, and a wrong one of each kind.
struct Outputs {
    len: usize,
    calls: Vec<f32>,
    short: Vec<f32>,
    narrow: Vec<f32>,
    half: Vec<f16>,
}

impl Outputs {
    fn new(rows: usize, channels: usize) -> Self {
        let len = rows * channels;
        Outputs {
            len,
            calls: vec![UNTOUCHED; 100 * len],
            short: vec![UNTOUCHED; len - 1],
            narrow: vec![UNTOUCHED; len],
            half: vec![f16::from_f32(UNTOUCHED); len],
        }
    }

    fn untouched(&self) -> bool {
        let singles = self.calls.iter().chain(&self.short).chain(&self.narrow);
        singles.copied().chain(self.half.iter().map(|y| y.to_f32())).all(|y| y == UNTOUCHED)
    }
}

/// What is wrong with y: too short, its rows overlap, another type.
fn wrong_outputs(tensor: &'static str, rows: usize, channels: usize) -> [Error; 3] {
    [short(tensor, rows * channels), stride(tensor, channels), dtype(tensor, F16)]
}

#[test]
fn light_conv() {
    let Tokens { good: sequences, later, other } = tokens();
    let mut outputs = Outputs::new(6, 4);
    let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut y = || ys.next().unwrap();
    let plain = |y| cpu::LightConvArgs {
        sequences: &sequences,
        x: rows(24),
        weight: some(6),
        bias: None,
        history: None,
        seed: None,
        y,
    };
    let with = |y| cpu::LightConvArgs { bias: Some(some(4)), history: Some(some(16)), ..plain(y) };
    let run = |conv, args| {
        let operator = cpu::LightConv::new(LightConvProblem::new(conv));
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    let without = |args| run(conv(4), args);
    let all = |args| run(full(4), args);
    let of_y = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 3),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    each(of_y.map(|y| without(plain(y))).into_iter().zip(wrong_outputs("y", 6, 4)));
    each([
        (without(cpu::LightConvArgs { sequences: &other, ..plain(y()) }), other_sequences()),
        (without(cpu::LightConvArgs { sequences: &later, ..plain(y()) }), missing("history")),
        (without(cpu::LightConvArgs { x: rows(23), ..plain(y()) }), short("x", 24)),
        (without(cpu::LightConvArgs { x: f16_rows(), ..plain(y()) }), dtype("x", F16)),
        (without(cpu::LightConvArgs { x: Rows::strided(&ONES[..], 3), ..plain(y()) }), stride("x", 4)),
        (without(cpu::LightConvArgs { weight: some(5), ..plain(y()) }), short("weight", 6)),
        (without(cpu::LightConvArgs { weight: bf16s(), ..plain(y()) }), dtype("weight", BF16)),
        (without(cpu::LightConvArgs { bias: Some(some(4)), ..plain(y()) }), surplus("bias")),
        (without(cpu::LightConvArgs { seed: Some(1), ..plain(y()) }), surplus("seed")),
        (run(dropped(4), plain(y())), missing("seed")),
        (without(cpu::LightConvArgs { history: Some(some(16)), ..plain(y()) }), surplus("history")),
        (all(cpu::LightConvArgs { bias: None, ..with(y()) }), missing("bias")),
        (all(cpu::LightConvArgs { bias: Some(some(3)), ..with(y()) }), short("bias", 4)),
        (all(cpu::LightConvArgs { bias: Some(bf16s()), ..with(y()) }), dtype("bias", BF16)),
        (all(cpu::LightConvArgs { history: None, ..with(y()) }), missing("history")),
        (all(cpu::LightConvArgs { history: Some(some(15)), ..with(y()) }), short("history", 16)),
        (all(cpu::LightConvArgs { history: Some(bf16s()), ..with(y()) }), dtype("history", BF16)),
    ]);
    assert!(outputs.untouched());
}

#[test]
fn dynamic_conv() {
    let Tokens { good: sequences, later, other } = tokens();
    let mut outputs = Outputs::new(6, 4);
    let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut y = || ys.next().unwrap();
    let logits = |logits| TapArgs::Given { logits };
    let generator = |weight, weight_bias, query| TapArgs::Generated { weight, weight_bias, query };
    let args = |taps, y| cpu::DynamicConvArgs {
        sequences: &sequences,
        x: rows(24),
        taps,
        bias: None,
        history: None,
        seed: None,
        y,
    };
    let run = |problem: lightspan::Result<DynamicConvProblem>, args| {
        let operator = cpu::DynamicConv::new(problem.unwrap());
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };

    let given = |args| run(DynamicConvProblem::given(conv(4)), args);
    let plain = |y| args(logits(rows(36)), y);
    let of_y = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 3),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    each(of_y.map(|y| given(plain(y))).into_iter().zip(wrong_outputs("y", 6, 4)));
    let own = generator(some(24), None, None);
    each([
        (given(cpu::DynamicConvArgs { sequences: &other, ..plain(y()) }), other_sequences()),
        (given(cpu::DynamicConvArgs { sequences: &later, ..plain(y()) }), missing("history")),
        (given(cpu::DynamicConvArgs { x: rows(23), ..plain(y()) }), short("x", 24)),
        (given(cpu::DynamicConvArgs { x: f16_rows(), ..plain(y()) }), dtype("x", F16)),
        (given(cpu::DynamicConvArgs { bias: Some(some(4)), ..plain(y()) }), surplus("bias")),
        (given(cpu::DynamicConvArgs { seed: Some(1), ..plain(y()) }), surplus("seed")),
        (run(DynamicConvProblem::given(dropped(4)), plain(y())), missing("seed")),
        (given(cpu::DynamicConvArgs { history: Some(some(16)), ..plain(y()) }), surplus("history")),
        (given(args(logits(rows(35)), y())), short("logits", 36)),
        (given(args(logits(f16_rows()), y())), dtype("logits", F16)),
        (given(args(logits(Rows::strided(&ONES[..], 5)), y())), stride("logits", 6)),
        (given(args(own, y())), missing("logits")),
    ]);

    let generated = |args| run(DynamicConvProblem::generated(conv(4)), args);
    each([
        (generated(args(logits(rows(36)), y())), surplus("logits")),
        (generated(args(generator(some(23), None, None), y())), short("weight", 24)),
        (generated(args(generator(bf16s(), None, None), y())), dtype("weight", BF16)),
        (generated(args(generator(some(24), Some(some(6)), None), y())), surplus("weight_bias")),
        (generated(args(generator(some(24), None, Some(rows(24))), y())), surplus("query")),
    ]);

    // A query of five channels and everything else.
    let all = |args| {
        let problem = DynamicConvProblem::generated(full(4));
        run(problem.and_then(|problem| problem.with_query(5, F32)?.with_weight_bias(true)), args)
    };
    let taps = |weight_bias, query| generator(some(30), weight_bias, query);
    let (bias, query) = (Some(some(6)), Some(rows(30)));
    let with =
        |taps, y| cpu::DynamicConvArgs { bias: Some(some(4)), history: Some(some(16)), ..args(taps, y) };
    let good = |y| with(taps(bias, query), y);
    each([
        (all(with(generator(some(29), bias, query), y())), short("weight", 30)),
        (all(with(taps(None, query), y())), missing("weight_bias")),
        (all(with(taps(Some(some(5)), query), y())), short("weight_bias", 6)),
        (all(with(taps(Some(bf16s()), query), y())), dtype("weight_bias", BF16)),
        (all(with(taps(bias, None), y())), missing("query")),
        (all(with(taps(bias, Some(rows(29))), y())), short("query", 30)),
        (all(with(taps(bias, Some(f16_rows())), y())), dtype("query", F16)),
        (all(with(taps(bias, Some(Rows::strided(&ONES[..], 4))), y())), stride("query", 5)),
        (all(cpu::DynamicConvArgs { bias: None, ..good(y()) }), missing("bias")),
        (all(cpu::DynamicConvArgs { bias: Some(some(3)), ..good(y()) }), short("bias", 4)),
        (all(cpu::DynamicConvArgs { history: None, ..good(y()) }), missing("history")),
        (all(cpu::DynamicConvArgs { history: Some(some(15)), ..good(y()) }), short("history", 16)),
        (all(cpu::DynamicConvArgs { history: Some(bf16s()), ..good(y()) }), dtype("history", BF16)),
    ]);
    assert!(outputs.untouched());
}

#[test]
fn span_key() {
    let Tokens { good: sequences, later, other } = tokens();
    // C = 4, A = 5.
    let mut outputs = Outputs::new(6, 5);
    let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut z = || ys.next().unwrap();
    let plain = |z| cpu::SpanKeyArgs {
        sequences: &sequences,
        x: rows(24),
        query: rows(30),
        depthwise: some(12),
        pointwise: some(20),
        key_bias: None,
        history: None,
        z,
    };
    let with = |z| cpu::SpanKeyArgs { key_bias: Some(some(5)), history: Some(some(16)), ..plain(z) };
    let run = |full: bool, args| {
        let window = Window::causal(3).unwrap();
        let problem = SpanKeyProblem::new(sequences.shape(), 4, 5, window, F32)
            .and_then(|key| key.with_key_bias(full).with_history(full));
        let operator = cpu::SpanKey::new(problem.unwrap());
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    let without = |args| run(false, args);
    let all = |args| run(true, args);
    let of_z = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 4),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    each(of_z.map(|z| without(plain(z))).into_iter().zip(wrong_outputs("z", 6, 5)));
    each([
        (without(cpu::SpanKeyArgs { sequences: &other, ..plain(z()) }), other_sequences()),
        (without(cpu::SpanKeyArgs { sequences: &later, ..plain(z()) }), missing("history")),
        (without(cpu::SpanKeyArgs { x: rows(23), ..plain(z()) }), short("x", 24)),
        (without(cpu::SpanKeyArgs { x: f16_rows(), ..plain(z()) }), dtype("x", F16)),
        (without(cpu::SpanKeyArgs { query: rows(29), ..plain(z()) }), short("query", 30)),
        (without(cpu::SpanKeyArgs { query: f16_rows(), ..plain(z()) }), dtype("query", F16)),
        (without(cpu::SpanKeyArgs { query: Rows::strided(&ONES[..], 4), ..plain(z()) }), stride("query", 5)),
        (without(cpu::SpanKeyArgs { depthwise: some(11), ..plain(z()) }), short("depthwise", 12)),
        (without(cpu::SpanKeyArgs { depthwise: bf16s(), ..plain(z()) }), dtype("depthwise", BF16)),
        (without(cpu::SpanKeyArgs { pointwise: some(19), ..plain(z()) }), short("pointwise", 20)),
        (without(cpu::SpanKeyArgs { pointwise: bf16s(), ..plain(z()) }), dtype("pointwise", BF16)),
        (without(cpu::SpanKeyArgs { key_bias: Some(some(5)), ..plain(z()) }), surplus("key_bias")),
        (without(cpu::SpanKeyArgs { history: Some(some(16)), ..plain(z()) }), surplus("history")),
        (all(cpu::SpanKeyArgs { key_bias: None, ..with(z()) }), missing("key_bias")),
        (all(cpu::SpanKeyArgs { key_bias: Some(some(4)), ..with(z()) }), short("key_bias", 5)),
        (all(cpu::SpanKeyArgs { key_bias: Some(bf16s()), ..with(z()) }), dtype("key_bias", BF16)),
        (all(cpu::SpanKeyArgs { history: None, ..with(z()) }), missing("history")),
        (all(cpu::SpanKeyArgs { history: Some(some(15)), ..with(z()) }), short("history", 16)),
    ]);
    assert!(outputs.untouched());
}

#[test]
fn span_conv() {
    let Tokens { good: sequences, later, other } = tokens();
    // C = 4, A = 6.
    let mut outputs = Outputs::new(6, 6);
    let mut ys = outputs.calls.chunks_mut(outputs.len).map(RowsMut::contiguous);
    let mut y = || ys.next().unwrap();
    let plain = |y| cpu::SpanConvArgs {
        sequences: &sequences,
        x: rows(24),
        query: rows(36),
        value: rows(36),
        depthwise: some(12),
        pointwise: some(24),
        key_bias: None,
        weight: some(36),
        weight_bias: None,
        bias: None,
        history: None,
        value_history: None,
        seed: None,
        y,
    };
    let with = |y| cpu::SpanConvArgs {
        key_bias: Some(some(6)),
        weight_bias: Some(some(6)),
        bias: Some(some(6)),
        history: Some(some(16)),
        value_history: Some(some(24)),
        ..plain(y)
    };
    let run = |is_full: bool, args| {
        let problem = SpanConvProblem::new(4, if is_full { full(6) } else { conv(6) })
            .unwrap()
            .with_key_bias(is_full)
            .with_weight_bias(is_full);
        let operator = cpu::SpanConv::new(problem);
        operator.run(args, &mut vec![0.0; operator.scratch_len()])
    };
    let without = |args| run(false, args);
    let all = |args| run(true, args);
    let of_y = [
        RowsMut::contiguous(&mut outputs.short[..]),
        RowsMut::strided(&mut outputs.narrow[..], 5),
        RowsMut::contiguous(&mut outputs.half[..]),
    ];
    each(of_y.map(|y| without(plain(y))).into_iter().zip(wrong_outputs("y", 6, 6)));
    each([
        (without(cpu::SpanConvArgs { sequences: &other, ..plain(y()) }), other_sequences()),
        // Both histories are missing: that of the values is looked at first.
        (without(cpu::SpanConvArgs { sequences: &later, ..plain(y()) }), missing("value_history")),
        (without(cpu::SpanConvArgs { x: rows(23), ..plain(y()) }), short("x", 24)),
        (without(cpu::SpanConvArgs { x: f16_rows(), ..plain(y()) }), dtype("x", F16)),
        (without(cpu::SpanConvArgs { query: rows(35), ..plain(y()) }), short("query", 36)),
        (without(cpu::SpanConvArgs { query: f16_rows(), ..plain(y()) }), dtype("query", F16)),
        // The convolved tokens are the value here, and x is another input.
        (without(cpu::SpanConvArgs { value: rows(35), ..plain(y()) }), short("value", 36)),
        (without(cpu::SpanConvArgs { value: f16_rows(), ..plain(y()) }), dtype("value", F16)),
        (without(cpu::SpanConvArgs { value: Rows::strided(&ONES[..], 5), ..plain(y()) }), stride("value", 6)),
        (without(cpu::SpanConvArgs { depthwise: some(11), ..plain(y()) }), short("depthwise", 12)),
        (without(cpu::SpanConvArgs { pointwise: some(23), ..plain(y()) }), short("pointwise", 24)),
        (without(cpu::SpanConvArgs { weight: some(35), ..plain(y()) }), short("weight", 36)),
        (without(cpu::SpanConvArgs { weight: bf16s(), ..plain(y()) }), dtype("weight", BF16)),
        (without(cpu::SpanConvArgs { key_bias: Some(some(6)), ..plain(y()) }), surplus("key_bias")),
        (without(cpu::SpanConvArgs { weight_bias: Some(some(6)), ..plain(y()) }), surplus("weight_bias")),
        (without(cpu::SpanConvArgs { seed: Some(1), ..plain(y()) }), surplus("seed")),
        (without(cpu::SpanConvArgs { bias: Some(some(6)), ..plain(y()) }), surplus("bias")),
        (without(cpu::SpanConvArgs { history: Some(some(16)), ..plain(y()) }), surplus("history")),
        (
            without(cpu::SpanConvArgs { value_history: Some(some(24)), ..plain(y()) }),
            surplus("value_history"),
        ),
    ]);
    each([
        (all(cpu::SpanConvArgs { key_bias: None, ..with(y()) }), missing("key_bias")),
        (all(cpu::SpanConvArgs { weight_bias: None, ..with(y()) }), missing("weight_bias")),
        (all(cpu::SpanConvArgs { weight_bias: Some(some(5)), ..with(y()) }), short("weight_bias", 6)),
        (all(cpu::SpanConvArgs { bias: None, ..with(y()) }), missing("bias")),
        (all(cpu::SpanConvArgs { bias: Some(some(5)), ..with(y()) }), short("bias", 6)),
        (all(cpu::SpanConvArgs { history: None, ..with(y()) }), missing("history")),
        (all(cpu::SpanConvArgs { history: Some(some(15)), ..with(y()) }), short("history", 16)),
        (all(cpu::SpanConvArgs { history: Some(bf16s()), ..with(y()) }), dtype("history", BF16)),
        (all(cpu::SpanConvArgs { value_history: None, ..with(y()) }), missing("value_history")),
        (all(cpu::SpanConvArgs { value_history: Some(some(23)), ..with(y()) }), short("value_history", 24)),
        (all(cpu::SpanConvArgs { value_history: Some(bf16s()), ..with(y()) }), dtype("value_history", BF16)),
    ]);
    assert!(outputs.untouched());
}
