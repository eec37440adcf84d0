use lightspan::cuda::{LaunchProfile, Limits, LinearBackward, SpanKeyBackward};
use lightspan::problem::{
    Activation, LinearBackwardProblem, LinearProblem, LinearWanted, SpanKeyBackwardProblem, SpanKeyProblem,
    SpanKeyWanted,
};
use lightspan::{DType, Device, Sequences, Tensor, Window, ops};
use proptest::prelude::*;

use super::{assert_all_counted, few_multiprocessors, profiled_launches};
use crate::support::{Numbers, config};

/// Runs the backward pass of a linear layer, and holds its traffic against the prediction.
fn linear_backward(device: &Device, problem: LinearBackwardProblem) -> Vec<LaunchProfile> {
    let predicted = LinearBackward::new(device.cuda_gpu().unwrap(), problem).unwrap().traffic();
    let forward = problem.forward();
    let (rows, inputs, outputs, dtype) =
        (forward.rows(), forward.inputs(), forward.outputs(), forward.dtype());
    let mut numbers = Numbers::new(3);
    let mut draw = |shape: &[usize], dtype| -> Tensor { numbers.draw(shape, dtype, 1.0).on(device) };
    let (x, weight) = (draw(&[rows, inputs], dtype), draw(&[outputs, inputs], forward.parameters()));
    let [y, dy] = [0; 2].map(|_| draw(&[rows, outputs], dtype));
    let bias = draw(&[outputs], forward.parameters());
    let options = ops::LinearOptions {
        bias: forward.has_bias().then_some(&bias),
        activation: forward.activation(),
        ..Default::default()
    };
    let wanted = LinearWanted { parameters: Some(problem.parameters()), ..problem.wanted() };
    let launches = profiled_launches(device, || {
        ops::linear_backward(&x, &weight, Some(&y), &dy, &options, &wanted).unwrap()
    });
    assert_all_counted(&launches, predicted);
    launches
}

#[test]
fn linear_backward_reads_and_writes_what_is_predicted() {
    let types = DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)]);
    for (dtype, parameters) in types {
        for [rows, inputs, outputs] in [[1, 64, 16], [130, 96, 192], [300, 16, 64], [1200, 160, 144]] {
            for (activation, device) in
                [(Activation::Identity, Device::cuda_emulated()), (Activation::Relu, few_multiprocessors())]
            {
                let forward = LinearProblem::new(rows, inputs, outputs, dtype)
                    .and_then(|problem| problem.with_parameters(parameters)?.with_activation(activation))
                    .unwrap()
                    .with_bias(true);
                for wanted in [
                    LinearWanted::ALL,
                    LinearWanted { x: true, ..LinearWanted::NONE },
                    LinearWanted { bias: true, ..LinearWanted::NONE },
                ] {
                    let problem = LinearBackwardProblem::new(forward, wanted).unwrap();
                    let launches = linear_backward(&device, problem);
                    // f32 never goes to the tensor cores; what goes there, goes with all of it.
                    let products =
                        launches.iter().map(|launch| launch.profile.matrix_multiply_adds).sum::<u64>();
                    let times = u64::from(wanted.x) + u64::from(wanted.weight);
                    let all = times * (rows * inputs * outputs) as u64;
                    assert!(if dtype == DType::F32 { products == 0 } else { products >= all }, "{products}");
                    for launch in &launches {
                        let profile = &launch.profile;
                        let conflicts = [profile.shared_loads.conflicts(), profile.shared_stores.conflicts()];
                        assert_eq!(conflicts, [0, 0], "{} of {problem:?}", launch.entry);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn span_key_backward_reads_and_writes_what_is_predicted(
        // Products that leave out padding are not predicted.
        sequences in (1usize..5, 1usize..60, any::<bool>()).prop_map(|(count, time, packed)| {
            let offsets: Vec<_> = (0..=count).map(|i| i * i * time).collect();
            if packed { Sequences::packed(&offsets) } else { Sequences::batch(count, time) }.unwrap()
        }),
        (width, dilation, left) in (1usize..150, 1usize..4, any::<prop::sample::Index>()),
        (channels, outputs) in (1usize..6, 1usize..12),
        (few, dtype, wide, output) in (any::<bool>(), prop::sample::select(&DType::ALL[..]), any::<bool>(), any::<bool>()),
        wanted in any::<[bool; 6]>(),
    ) {
        let window = Window::new(width, dilation, left.index((width - 1) * dilation + 1)).unwrap();
        let either = |wide| if wide { DType::F32 } else { dtype };
        let forward = SpanKeyProblem::new(sequences.shape(), 16 * channels, 16 * outputs, window, dtype)
            .and_then(|problem| problem.with_parameters(either(wide))?.with_output(either(output)))
            .unwrap();
        let [x, query, depthwise, pointwise, _, gradients] = wanted;
        let parameters = Some(either(wide || gradients));
        // A bias that is read is not predicted.
        let wanted = SpanKeyWanted { x, query, depthwise, pointwise, key_bias: false, parameters };
        let problem = SpanKeyBackwardProblem::new(forward, wanted).unwrap();
        let multiprocessors = if few { 1 } else { Limits::A100.multiprocessors };
        let device = Device::cuda_emulated_with(Limits { multiprocessors, ..Limits::A100 });
        let operator = SpanKeyBackward::new(device.cuda_gpu().unwrap(), problem).unwrap();
        let predicted = operator.traffic(&sequences).unwrap();
        let mut numbers = Numbers::new(7);
        let mut draw = |shape: &[usize], dtype| -> Tensor { numbers.draw(shape, dtype, 1.0).on(&device) };
        let conv = forward.depthwise();
        let rows = |channels: usize| sequences.shape().tensor(channels);
        let x = draw(&rows(conv.channels()), dtype);
        let query = draw(&rows(forward.outputs()), dtype);
        let dz = draw(&rows(forward.outputs()), forward.output());
        let depthwise = draw(&[conv.channels(), width], conv.parameters());
        let pointwise = draw(&[forward.outputs(), conv.channels()], conv.parameters());
        let tensors = ops::SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
        let options = ops::SpanKeyOptions {
            sequences: Some(&sequences),
            output: Some(forward.output()),
            ..Default::default()
        };
        let launches = profiled_launches(&device, || {
            ops::span_key_backward(&tensors, &dz, window, &options, &wanted).unwrap()
        });
        assert_all_counted(&launches, predicted);
    }
}
