use lightspan::DType;
use lightspan::cuda::{self as room, DeviceSequences, Gpu};
use lightspan::problem::Taps;
use proptest::prelude::*;

use super::{elements, of_few_multiprocessors, place};
use crate::support::cuda::{Input, Output, Scatter, Scratch, cuda_device};
use crate::support::{ConvCase, Expected, Values, config, selection, trained_case, trained_long_case};
use crate::{dynamic_conv, light_conv, span_conv};

fn case() -> impl Strategy<Value = ConvCase> {
    prop_oneof![4 => trained_case(), 1 => trained_long_case()]
}

/// Gradients to write, in the order of the reference: those of tokens are rows of so many numbers.
struct Gradients {
    expected: Vec<Expected>,
    outputs: Vec<Option<Output>>,
}

impl Gradients {
    fn new(expected: Vec<Expected>, tokens: usize, scatter: &mut Scatter<'_>) -> Self {
        let output = |expected: &Expected| {
            let sizes = &expected.shape;
            let (rows, width) = match expected.name {
                "dlogits" => (tokens, sizes[sizes.len() - 2..].iter().product()),
                "dx" | "dquery" | "dvalue" => (tokens, sizes[sizes.len() - 1]),
                _ => (1, expected.estimates.len()),
            };
            expected.wanted.then(|| scatter.output(rows, width, expected.dtype))
        };
        let outputs = expected.iter().map(output).collect();
        Gradients { expected, outputs }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (expected, output) in self.expected.iter().zip(&self.outputs) {
            if let Some(output) = output {
                output
                    .check(&expected.estimates)
                    .map_err(|error| TestCaseError::fail(format!("{}: {error}", expected.name)))?;
            }
        }
        Ok(())
    }
}

fn rows(output: &mut Option<Output>) -> Option<room::RowsMut<'_>> {
    output.as_mut().map(Output::rows)
}

fn numbers(output: &mut Option<Output>) -> Option<room::ElementsMut<'_>> {
    output.as_mut().map(Output::elements)
}

fn check_light(
    gpu: &Gpu,
    backward: &light_conv::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let call = &backward.call;
    let (case, channels) = (&call.case, call.case.channels());
    let (x, weight) = (scatter.rows(&call.x, channels), scatter.elements(&call.weight));
    let dy = scatter.rows(&backward.dy, channels);
    let mut gradients = Gradients::new(backward.expected(), case.sequences.shape().tokens(), scatter);
    let [dx, dweight, dbias] = &mut gradients.outputs[..] else { unreachable!() };
    let operator = room::LightConvBackward::new(gpu, backward.problem()).unwrap();
    let mut scratch = scatter.scratch(operator.scratch_len());
    let args = room::LightConvBackwardArgs {
        sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
        x: x.rows(),
        weight: weight.elements(),
        seed: case.dropout_seed(),
        dy: dy.rows(),
        dx: rows(dx),
        dweight: numbers(dweight),
        dbias: numbers(dbias),
    };
    operator.launch(args, scratch.as_mut().map(Scratch::elements)).unwrap();
    gradients.check()
}

fn check_dynamic(
    gpu: &Gpu,
    backward: &dynamic_conv::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let call = &backward.call;
    let (case, channels) = (&call.case, call.case.channels());
    let given = call.problem.taps() == Taps::Given;
    let x = scatter.rows(&call.x, channels);
    let weight = if given {
        scatter.rows(&call.weight, call.problem.logits())
    } else {
        scatter.elements(&call.weight)
    };
    let query = call.query.as_ref().map(|query| scatter.rows(query, *query.shape.last().unwrap()));
    let weight_bias = scatter.optional(&call.weight_bias);
    let dy = scatter.rows(&backward.dy, channels);
    let mut gradients = Gradients::new(backward.expected(), case.sequences.shape().tokens(), scatter);
    let [dx, dlogits, dweight, dweight_bias, dquery, dbias] = &mut gradients.outputs[..] else {
        unreachable!()
    };
    let operator = room::DynamicConvBackward::new(gpu, backward.problem()).unwrap();
    let mut scratch = scatter.scratch(operator.scratch_len());
    let args = room::DynamicConvBackwardArgs {
        sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
        x: x.rows(),
        taps: match given {
            true => room::TapArgs::Given { logits: weight.rows() },
            false => room::TapArgs::Generated {
                weight: weight.elements(),
                weight_bias: elements(&weight_bias),
                query: query.as_ref().map(Input::rows),
            },
        },
        seed: case.dropout_seed(),
        dy: dy.rows(),
        dx: rows(dx),
        dlogits: rows(dlogits),
        dweight: numbers(dweight),
        dweight_bias: numbers(dweight_bias),
        dquery: rows(dquery),
        dbias: numbers(dbias),
    };
    operator.launch(args, scratch.as_mut().map(Scratch::elements)).unwrap();
    gradients.check()
}

fn check_span(
    gpu: &Gpu,
    backward: &span_conv::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let call = &backward.call;
    let (case, outputs) = (&call.case, call.case.channels());
    let channels = call.problem.key().depthwise().channels();
    let x = scatter.rows(&call.x, channels);
    let [query, value, dy] =
        [&call.query, &call.value, &backward.dy].map(|values| scatter.rows(values, outputs));
    let [depthwise, pointwise, weight] =
        [&call.depthwise, &call.pointwise, &call.weight].map(|values| scatter.elements(values));
    let [key_bias, weight_bias] = [&call.key_bias, &call.weight_bias].map(|values| scatter.optional(values));
    let mut gradients = Gradients::new(backward.expected(), case.sequences.shape().tokens(), scatter);
    let [dx, dquery, ddepthwise, dpointwise, dkey_bias, dvalue, dweight, dweight_bias, dbias] =
        &mut gradients.outputs[..]
    else {
        unreachable!()
    };
    let operator = room::SpanConvBackward::new(gpu, backward.problem()).unwrap();
    let mut scratch = scatter.scratch(operator.scratch_len());
    let args = room::SpanConvBackwardArgs {
        sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
        x: x.rows(),
        query: query.rows(),
        value: value.rows(),
        depthwise: depthwise.elements(),
        pointwise: pointwise.elements(),
        key_bias: elements(&key_bias),
        weight: weight.elements(),
        weight_bias: elements(&weight_bias),
        seed: case.dropout_seed(),
        dy: dy.rows(),
        dx: rows(dx),
        dquery: rows(dquery),
        ddepthwise: numbers(ddepthwise),
        dpointwise: numbers(dpointwise),
        dkey_bias: numbers(dkey_bias),
        dvalue: rows(dvalue),
        dweight: numbers(dweight),
        dweight_bias: numbers(dweight_bias),
        dbias: numbers(dbias),
    };
    operator.launch(args, scratch.as_mut().map(Scratch::elements)).unwrap();
    gradients.check()
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn light_conv_backward(case in case(), (selection, few) in (selection(), any::<bool>()), (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let device = if few { of_few_multiprocessors(device) } else { device };
        let backward = light_conv::backward::Backward::draw(&case, selection);
        check_light(device.cuda_gpu().unwrap(), &backward, &mut Scatter::new(&device, seed, step))?;
    }

    #[test]
    fn dynamic_conv_backward(
        case in case(),
        (generator, selection, few) in (dynamic_conv::generator(), selection(), any::<bool>()),
        (seed, step) in place(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let device = if few { of_few_multiprocessors(device) } else { device };
        let backward = dynamic_conv::backward::Backward::draw(&case, generator, selection);
        check_dynamic(device.cuda_gpu().unwrap(), &backward, &mut Scatter::new(&device, seed, step))?;
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn span_conv_backward(case in trained_case(), channels in 1usize..40, selection in selection(), (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let backward = span_conv::backward::Backward::draw(&case, channels, selection);
        check_span(device.cuda_gpu().unwrap(), &backward, &mut Scatter::new(&device, seed, step))?;
    }
}

/// Numbers that spoil what they touch, and where they are put: in x, in the weight or in dy, and where in it.
fn spots() -> impl Strategy<Value = Vec<(f64, usize, prop::sample::Index)>> {
    let number = prop::sample::select(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 30_000.0][..]);
    prop::collection::vec((number, 0usize..3, any::<prop::sample::Index>()), 1..4)
}

/// Puts them there.
fn spoil(tensors: [&mut Values; 3], spots: Vec<(f64, usize, prop::sample::Index)>) {
    for (number, which, at) in spots {
        let tensor = &mut *tensors[which];
        if !tensor.data.is_empty() {
            let at = at.index(tensor.data.len());
            tensor.data[at] = tensor.dtype.round(number);
        }
    }
}

/// Of heads that products of matrices may take.
fn wide_case() -> impl Strategy<Value = ConvCase> {
    let sizes = (prop::sample::select(&[16usize, 32, 80][..]), 1usize..4, any::<bool>());
    (case(), sizes).prop_map(|(case, (head_channels, heads, half))| {
        let dtype = if half { DType::F16 } else { DType::BF16 };
        let parameters = if case.parameters == DType::F32 { DType::F32 } else { dtype };
        ConvCase { heads, head_channels, dtype, parameters, ..case }
    })
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn light_conv_backward_of_what_is_no_number(
        (case, selection) in (wide_case(), selection()),
        (seed, step) in place(),
        spots in spots(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let mut backward = light_conv::backward::Backward::draw(&case, selection);
        spoil([&mut backward.call.x, &mut backward.call.weight, &mut backward.dy], spots);
        check_light(device.cuda_gpu().unwrap(), &backward, &mut Scatter::new(&device, seed, step))?;
    }

    #[test]
    fn dynamic_conv_backward_of_what_is_no_number(
        (case, generator, selection) in (wide_case(), dynamic_conv::generator(), selection()),
        (seed, step) in place(),
        spots in spots(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let mut backward = dynamic_conv::backward::Backward::draw(&case, generator, selection);
        spoil([&mut backward.call.x, &mut backward.call.weight, &mut backward.dy], spots);
        check_dynamic(device.cuda_gpu().unwrap(), &backward, &mut Scatter::new(&device, seed, step))?;
    }
}
