//! Every drawn call on memory of one's own is within the bounds of the reference: tensors at any element, rows with gaps
//! that hold NaN, outputs between bits that stay as they were.

mod append;
mod convolutions_backward;
mod products_backward;
mod tables;

use lightspan::cuda::{self as room, DeviceSequences, Gpu};
use lightspan::problem::{AttentionKind, HistoryProblem, LightConvProblem, Taps};
use lightspan::reference::Estimate;
use lightspan::{DType, Device, Normalize, Window, reference};
use proptest::prelude::*;

use crate::support::cuda::{Input, Scatter, Scratch, cuda_device};
use crate::support::{ConvCase, Numbers, config, conv_case, long_conv_case};
use crate::{attention, dynamic_conv, light_conv, linear, norm, span_conv, span_key};

/// Where tensors lie.
fn place() -> impl Strategy<Value = (u64, usize)> {
    (any::<u64>(), prop::sample::select(&[1, 2, 4, 8][..]))
}

/// Mostly short sequences.
fn case() -> impl Strategy<Value = ConvCase> {
    prop_oneof![4 => conv_case(), 1 => long_conv_case()]
}

fn elements(input: &Option<Input>) -> Option<room::Elements<'_>> {
    input.as_ref().map(Input::elements)
}

/// Where there are few multiprocessors, blocks are larger.
fn of_few_multiprocessors(device: Device) -> Device {
    #[cfg(feature = "emulator")]
    if device.cuda_gpu().is_some_and(Gpu::is_emulated) {
        return Device::cuda_emulated_with(room::Limits { multiprocessors: 1, ..room::Limits::A100 });
    }
    device
}

fn check_light_conv(gpu: &Gpu, case: &ConvCase, scatter: &mut Scatter<'_>) -> Result<(), TestCaseError> {
    let (call, channels) = (light_conv::Call::draw(case), case.channels());
    let x = scatter.rows(&call.x, channels);
    let weight = scatter.elements(&call.weight);
    let [bias, history] = [&call.bias, &call.history].map(|values| scatter.optional(values));
    let mut output = scatter.output(case.sequences.shape().tokens(), channels, case.dtype);
    let operator = room::LightConv::new(gpu, LightConvProblem::new(case.convolution())).unwrap();
    operator
        .launch(room::LightConvArgs {
            sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
            x: x.rows(),
            weight: weight.elements(),
            bias: elements(&bias),
            history: elements(&history),
            seed: case.dropout_seed(),
            y: output.rows(),
        })
        .unwrap();
    output.check(&call.expected())
}

fn check_dynamic_conv(
    gpu: &Gpu,
    case: &ConvCase,
    generator: dynamic_conv::Generator,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    check_dynamic_call(gpu, dynamic_conv::Call::draw(case, generator), scatter)
}

fn check_dynamic_call(
    gpu: &Gpu,
    call: dynamic_conv::Call,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let case = &call.case;
    let (channels, logits) = (case.channels(), call.problem.logits());
    let x = scatter.rows(&call.x, channels);
    let given = call.problem.taps() == Taps::Given;
    let weight = if given { scatter.rows(&call.weight, logits) } else { scatter.elements(&call.weight) };
    let query = call.query.as_ref().map(|query| scatter.rows(query, *query.shape.last().unwrap()));
    let [bias, history, weight_bias] =
        [&call.bias, &call.history, &call.weight_bias].map(|values| scatter.optional(values));
    let mut output = scatter.output(case.sequences.shape().tokens(), channels, case.dtype);
    let operator = room::DynamicConv::new(gpu, call.problem).unwrap();
    let mut scratch = scatter.scratch(operator.scratch_len());
    operator
        .launch(
            room::DynamicConvArgs {
                sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
                x: x.rows(),
                taps: match call.problem.taps() {
                    Taps::Given => room::TapArgs::Given { logits: weight.rows() },
                    _ => room::TapArgs::Generated {
                        weight: weight.elements(),
                        weight_bias: elements(&weight_bias),
                        query: query.as_ref().map(Input::rows),
                    },
                },
                bias: elements(&bias),
                history: elements(&history),
                seed: case.dropout_seed(),
                y: output.rows(),
            },
            scratch.as_mut().map(Scratch::elements),
        )
        .unwrap();
    output.check(&call.expected())
}

/// Fails unless the operator gives what the reference expects.
pub(super) fn check_linear(
    operator: &room::Linear,
    call: &linear::Call,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let problem = operator.problem();
    let x = scatter.rows(&call.x, problem.inputs());
    let weight = scatter.elements(&call.weight);
    let bias = scatter.optional(&call.bias);
    let residual = call.residual.as_ref().map(|residual| scatter.rows(residual, problem.outputs()));
    let mut output = scatter.output(problem.rows(), problem.outputs(), problem.dtype());
    let args = room::LinearArgs {
        x: x.rows(),
        weight: weight.elements(),
        bias: elements(&bias),
        residual: residual.as_ref().map(Input::rows),
        y: output.rows(),
    };
    operator.launch(args).unwrap();
    let expected: Vec<_> = (0..problem.rows()).flat_map(|row| call.expected(row)).collect();
    output.check(&expected)
}

/// Scratch memory of just so many numbers, all of them NaN before.
fn check_attention(
    gpu: &Gpu,
    case: &attention::Case,
    kind: AttentionKind,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let (call, channels) = (attention::Call::draw(case), case.heads * case.head_channels);
    let [q, k, v] = [&call.q, &call.k, &call.v].map(|values| scatter.rows(values, channels));
    let mut output = scatter.output(case.queries.shape().tokens(), channels, case.dtype);
    let [queries, keys] = [&case.queries, &case.keys].map(|list| DeviceSequences::new(gpu, list).unwrap());
    let operator = room::Attention::new(gpu, call.problem(), kind).unwrap();
    let len = operator.scratch_len(&keys) as usize;
    let mut scratch = (len > 0).then(|| scatter.output(1, len, DType::F32));
    let args = room::AttentionArgs {
        queries: &queries,
        keys: &keys,
        q: q.rows(),
        k: k.rows(),
        v: v.rows(),
        y: output.rows(),
    };
    operator.launch(args, scratch.as_mut().map(|scratch| scratch.elements())).unwrap();
    output.check(&call.expected())
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn attention_of_both_kinds(
        case in prop_oneof![4 => attention::case(40), 1 => attention::case(300)],
        (seed, step) in place(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        for &kind in attention::kinds(&device, case.head_channels) {
            let mut scatter = Scatter::new(&device, seed, step);
            check_attention(device.cuda_gpu().unwrap(), &case, kind, &mut scatter)?;
        }
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn light_conv(case in case(), (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        check_light_conv(device.cuda_gpu().unwrap(), &case, &mut Scatter::new(&device, seed, step))?;
    }

    /// Heads of as many channels as tensor cores want.
    #[test]
    fn light_conv_of_wide_heads(
        mut case in case(),
        head_channels in prop_oneof![Just(16usize), Just(64), 16usize..70],
        (seed, step) in place(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        (case.heads, case.head_channels) = (case.heads.min(3), head_channels);
        check_light_conv(device.cuda_gpu().unwrap(), &case, &mut Scatter::new(&device, seed, step))?;
    }

    #[test]
    fn dynamic_conv(case in case(), generator in dynamic_conv::generator(), (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        check_dynamic_conv(device.cuda_gpu().unwrap(), &case, generator, &mut Scatter::new(&device, seed, step))?;
    }

    /// Heads of as many channels as tensor cores want.
    #[test]
    fn dynamic_conv_of_wide_heads(
        mut case in case(),
        generator in dynamic_conv::generator(),
        head_channels in prop_oneof![Just(16usize), Just(64), 16usize..70, 120usize..300],
        width in prop::option::weighted(0.25, 70usize..140),
        (seed, step) in place(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        (case.heads, case.head_channels) = (case.heads.min(3), head_channels);
        if let (Some(width), false) = (width, case.history) {
            let window = case.window;
            case.window = Window::new(width, window.dilation(), window.left()).unwrap();
        }
        check_dynamic_conv(device.cuda_gpu().unwrap(), &case, generator, &mut Scatter::new(&device, seed, step))?;
    }

    /// What is infinite or NaN spoils the outputs that see it, as it should, and no others. A logit of minus infinity is a
    /// tap of nothing, of which the reference has no bound.
    #[test]
    fn dynamic_conv_of_what_is_no_number(
        mut case in case(),
        head_channels in prop_oneof![1usize..16, Just(16usize), Just(64), 16usize..70],
        width in prop::option::weighted(0.25, 70usize..140),
        (seed, step) in place(),
        spoiled in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), 0usize..3), 1..8),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        (case.heads, case.head_channels) = (case.heads.min(3), head_channels);
        if let (Some(width), false) = (width, case.history) {
            let window = case.window;
            case.window = Window::new(width, window.dilation(), window.left()).unwrap();
        }
        let mut call = dynamic_conv::Call::draw(&case, dynamic_conv::Generator::Given);
        let raw = case.normalize == Normalize::None;
        for (which, at, number) in spoiled {
            let number = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][number];
            let (values, number) = match which {
                0 => (Some(&mut call.x), number),
                1 => (call.history.as_mut(), number),
                _ => (Some(&mut call.weight), if raw { number } else { number.abs() }),
            };
            if let Some(values) = values.filter(|values| !values.data.is_empty()) {
                let at = at.index(values.data.len());
                values.data[at] = number;
            }
        }
        check_dynamic_call(device.cuda_gpu().unwrap(), call, &mut Scatter::new(&device, seed, step))?;
    }

    /// Taps that no number of 16 bits holds, nor a few of them together.
    #[test]
    fn dynamic_conv_of_taps_far_apart(
        mut case in case(),
        head_channels in 16usize..40,
        (seed, step) in place(),
        powers in prop::collection::vec(-30i32..15, 1..40),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        (case.heads, case.head_channels) = (case.heads.min(3), head_channels);
        (case.normalize, case.parameters) = (Normalize::None, DType::F32);
        let mut call = dynamic_conv::Call::draw(&case, dynamic_conv::Generator::Given);
        for (i, logit) in call.weight.data.iter_mut().enumerate() {
            *logit *= 2f64.powi(powers[i % powers.len()]);
        }
        check_dynamic_call(device.cuda_gpu().unwrap(), call, &mut Scatter::new(&device, seed, step))?;
    }

    #[test]
    fn linear_layer(problem in linear::problem(), seed in any::<u64>(), (place, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let call = linear::Call::draw(problem, seed);
        let (gpu, mut scatter) = (device.cuda_gpu().unwrap(), Scatter::new(&device, place, step));
        check_linear(&room::Linear::new(gpu, problem).unwrap(), &call, &mut scatter)?;
    }

    /// Rows, weight and bias anywhere, so that units of every size are taken.
    #[test]
    fn norms(problem in norm::problem(), seed in any::<u64>(), (place, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let (call, mut scatter) = (norm::Call::draw(problem, 1.0, seed), Scatter::new(&device, place, step));
        let channels = problem.channels();
        let x = scatter.rows(&call.x, channels);
        let residual = call.residual.as_ref().map(|residual| scatter.rows(residual, channels));
        let weight = scatter.elements(&call.weight);
        let bias = scatter.optional(&call.bias);
        let mut output = || scatter.output(problem.tokens(), channels, problem.dtype());
        let (mut y, mut sum) = (output(), output());
        let operator = room::Norm::new(device.cuda_gpu().unwrap(), problem).unwrap();
        operator
            .launch(room::NormArgs {
                x: x.rows(),
                residual: residual.as_ref().map(Input::rows),
                weight: weight.elements(),
                bias: elements(&bias),
                y: y.rows(),
                sum: problem.has_sum().then(|| sum.rows()),
            })
            .unwrap();
        let (of_y, of_sum) = call.expected();
        y.check(&of_y)?;
        sum.check(&of_sum.unwrap_or_default())?;
    }

    #[test]
    fn span_key(
        case in case(),
        outputs in prop_oneof![4 => 1usize..40, 1 => 120usize..400],
        (wide, few, of_x) in any::<(bool, bool, bool)>(),
        // What is infinite or NaN is so for the outputs that read it, and for no others.
        wild in prop::option::weighted(0.3, prop::sample::select(&[f64::INFINITY, f64::NEG_INFINITY, f64::NAN][..])),
        at in any::<prop::sample::Index>(),
        (seed, step) in place(),
    ) {
        let Some(mut device) = cuda_device() else { return Ok(()) };
        if few {
            device = of_few_multiprocessors(device);
        }
        let gpu = device.cuda_gpu().unwrap();
        let mut call = span_key::Call::draw(&case, outputs, if wide { DType::F32 } else { case.dtype });
        let numbers = if of_x { &mut call.x.data } else { &mut call.pointwise.data };
        if let Some(wild) = wild && !numbers.is_empty() {
            let at = at.index(numbers.len());
            numbers[at] = wild;
        }
        let mut scatter = Scatter::new(&device, seed, step);
        let (x, query) = (scatter.rows(&call.x, case.channels()), scatter.rows(&call.query, outputs));
        let (depthwise, pointwise) = (scatter.elements(&call.depthwise), scatter.elements(&call.pointwise));
        let [key_bias, history] = [&call.key_bias, &call.history].map(|values| scatter.optional(values));
        let mut output = scatter.output(case.sequences.shape().tokens(), outputs, call.problem.output());
        room::SpanKey::new(gpu, call.problem)
            .unwrap()
            .launch(room::SpanKeyArgs {
                sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
                x: x.rows(),
                query: query.rows(),
                depthwise: depthwise.elements(),
                pointwise: pointwise.elements(),
                key_bias: elements(&key_bias),
                history: elements(&history),
                z: output.rows(),
            })
            .unwrap();
        output.check(&call.expected())?;
    }

    #[test]
    fn span_conv(case in case(), channels in 1usize..40, (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let gpu = device.cuda_gpu().unwrap();
        let (call, outputs) = (span_conv::Call::draw(&case, channels), case.channels());
        let mut scatter = Scatter::new(&device, seed, step);
        let [query, value] = [&call.query, &call.value].map(|values| scatter.rows(values, outputs));
        let x = scatter.rows(&call.x, channels);
        let [depthwise, pointwise, weight] =
            [&call.depthwise, &call.pointwise, &call.weight].map(|values| scatter.elements(values));
        let [key_bias, weight_bias, bias, history, value_history] =
            [&call.key_bias, &call.weight_bias, &call.bias, &call.history, &call.value_history]
                .map(|values| scatter.optional(values));
        let mut output = scatter.output(case.sequences.shape().tokens(), outputs, case.dtype);
        let operator = room::SpanConv::new(gpu, call.problem).unwrap();
        let mut scratch = operator.scratch_len().map(|len| scatter.scratch(len));
        let args = room::SpanConvArgs {
            sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
            x: x.rows(),
            query: query.rows(),
            value: value.rows(),
            depthwise: depthwise.elements(),
            pointwise: pointwise.elements(),
            key_bias: elements(&key_bias),
            weight: weight.elements(),
            weight_bias: elements(&weight_bias),
            bias: elements(&bias),
            history: elements(&history),
            value_history: elements(&value_history),
            seed: case.dropout_seed(),
            y: output.rows(),
        };
        let scratch = scratch.each_mut().map(|memory| memory.as_mut().map(Scratch::elements));
        operator.launch(args, scratch).unwrap();
        output.check(&call.expected())?;
    }

    #[test]
    fn history(case in case().prop_filter("causal", |case| case.window.is_causal()), (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let gpu = device.cuda_gpu().unwrap();
        let mut scatter = Scatter::new(&device, seed, step);
        let problem = HistoryProblem::new(case.convolution()).unwrap();
        let [count, reach, channels] = problem.convolution().history_shape();
        let mut numbers = Numbers::new(case.seed);
        let x = numbers.tokens(&case.sequences, channels, case.dtype, 2.0);
        let before = numbers.draw(&[count, reach, channels], case.dtype, 2.0);
        let (x_input, before_input) = (scatter.rows(&x, channels), scatter.elements(&before));
        let mut next = scatter.output(1, (count * reach * channels).max(1), case.dtype);
        room::History::new(gpu, problem)
            .unwrap()
            .launch(room::HistoryArgs {
                sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
                x: x_input.rows(),
                history: before_input.elements(),
                next: next.elements(),
            })
            .unwrap();
        let moved = reference::history(&problem, &case.sequences, &x.data, &before.data);
        let expected: Vec<_> = moved.into_iter().map(Estimate::exact).collect();
        next.check(&expected)?;
    }
}
