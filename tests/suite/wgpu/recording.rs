//! Calls are recorded: several in one encoder or pass, one several times, on what the buffers hold when they run.

use lightspan::problem::{Convolution, LightConvProblem, LinearProblem};
use lightspan::wgpu::{DeviceSequences, Elements, LightConv, LightConvArgs, Linear, LinearArgs, Rows};
use lightspan::{DType, Normalize, Sequences, Tensor, Window};
use proptest::prelude::*;

use crate::attention::{self, KINDS};
use crate::dynamic_conv::Generator;
use crate::linear;
use crate::support::gpu::{Scatter, default_device, gpu_device, read};
use crate::support::{config, conv_case};
use crate::wgpu::prepared::{self, run};

proptest! {
    #![proptest_config(config(10))]

    /// One encoder with a call of every operator, of different types and sizes, and the first of them again at its end.
    #[test]
    fn one_encoder_takes_calls_of_every_operator(
        cases in proptest::collection::vec(conv_case(), 4),
        attention in attention::case(40),
        problem in linear::problem(),
        seed in any::<u64>(),
    ) {
        for device in [gpu_device(), default_device()].into_iter().flatten() {
            let gpu = device.gpu().unwrap();
            let mut scatter = Scatter::new(gpu, seed, 1);
            let scatter = &mut scatter;
            let calls = [
                prepared::light_conv(gpu, &cases[0], scatter),
                prepared::dynamic_conv(gpu, &cases[1], Generator::Own { weight_bias: true }, scatter),
                prepared::dynamic_conv(gpu, &cases[1], Generator::Given, scatter),
                prepared::span_key(gpu, &cases[2], 9, true, scatter),
                prepared::span_conv(gpu, &cases[3], 6, scatter),
                prepared::linear(gpu, &linear::Call::draw(problem, seed), scatter),
                prepared::attention(gpu, &attention, KINDS[0], scatter),
                prepared::attention(gpu, &attention, KINDS[1], scatter),
            ];
            run(gpu, calls.iter().chain([&calls[0]]));
            for call in &calls {
                call.check()?;
            }
            // Submitted again, they write the same once more.
            run(gpu, calls.iter().rev());
            for call in &calls {
                call.check()?;
            }
        }
    }
}

/// A linear layer and a convolution of what it wrote, in one pass, are the two operators on tensors; once x is another,
/// the same recorded calls are those on it.
#[test]
fn calls_of_one_pass_see_what_those_before_them_wrote() {
    let Some(device) = gpu_device() else { return };
    let gpu = device.gpu().unwrap();
    const TOKENS: usize = 300;
    const CHANNELS: usize = 10;
    for dtype in DType::ALL {
        let sequences = Sequences::batch(1, TOKENS).unwrap();
        let window = Window::causal(3).unwrap();
        let conv = Convolution::new(sequences.shape(), CHANNELS, 2, window, dtype)
            .unwrap()
            .with_normalize(Normalize::None);
        let draw =
            |shape: &[usize], seed| crate::support::Numbers::new(seed).draw(shape, dtype, 1.0).on(&device);
        let shape = [1, TOKENS, CHANNELS];
        let (layer, weight) = (draw(&[CHANNELS, CHANNELS], 1), draw(&[2, 3], 2));
        let mut x = draw(&shape, 3);
        let [hidden, y] = [0, 1].map(|_| Tensor::zeros(&shape, dtype, &device).unwrap());
        let buffer = |tensor: &Tensor| tensor.wgpu_buffer().unwrap().clone();
        let problem = LinearProblem::new(TOKENS, CHANNELS, CHANNELS, dtype).unwrap();
        let first = Linear::new(gpu, problem).unwrap();
        let first = first.bind(LinearArgs {
            x: Rows::contiguous(&buffer(&x)),
            weight: Elements::from(&buffer(&layer)),
            bias: None,
            residual: None,
            y: Rows::contiguous(&buffer(&hidden)),
        });
        let second = LightConv::new(gpu, LightConvProblem::new(conv)).unwrap();
        let second = second.bind(LightConvArgs {
            sequences: &DeviceSequences::new(gpu, &sequences).unwrap(),
            x: Rows::contiguous(&buffer(&hidden)),
            weight: Elements::from(&buffer(&weight)),
            bias: None,
            history: None,
            seed: None,
            y: Rows::contiguous(&buffer(&y)),
        });
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!([first.dispatches(), second.dispatches()], [1, 1]);
        let mut seen = vec![];
        for seed in [3, 4] {
            let data = crate::support::Numbers::new(seed).draw(&shape, dtype, 1.0);
            x = {
                // The calls are bound to this buffer: new numbers, not a new tensor.
                let bytes = read(gpu, data.on(&device).wgpu_buffer().unwrap());
                gpu.queue().write_buffer(x.wgpu_buffer().unwrap(), 0, &bytes);
                x
            };
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                first.record_in(&mut pass);
                second.record_in(&mut pass);
            }
            gpu.queue().submit([encoder.finish()]);
            let expected = lightspan::ops::linear(&x, &layer, &Default::default()).unwrap();
            let options = lightspan::ops::ConvOptions { normalize: Normalize::None, ..Default::default() };
            let expected = lightspan::ops::light_conv(&expected, &weight, window, &options).unwrap();
            assert!(crate::support::same_bits(&expected, &y), "{dtype}, x of seed {seed}");
            seen.push(y.to_f32().unwrap());
        }
        assert_ne!(seen[0], seen[1]);
    }
}

/// A call of no tokens is empty, and recording it is no error.
#[test]
fn a_call_of_nothing_records_nothing() {
    let Some(device) = gpu_device() else { return };
    let gpu = device.gpu().unwrap();
    let sequences = Sequences::batch(3, 0).unwrap();
    let conv = Convolution::new(sequences.shape(), 4, 2, Window::causal(3).unwrap(), DType::F16).unwrap();
    let operator = LightConv::new(gpu, LightConvProblem::new(conv)).unwrap();
    let [x, weight, y] = [0, 1, 2].map(|_| crate::support::gpu::buffer(gpu, &[7; 12]));
    let args = LightConvArgs {
        sequences: &DeviceSequences::new(gpu, &sequences).unwrap(),
        x: Rows::contiguous(&x),
        weight: (&weight).into(),
        bias: None,
        history: None,
        seed: None,
        y: Rows::contiguous(&y),
    };
    let call = operator.bind(args).unwrap();
    assert!(call.is_empty());
    assert_eq!(call.dispatches(), 0);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    call.record(&mut encoder);
    call.record_in(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(read(gpu, &y), [7; 12]);
}
