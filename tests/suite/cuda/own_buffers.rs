//! Every drawn call on memory of one's own is within the bounds of the reference: tensors at any element, rows with gaps
//! that hold NaN, outputs between bits that stay as they were.

use lightspan::cuda::{self as room, DeviceSequences, Gpu};
use lightspan::problem::{HistoryProblem, LightConvProblem};
use lightspan::reference;
use lightspan::reference::Estimate;
use proptest::prelude::*;

use crate::support::cuda::{Input, Scatter, cuda_device};
use crate::support::{ConvCase, Numbers, config, conv_case, long_conv_case};
use crate::{light_conv, linear};

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
            y: output.rows(),
        })
        .unwrap();
    output.check(&call.expected())
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
    fn linear_layer(problem in linear::problem(), seed in any::<u64>(), (place, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let (call, mut scatter) = (linear::Call::draw(problem, seed), Scatter::new(&device, place, step));
        let x = scatter.rows(&call.x, problem.inputs());
        let weight = scatter.elements(&call.weight);
        let bias = scatter.optional(&call.bias);
        let mut output = scatter.output(problem.rows(), problem.outputs(), problem.dtype());
        let operator = room::Linear::new(device.cuda_gpu().unwrap(), problem).unwrap();
        operator
            .launch(room::LinearArgs {
                x: x.rows(),
                weight: weight.elements(),
                bias: elements(&bias),
                y: output.rows(),
            })
            .unwrap();
        let expected: Vec<_> = (0..problem.rows()).flat_map(|row| call.expected(row)).collect();
        output.check(&expected)?;
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
