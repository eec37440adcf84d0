//! What each bad call is answered: the error, with every number in it.

mod decoding;
mod problems;
mod tables;

use lightspan::ops::{
    self, AttentionOptions, ConvOptions, DynamicConvOptions, NormOptions, Residual, SpanConvHistory,
    SpanConvOptions, SpanConvTensors, SpanKeyOptions, SpanKeyTensors,
};
use lightspan::problem::Activation;
use lightspan::{DType, Device, Dims, Error, Sequences, Tensor, Window, bf16};

use crate::support::each;

use DType::{BF16, F16, F32};

fn window(width: usize) -> Window {
    Window::same(width).unwrap()
}

fn shape<const N: usize, const M: usize>(
    tensor: &'static str,
    expected: [usize; N],
    got: [usize; M],
) -> Error {
    Error::Shape { tensor, expected: expected.into(), got: got.into() }
}

fn any_shape<const N: usize, const M: usize>(
    tensor: &'static str,
    expected: [Option<usize>; N],
    got: [usize; M],
) -> Error {
    Error::Shape { tensor, expected: expected.into(), got: got.into() }
}

fn dtype(tensor: &'static str, expected: DType, got: DType) -> Error {
    Error::DType { tensor, expected: vec![expected], got }
}

fn zeros<const N: usize>(shape: [usize; N], dtype: DType) -> Tensor {
    Tensor::zeros(&shape, dtype, &Device::cpu()).unwrap()
}

#[test]
fn light_conv() {
    let (x, weight) = (zeros([2, 5, 6], F16), zeros([3, 4], F16));
    let causal = Window::causal(4).unwrap();
    let run =
        |x: &Tensor, weight: &Tensor, options: ConvOptions<'_>| ops::light_conv(x, weight, causal, &options);
    let plain = ConvOptions::default();
    let bias = |tensor| ConvOptions { bias: Some(tensor), ..plain };
    let batch = Sequences::batch(2, 5).unwrap();
    let history = |tensor| ConvOptions { history: Some(tensor), sequences: Some(&batch), ..plain };
    let padded = Sequences::padded(4, &[1, 2]).unwrap();
    let packed = Sequences::packed(&[0, 3, 10]).unwrap();
    let later = Sequences::batch(2, 5).unwrap().after(&[0, 3]).unwrap();
    let with = |sequences| ConvOptions { sequences: Some(sequences), ..plain };
    each([
        (run(&zeros([5, 6], F16), &weight, plain), any_shape("x", [None, None, None], [5, 6])),
        (run(&x, &zeros([3], F16), plain), any_shape("weight", [None, None], [3])),
        (run(&x, &zeros([3, 5], F16), plain), shape("weight", [3, 4], [3, 5])),
        (run(&x, &zeros([4, 4], F16), plain), Error::Heads { heads: 4, channels: 6 }),
        (
            run(&x, &zeros([3, 4], BF16), plain),
            Error::DType { tensor: "weight", expected: vec![F16, F32], got: BF16 },
        ),
        (run(&x, &weight, bias(&zeros([5], F16))), shape("bias", [6], [5])),
        (run(&x, &weight, bias(&zeros([6], F32))), dtype("bias", F16, F32)),
        (run(&x, &weight, history(&zeros([2, 2, 6], F16))), shape("history", [2, 3, 6], [2, 2, 6])),
        (run(&x, &weight, history(&zeros([2, 3, 6], F32))), dtype("history", F16, F32)),
        (run(&x, &weight, with(&padded)), any_shape("x", [Some(2), Some(4), None], [2, 5, 6])),
        (run(&x, &weight, with(&packed)), any_shape("x", [Some(10), None], [2, 5, 6])),
        (run(&x, &weight, with(&later)), Error::Missing { tensor: "history" }),
        (
            ops::light_conv(&x, &weight, window(4), &history(&zeros([2, 3, 6], F16))),
            Error::HistoryNotCausal { left: 1, width: 4, dilation: 1, reach: 3 },
        ),
    ]);
    let into = |mut y: Tensor| ops::light_conv_into(&mut y, &x, &weight, causal, &plain);
    each([
        (into(zeros([2, 5, 5], F16)), shape("y", [2, 5, 6], [2, 5, 5])),
        (into(zeros([2, 5, 6], F32)), dtype("y", F16, F32)),
    ]);
}

#[test]
fn dynamic_conv() {
    let (x, weight) = (zeros([2, 5, 6], F32), zeros([12, 6], F32));
    let causal = Window::causal(4).unwrap();
    let run =
        |weight: &Tensor, options: DynamicConvOptions<'_>| ops::dynamic_conv(&x, weight, 3, causal, &options);
    let plain = DynamicConvOptions::default();
    let query = |tensor| DynamicConvOptions { query: Some(tensor), ..plain };
    let weight_bias = |tensor| DynamicConvOptions { weight_bias: Some(tensor), ..plain };
    each([
        (run(&zeros([11, 6], F32), plain), shape("weight", [12, 6], [11, 6])),
        (run(&zeros([12, 5], F32), plain), shape("weight", [12, 6], [12, 5])),
        (run(&weight, weight_bias(&zeros([3], F32))), shape("weight_bias", [12], [3])),
        (run(&weight, query(&zeros([2, 4, 6], F32))), shape("query", [2, 5, 6], [2, 4, 6])),
        (run(&weight, query(&zeros([2, 5, 9], F32))), shape("weight", [12, 9], [12, 6])),
        (
            run(&weight, query(&zeros([2, 5, 6], F16))),
            Error::DType { tensor: "query", expected: vec![F32], got: F16 },
        ),
        (ops::dynamic_conv(&x, &weight, 4, causal, &plain), Error::Heads { heads: 4, channels: 6 }),
    ]);
    let given = |logits: &Tensor| ops::dynamic_conv_given(&x, logits, causal, &ConvOptions::default());
    let logits = [Some(2), Some(5), None, Some(4)];
    each([
        (given(&zeros([2, 5, 12], F32)), any_shape("logits", logits, [2, 5, 12])),
        (given(&zeros([2, 5, 3, 5], F32)), shape("logits", [2, 5, 3, 4], [2, 5, 3, 5])),
        (given(&zeros([2, 5, 4, 4], F32)), Error::Heads { heads: 4, channels: 6 }),
        (given(&zeros([2, 5, 3, 4], F16)), Error::DType { tensor: "logits", expected: vec![F32], got: F16 }),
    ]);
    let (logits, options) = (zeros([2, 5, 3, 4], F32), ConvOptions::default());
    let into = |mut y: Tensor| ops::dynamic_conv_into(&mut y, &x, &weight, 3, causal, &plain);
    let given_into = |mut y: Tensor| ops::dynamic_conv_given_into(&mut y, &x, &logits, causal, &options);
    each([
        (into(zeros([2, 6, 5], F32)), shape("y", [2, 5, 6], [2, 6, 5])),
        (into(zeros([2, 5, 6], BF16)), dtype("y", F32, BF16)),
        (given_into(zeros([10, 6], F32)), shape("y", [2, 5, 6], [10, 6])),
        (given_into(zeros([2, 5, 6], F16)), dtype("y", F32, F16)),
    ]);
}

#[test]
fn span_key_and_span_conv() {
    let [x, query, value] = [6, 8, 8].map(|channels| zeros([2, 5, channels], F32));
    let [depthwise, pointwise, weight] = [[6, 3], [8, 6], [12, 8]].map(|shape| zeros(shape, F32));
    let key = SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
    let run = |tensors: SpanKeyTensors<'_>| ops::span_key(&tensors, window(3), &Default::default());
    each([
        (run(SpanKeyTensors { query: &x, ..key }), shape("pointwise", [6, 6], [8, 6])),
        (run(SpanKeyTensors { depthwise: &weight, ..key }), shape("depthwise", [6, 3], [12, 8])),
        (run(SpanKeyTensors { pointwise: &weight, ..key }), shape("pointwise", [8, 6], [12, 8])),
        (run(SpanKeyTensors { pointwise: &x, ..key }), shape("pointwise", [8, 6], [2, 5, 6])),
    ]);
    let into = |mut z: Tensor, output| {
        let options = SpanKeyOptions { output, ..Default::default() };
        ops::span_key_into(&mut z, &key, window(3), &options)
    };
    each([
        (into(zeros([2, 5, 6], F32), None), shape("z", [2, 5, 8], [2, 5, 6])),
        (into(zeros([2, 5, 8], F16), None), dtype("z", F32, F16)),
        (into(zeros([2, 5, 8], BF16), Some(F32)), dtype("z", F32, BF16)),
        (
            into(zeros([2, 5, 8], F32), Some(BF16)),
            Error::DType { tensor: "z", expected: vec![F32], got: BF16 },
        ),
    ]);
    let conv = SpanConvTensors {
        x: &x,
        query: (&query).into(),
        value: (&value).into(),
        depthwise: &depthwise,
        pointwise: &pointwise,
        weight: &weight,
    };
    let run =
        |tensors: SpanConvTensors<'_>, heads| ops::span_conv(&tensors, heads, window(3), &Default::default());
    each([
        (run(SpanConvTensors { value: (&x).into(), ..conv }, 4), shape("value", [2, 5, 8], [2, 5, 6])),
        (run(conv, 2), shape("weight", [6, 8], [12, 8])),
        (run(conv, 3), Error::Heads { heads: 3, channels: 8 }),
        (
            run(SpanConvTensors { value: (&zeros([2, 5, 8], F16)).into(), ..conv }, 4),
            dtype("value", F32, F16),
        ),
    ]);
    let into = |mut y: Tensor| ops::span_conv_into(&mut y, &conv, 4, window(3), &Default::default());
    each([
        (into(zeros([2, 5, 6], F32)), shape("y", [2, 5, 8], [2, 5, 6])),
        (into(zeros([2, 5, 8], F16)), dtype("y", F32, F16)),
    ]);
}

/// How much of a history went by, only sequences say.
#[test]
fn history_without_sequences() {
    let causal = Window::causal(3).unwrap();
    let [x, query, value] = [6, 8, 8].map(|channels| zeros([2, 5, channels], F32));
    let (kept, kept_value) = (zeros([2, 2, 6], F32), zeros([2, 2, 8], F32));
    let (history, missing) = (Some(&kept), Error::Missing { tensor: "sequences" });
    let options = ConvOptions { history, ..Default::default() };
    let dynamic = DynamicConvOptions { history, ..Default::default() };
    each([
        (ops::light_conv(&x, &zeros([3, 3], F32), causal, &options), missing.clone()),
        (ops::dynamic_conv(&x, &zeros([9, 6], F32), 3, causal, &dynamic), missing.clone()),
        (ops::dynamic_conv_given(&x, &zeros([2, 5, 3, 3], F32), causal, &options), missing.clone()),
    ]);
    let [depthwise, pointwise, weight] = [[6, 3], [8, 6], [12, 8]].map(|shape| zeros(shape, F32));
    let key = SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
    let options = SpanKeyOptions { history, ..Default::default() };
    each([(ops::span_key(&key, causal, &options), missing.clone())]);
    let SpanKeyTensors { x, query, depthwise, pointwise } = key;
    let conv = SpanConvTensors {
        x,
        query: query.into(),
        value: (&value).into(),
        depthwise,
        pointwise,
        weight: &weight,
    };
    let history = Some(SpanConvHistory { x: &kept, value: &kept_value });
    let options = SpanConvOptions { history, ..Default::default() };
    each([(ops::span_conv(&conv, 4, causal, &options), missing)]);
}

#[test]
fn linear() {
    let (x, weight) = (zeros([2, 5, 6], F32), zeros([3, 6], F32));
    let run = |x: &Tensor, weight: &Tensor| ops::linear(x, weight, &Default::default());
    let bias = zeros([6], F32);
    let biased = ops::LinearOptions { bias: Some(&bias), ..Default::default() };
    each([
        (run(&x, &zeros([3, 5], F32)), shape("x", [2, 5, 5], [2, 5, 6])),
        (run(&x, &bias), any_shape("weight", [None, None], [6])),
        (run(&zeros([], F32), &weight), shape("x", [6], [])),
        (ops::linear(&x, &weight, &biased), shape("bias", [3], [6])),
    ]);
    let even = zeros([4, 6], F32);
    let plain = ops::LinearOptions::default();
    let glu = ops::LinearOptions { activation: Activation::Glu, ..plain };
    let grouped = |groups| ops::LinearOptions { groups, ..plain };
    let residual = |residual| ops::LinearOptions { residual: Some(residual), ..plain };
    let ([flat, other], half) = ([[10, 3], [5, 3]].map(|shape| zeros(shape, F32)), zeros([2, 5, 3], F16));
    each([
        (ops::linear(&x, &weight, &glu), Error::Halves { tensor: "weight", rows: 3 }),
        (ops::linear(&x, &even, &ops::LinearOptions { bias: Some(&bias), ..glu }), shape("bias", [4], [6])),
        (ops::linear(&x, &weight, &grouped(2)), shape("x", [2, 5, 12], [2, 5, 6])),
        (ops::linear(&x, &weight, &grouped(0)), Error::ZeroSize { what: "groups" }),
        (ops::linear(&x, &weight, &grouped(usize::MAX)), shape("x", [2, 5, usize::MAX], [2, 5, 6])),
        (
            ops::linear(&x, &zeros([3, 3], F32), &grouped(2)),
            Error::Groups { groups: 2, what: "outputs", size: 3 },
        ),
        (
            ops::linear(&x, &zeros([4, 3], F32), &ops::LinearOptions { groups: 2, ..glu }),
            Error::GroupedGlu { groups: 2 },
        ),
        (ops::linear(&x, &weight, &residual(&flat)), shape("residual", [2, 5, 3], [10, 3])),
        (ops::linear(&x, &weight, &residual(&other)), shape("residual", [2, 5, 3], [5, 3])),
        (ops::linear(&x, &weight, &residual(&half)), dtype("residual", F32, F16)),
    ]);
    let gelu = ops::LinearOptions { activation: Activation::Gelu, ..plain };
    let found = ops::linear_backward(&x, &weight, None, &zeros([2, 5, 3], F32), &gelu, &Default::default());
    assert_eq!(found.unwrap_err(), Error::NoBackward { operator: "linear", what: "a GELU" });
    let into = |mut y: Tensor| ops::linear_into(&mut y, &x, &weight, &Default::default());
    each([
        (into(zeros([2, 5, 6], F32)), shape("y", [2, 5, 3], [2, 5, 6])),
        (into(zeros([10, 3], F32)), shape("y", [2, 5, 3], [10, 3])),
        (into(zeros([2, 5, 3], F16)), dtype("y", F32, F16)),
    ]);
}

#[test]
fn norm() {
    let (x, weight, other) = (zeros([2, 5, 6], F32), zeros([6], F32), zeros([5], F32));
    let plain = NormOptions::default();
    let before = |residual| NormOptions { residual: Residual::Before(residual), ..plain };
    let flat = zeros([10, 6], F32);
    let half = zeros([2, 5, 6], F16);
    for run in [ops::layer_norm, ops::rms_norm] {
        each([
            (run(&zeros([], F32), &weight, &plain), any_shape("x", [None], [])),
            (run(&zeros([3, 0], F32), &weight, &plain), Error::ZeroSize { what: "channels" }),
            (run(&x, &other, &plain), shape("weight", [6], [5])),
            (run(&x, &zeros([6, 1], F32), &plain), shape("weight", [6], [6, 1])),
            (run(&x, &zeros([6], F16), &plain), dtype("weight", F32, F16)),
            (run(&x, &weight, &NormOptions { bias: Some(&other), ..plain }), shape("bias", [6], [5])),
            (run(&x, &weight, &before(&flat)), shape("residual", [2, 5, 6], [10, 6])),
            (run(&x, &weight, &before(&half)), dtype("residual", F32, F16)),
            (
                run(&x, &weight, &NormOptions { eps: Some(0.0), ..plain }),
                Error::NotPositive { what: "eps", got: 0.0 },
            ),
        ]);
    }
    let missing = Error::Missing { tensor: "residual before" };
    let after = NormOptions { residual: Residual::After(&x), ..plain };
    for run in [ops::layer_norm_with_sum, ops::rms_norm_with_sum] {
        each([(run(&x, &weight, &plain), missing.clone()), (run(&x, &weight, &after), missing.clone())]);
    }
    let good = || zeros([2, 5, 6], F32);
    for into in [ops::layer_norm_into, ops::rms_norm_into] {
        let run = |mut y: Tensor, sum: Option<Tensor>, options: &NormOptions<'_>| {
            let mut sum = sum;
            into(&mut y, sum.as_mut(), &x, &weight, options)
        };
        each([
            (run(zeros([10, 6], F32), None, &plain), shape("y", [2, 5, 6], [10, 6])),
            (run(zeros([2, 5, 6], F16), None, &plain), dtype("y", F32, F16)),
            (run(good(), Some(good()), &after), missing.clone()),
            (run(good(), Some(zeros([10, 6], F32)), &before(&x)), shape("sum", [2, 5, 6], [10, 6])),
            (run(good(), Some(zeros([2, 5, 6], BF16)), &before(&x)), dtype("sum", F32, BF16)),
        ]);
        assert_eq!(run(good(), Some(good()), &before(&x)), Ok(()));
    }
}

#[test]
fn attention() {
    let (q, k) = (zeros([2, 5, 6], F32), zeros([2, 7, 6], F32));
    let run = |k: &Tensor, v: &Tensor, heads, options: AttentionOptions<'_>| {
        ops::attention(&q, k, v, heads, &options)
    };
    let plain = AttentionOptions::default();
    let keys = Sequences::padded(6, &[1, 2]).unwrap();
    let scaled = AttentionOptions { scale: Some(f32::NEG_INFINITY), ..plain };
    each([
        (run(&k, &q, 3, plain), shape("v", [2, 7, 6], [2, 5, 6])),
        (run(&k, &k, 4, plain), Error::Heads { heads: 4, channels: 6 }),
        (run(&k, &k, 0, plain), Error::ZeroSize { what: "heads" }),
        (run(&zeros([3, 7, 6], F32), &k, 3, plain), Error::SequencePairs { queries: 2, keys: 3 }),
        (run(&zeros([2, 7, 5], F32), &k, 3, plain), shape("k", [2, 7, 6], [2, 7, 5])),
        (run(&zeros([2, 7, 6], F16), &k, 3, plain), dtype("k", F32, F16)),
        (
            run(&k, &k, 3, AttentionOptions { keys: Some(&keys), ..plain }),
            any_shape("k", [Some(2), Some(6), None], [2, 7, 6]),
        ),
        (run(&k, &k, 3, scaled), Error::NotFinite { what: "scale", got: f32::NEG_INFINITY }),
    ]);
    let into = |mut y: Tensor| ops::attention_into(&mut y, &q, &k, &k, 3, &plain);
    each([
        (into(zeros([2, 7, 6], F32)), shape("y", [2, 5, 6], [2, 7, 6])),
        (into(zeros([2, 5, 6], BF16)), dtype("y", F32, BF16)),
    ]);
}

#[test]
fn tensors() {
    let device = Device::cpu();
    let length = |expected, got| Error::Length { tensor: "the tensor", expected, got };
    each([
        (Tensor::from_slice(&[1.0f32; 5], &[2, 3], &device), length(6, 5)),
        (Tensor::from_f32(&[1.0; 7], &[2, 3], BF16, &device), length(6, 7)),
        (zeros([2, 3], F32).reshape(&[4]), length(4, 6)),
        (
            Tensor::zeros(&[usize::MAX, 2], F32, &device),
            Error::TooLarge { what: "tensor", sizes: vec![usize::MAX, 2] },
        ),
    ]);
    each([(zeros([2], F32).to_vec::<bf16>(), dtype("the tensor", BF16, F32))]);
    let mut tensor = zeros([2, 2], F32);
    each([
        (tensor.write(&[1.0f32; 3]), length(4, 3)),
        (tensor.write(&[bf16::ONE; 4]), dtype("the tensor", F32, BF16)),
    ]);
    tensor.write(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(tensor.to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn messages_name_the_numbers() {
    let messages = [
        (
            Error::Shape { tensor: "x", expected: Dims(vec![Some(2), None]), got: [5, 6].into() },
            "x must have shape [2, _], got [5, 6]",
        ),
        (
            Error::DType { tensor: "bias", expected: vec![F16, F32], got: BF16 },
            "bias must be f16 or f32, got bf16",
        ),
        (Error::OffsetStart { got: None }, "packed offsets must begin with 0, got no offsets"),
        (Error::OffsetStart { got: Some(3) }, "packed offsets must begin with 0, got 3"),
        (
            Error::WindowLeft { left: 7, width: 4, dilation: 2, reach: 6 },
            "left padding 7 is past the window: width 4 and dilation 2 allow 0 to 6",
        ),
        (
            Error::Sequences {
                expected: Sequences::batch(2, 3).unwrap().shape().to_string(),
                got: Sequences::packed(&[0, 4, 9]).unwrap().shape().to_string(),
            },
            "sequences are 2 packed sequences of 9 tokens in all, but the problem was made for a batch of 2 x 3 tokens",
        ),
    ];
    for (error, message) in messages {
        assert_eq!(error.to_string(), message);
    }
}

/// Nothing to do is no error: an empty batch gives an empty result.
#[test]
fn empty_is_fine() {
    for (batch, time) in [(0, 5), (3, 0), (0, 0)] {
        let x = zeros([batch, time, 6], F32);
        let y = ops::light_conv(&x, &zeros([3, 4], F32), window(4), &Default::default()).unwrap();
        assert_eq!(y.shape(), [batch, time, 6]);
        let y = ops::dynamic_conv(&x, &zeros([12, 6], F32), 3, window(4), &Default::default()).unwrap();
        assert_eq!(y.shape(), [batch, time, 6]);
        for kind in [ops::AttentionKind::Naive, ops::AttentionKind::Fused] {
            let options = AttentionOptions { kind, ..Default::default() };
            assert_eq!(ops::attention(&x, &x, &x, 3, &options).unwrap().shape(), [batch, time, 6]);
        }
        assert_eq!(
            ops::linear(&x, &zeros([2, 6], F32), &Default::default()).unwrap().shape(),
            [batch, time, 2]
        );
    }
}

#[test]
fn absent_backends_say_so() {
    use lightspan::Backend;
    for backend in [Backend::Wgpu, Backend::Cuda] {
        match Device::open(backend) {
            Ok(device) => assert_eq!(device.backend(), backend),
            Err(Error::Unavailable { backend: name, reason }) => {
                assert_eq!(name, backend.to_string());
                assert!(!reason.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!("wgpu".parse(), Ok(Backend::Wgpu));
    assert!("gpu".parse::<Backend>().is_err());
}
