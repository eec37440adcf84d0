//! What is wrong with a call is an error of candle that carries lightspan's: the same that `lightspan::ops` has for it.

use candle_core::{DType as CandleDType, Device, Error as CandleError, Tensor, Var};
use lightspan::{DType, Error, Normalize, Sequences, Window, ops};
use lightspan_candle::{self as candle, lightspan_error};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::support::{Numbers, Values, config, to_f64};

/// A tensor that may not fit.
#[derive(Clone, Debug)]
struct Drawn {
    shape: Vec<usize>,
    dtype: DType,
}

impl Drawn {
    fn values(&self, numbers: &mut Numbers) -> Values {
        numbers.draw(&self.shape, self.dtype, 1.0)
    }
}

/// A shape that should fit, of which sometimes one size or the rank is another, or the type.
fn almost(shape: Vec<usize>, dtype: DType) -> impl Strategy<Value = Drawn> {
    let rank = shape.len();
    let twist = (0..rank, 0usize..4, prop::sample::select(&DType::ALL[..]), 0u32..12);
    twist.prop_map(move |(at, size, other, kind)| {
        let mut drawn = Drawn { shape: shape.clone(), dtype };
        match kind {
            0 => drawn.shape[at] = size,
            1 => drawn.shape.insert(at, size),
            2 if rank > 1 => drop(drawn.shape.remove(at)),
            3 => drawn.dtype = other,
            _ => {}
        }
        drawn
    })
}

/// A call that may be wrong in any of its parts.
#[derive(Clone, Debug)]
struct BadCall {
    heads: usize,
    window: Window,
    normalize: Normalize,
    sequences: Option<Sequences>,
    x: Drawn,
    query: Drawn,
    value: Drawn,
    filter: Drawn,
    logits: Drawn,
    generator: Drawn,
    weight_bias: Option<Drawn>,
    bias: Option<Drawn>,
    key_bias: Option<Drawn>,
    depthwise: Drawn,
    pointwise: Drawn,
}

fn bad_call() -> impl Strategy<Value = BadCall> {
    let sizes = (0usize..3, 0usize..4, 1usize..3, 1usize..3, 1usize..4, 0usize..4, 0u32..4);
    let dtypes = (prop::sample::select(&DType::ALL[..]), any::<bool>());
    (sizes, dtypes, any::<[bool; 3]>(), 0usize..8)
        .prop_flat_map(
            |((batch, time, heads, per_head, width, called_heads, layout), (dtype, wide), there, other)| {
                let parameters = if wide { DType::F32 } else { dtype };
                let (channels, logits) = (heads * per_head, heads * width);
                let sequences = match layout {
                    0 | 1 => None,
                    2 => Some(Sequences::padded(time, &vec![time; batch]).unwrap()),
                    _ => Some(Sequences::packed(&[0, time, time + batch]).unwrap()),
                };
                // Sequences that continue, now and then.
                let sequences = sequences.map(|sequences| {
                    let past = vec![usize::from(other == 0); sequences.shape().sequences()];
                    sequences.after(&past).unwrap()
                });
                let tokens = |channels: usize| match &sequences {
                    Some(sequences) => sequences.shape().tensor(channels),
                    None => vec![batch, time, channels],
                };
                let of_logits = {
                    let mut shape = tokens(heads);
                    shape.push(width);
                    shape
                };
                let x = almost(tokens(channels), dtype);
                let query = almost(tokens(channels), dtype);
                let value = almost(tokens(channels), dtype);
                let parameter = move |shape: Vec<usize>| almost(shape, parameters);
                let optional = move |there: bool, size: usize| {
                    almost(vec![size], parameters).prop_map(move |drawn| there.then_some(drawn))
                };
                let inputs = (x, query, value, parameter(vec![heads, width]), parameter(of_logits));
                let more = (
                    parameter(vec![logits, channels]),
                    optional(there[0], logits),
                    optional(there[1], channels),
                    optional(there[2], channels),
                    parameter(vec![channels, width]),
                    parameter(vec![channels, channels]),
                );
                let heads = if called_heads == 0 { other % 4 } else { heads };
                (inputs, more, Just((heads, width, sequences)))
            },
        )
        .prop_map(|((x, query, value, filter, logits), more, (heads, width, sequences))| {
            let (generator, weight_bias, bias, key_bias, depthwise, pointwise) = more;
            let window = Window::same(width).unwrap();
            let normalize = Normalize::Softmax;
            BadCall {
                heads,
                window,
                normalize,
                sequences,
                x,
                query,
                value,
                filter,
                logits,
                generator,
                weight_bias,
                bias,
                key_bias,
                depthwise,
                pointwise,
            }
        })
}

/// Fails unless both calls give the same numbers, or the same error.
fn agree(
    name: &str,
    ours: Result<Tensor, CandleError>,
    theirs: Result<lightspan::Tensor, Error>,
) -> TestCaseResult {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            prop_assert_eq!(ours.dims(), theirs.shape(), "{}", name);
            let ours = to_f64(&ours).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let theirs: Vec<f64> = theirs.to_f32().unwrap().into_iter().map(f64::from).collect();
            prop_assert_eq!(ours, theirs, "{}", name);
        }
        (Err(ours), Err(theirs)) => {
            prop_assert_eq!(lightspan_error(&ours), Some(&theirs), "{}: {}", name, ours);
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            prop_assert!(ours.contains(&theirs), "{:?} does not say {:?}", ours, theirs);
        }
        (ours, theirs) => prop_assert!(false, "{}: {:?}, but {:?}", name, ours, theirs),
    }
    Ok(())
}

fn check(call: &BadCall, tracked: bool) -> TestCaseResult {
    let BadCall { heads, window, normalize, ref sequences, .. } = *call;
    let sequences = sequences.as_ref();
    let mut numbers = Numbers::new(11);
    let mut both = |drawn: &Drawn| {
        let values = drawn.values(&mut numbers);
        let tensor = values.tensor().unwrap();
        let tensor = if tracked { Var::from_tensor(&tensor).unwrap().into_inner() } else { tensor };
        (tensor, values.lightspan())
    };
    let (x, tx) = both(&call.x);
    let (query, tquery) = both(&call.query);
    let (value, tvalue) = both(&call.value);
    let (filter, tfilter) = both(&call.filter);
    let (logits, tlogits) = both(&call.logits);
    let (generator, tgenerator) = both(&call.generator);
    let (depthwise, tdepthwise) = both(&call.depthwise);
    let (pointwise, tpointwise) = both(&call.pointwise);
    let weight_bias = call.weight_bias.as_ref().map(&mut both);
    let bias = call.bias.as_ref().map(&mut both);
    let key_bias = call.key_bias.as_ref().map(&mut both);
    fn first<A, B>(both: &Option<(A, B)>) -> Option<&A> {
        both.as_ref().map(|both| &both.0)
    }
    fn second<A, B>(both: &Option<(A, B)>) -> Option<&B> {
        both.as_ref().map(|both| &both.1)
    }

    let options = candle::ConvOptions { bias: first(&bias), normalize, sequences, dropout: None };
    let own = ops::ConvOptions { bias: second(&bias), normalize, sequences, ..Default::default() };
    agree(
        "light_conv",
        candle::light_conv(&x, &filter, window, &options),
        ops::light_conv(&tx, &tfilter, window, &own),
    )?;
    agree(
        "dynamic_conv_given",
        candle::dynamic_conv_given(&x, &logits, window, &options),
        ops::dynamic_conv_given(&tx, &tlogits, window, &own),
    )?;
    for separate in [false, true] {
        let options = candle::DynamicConvOptions {
            query: separate.then_some(&query),
            weight_bias: first(&weight_bias),
            bias: first(&bias),
            normalize,
            sequences,
            dropout: None,
        };
        let own = ops::DynamicConvOptions {
            query: separate.then_some(&tquery),
            weight_bias: second(&weight_bias),
            bias: second(&bias),
            normalize,
            sequences,
            ..Default::default()
        };
        agree(
            "dynamic_conv",
            candle::dynamic_conv(&x, &generator, heads, window, &options),
            ops::dynamic_conv(&tx, &tgenerator, heads, window, &own),
        )?;
    }
    for wide in [false, true] {
        let tensors =
            candle::SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
        let output = wide.then_some(CandleDType::F32);
        let options = candle::SpanKeyOptions { key_bias: first(&key_bias), sequences, output };
        let own_tensors =
            ops::SpanKeyTensors { x: &tx, query: &tquery, depthwise: &tdepthwise, pointwise: &tpointwise };
        let output = wide.then_some(DType::F32);
        let own = ops::SpanKeyOptions { key_bias: second(&key_bias), sequences, output, history: None };
        agree(
            "span_key",
            candle::span_key(&tensors, window, &options),
            ops::span_key(&own_tensors, window, &own),
        )?;
    }
    let tensors = candle::SpanConvTensors {
        x: &x,
        query: &query,
        value: &value,
        depthwise: &depthwise,
        pointwise: &pointwise,
        weight: &generator,
    };
    let options = candle::SpanConvOptions {
        key_bias: first(&key_bias),
        weight_bias: first(&weight_bias),
        bias: first(&bias),
        normalize,
        sequences,
        dropout: None,
    };
    let own_tensors = ops::SpanConvTensors {
        x: &tx,
        query: (&tquery).into(),
        value: (&tvalue).into(),
        depthwise: &tdepthwise,
        pointwise: &tpointwise,
        weight: &tgenerator,
    };
    let own = ops::SpanConvOptions {
        key_bias: second(&key_bias),
        weight_bias: second(&weight_bias),
        bias: second(&bias),
        normalize,
        sequences,
        ..Default::default()
    };
    agree(
        "span_conv",
        candle::span_conv(&tensors, heads, window, &options),
        ops::span_conv(&own_tensors, heads, window, &own),
    )
}

proptest! {
    #![proptest_config(config(3000))]

    /// Right or wrong, empty or not.
    #[test]
    fn every_call_ends_as_lightspans_own(call in bad_call(), tracked in any::<bool>()) {
        check(&call, tracked)?;
    }
}

#[test]
fn other_types_are_refused_by_name() {
    let cpu = &Device::Cpu;
    let x = Tensor::zeros((1, 4, 2), CandleDType::F32, cpu).unwrap();
    let weight = Tensor::zeros((1, 3), CandleDType::F32, cpu).unwrap();
    let window = Window::causal(3).unwrap();
    for dtype in [CandleDType::F64, CandleDType::U32, CandleDType::U8, CandleDType::I64] {
        let other = weight.to_dtype(dtype).unwrap();
        let error = candle::light_conv(&x, &other, window, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("weight must be f32, f16 or bf16"), "{error}");
        assert!(is_unsupported(&error, dtype), "{error}");
        let other = x.to_dtype(dtype).unwrap();
        let error = candle::light_conv(&other, &weight, window, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("x must be f32, f16 or bf16"), "{error}");
        assert!(is_unsupported(&error, dtype), "{error}");
        let tensors = candle::SpanKeyTensors { x: &x, query: &x, depthwise: &weight, pointwise: &weight };
        let options = candle::SpanKeyOptions { output: Some(dtype), ..Default::default() };
        let error = candle::span_key(&tensors, window, &options).unwrap_err();
        assert!(is_unsupported(&error, dtype), "{error}");
    }
}

fn is_unsupported(error: &CandleError, dtype: CandleDType) -> bool {
    match error {
        CandleError::UnsupportedDTypeForOp(got, _) => *got == dtype,
        CandleError::Context { inner, .. } | CandleError::WithBacktrace { inner, .. } => {
            is_unsupported(inner, dtype)
        }
        _ => false,
    }
}
