use lightspan::cuda::{LaunchProfile, LightConvBackward, Limits, Traffic};
use lightspan::problem::{Convolution, LightConvBackwardProblem, LightConvProblem, LightConvWanted};
use lightspan::{DType, Device, Dropout, DropoutRate, Normalize, Sequences, Tensor, Window, ops};
use proptest::prelude::*;

use super::{assert_all_counted, profiled_launches};
use crate::support::{Numbers, config, sequences};

/// Runs a backward pass, and holds its traffic against the prediction.
fn light_conv_backward(
    device: &Device,
    conv: Convolution,
    wanted: LightConvWanted,
    sequences: &Sequences,
) -> (Vec<LaunchProfile>, Traffic) {
    let forward = LightConvProblem::new(conv);
    let problem = LightConvBackwardProblem::new(forward, wanted).unwrap();
    let operator = LightConvBackward::new(device.cuda_gpu().unwrap(), problem).unwrap();
    let predicted = operator.traffic(sequences).unwrap();
    let mut numbers = Numbers::new(7);
    let mut draw = |shape: &[usize], dtype| -> Tensor { numbers.draw(shape, dtype, 1.0).on(device) };
    let rows = sequences.shape().tensor(conv.channels());
    let (x, dy) = (draw(&rows, conv.dtype()), draw(&rows, conv.dtype()));
    let weight = draw(&forward.weight_shape(), conv.parameters());
    let bias = conv.has_bias().then(|| draw(&[conv.channels()], conv.parameters()));
    let options = ops::ConvOptions {
        bias: bias.as_ref(),
        normalize: conv.normalize(),
        sequences: Some(sequences),
        dropout: conv.dropout().map(|rate| Dropout::new(rate.get(), 7).unwrap()),
        ..Default::default()
    };
    let launches = profiled_launches(device, || {
        ops::light_conv_backward(&x, &weight, &dy, conv.window(), &options, &wanted).unwrap()
    });
    assert_all_counted(&launches, predicted);
    (launches, predicted)
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn reads_and_writes_what_is_predicted(
        sequences in prop_oneof![sequences(1..5, 1..60), sequences(1..3, 300..900)],
        (width, dilation, left) in (1usize..140, 1usize..4, any::<prop::sample::Index>()),
        (columns, head_channels) in (1usize..4, prop::sample::select(&[1usize, 8, 16, 64][..])),
        (dtype, wide) in (prop::sample::select(&DType::ALL[..]), any::<bool>()),
        (softmax, dropout, few) in (any::<bool>(), any::<bool>(), any::<bool>()),
        wanted in any::<[bool; 4]>(),
    ) {
        let channels = 64 * columns;
        let window = Window::new(width, dilation, left.index((width - 1) * dilation + 1)).unwrap();
        let conv = Convolution::new(sequences.shape(), channels, channels / head_channels, window, dtype)
            .and_then(|conv| conv.with_parameters(if wide { DType::F32 } else { dtype }))
            .unwrap()
            .with_normalize(if softmax { Normalize::Softmax } else { Normalize::None })
            .with_dropout(dropout.then(|| DropoutRate::new(0.5).unwrap()))
            .with_bias(true);
        let [x, weight, bias, wide] = wanted;
        let wanted = LightConvWanted { x, weight, bias, parameters: wide.then_some(DType::F32) };
        let multiprocessors = if few { 2 } else { Limits::A100.multiprocessors };
        let device = Device::cuda_emulated_with(Limits { multiprocessors, ..Limits::A100 });
        light_conv_backward(&device, conv, wanted, &sequences);
    }
}

/// The gradient of the weight of long sequences moves at most 1.25 times what must move, and meets no bank twice where rows
/// are a power of two but at the end of a block.
#[test]
fn tokens_are_read_little_more_than_once() {
    let device = Device::cuda_emulated_with(Limits { multiprocessors: 4, ..Limits::A100 });
    let sequences = Sequences::batch(2, 10_000).unwrap();
    let wanted = LightConvWanted { weight: true, bias: true, ..LightConvWanted::NONE };
    for (dtype, head_channels) in [(DType::F32, 16), (DType::BF16, 4), (DType::F16, 64)] {
        for width in [3, 31, 63] {
            let window = Window::same(width).unwrap();
            let conv = Convolution::new(sequences.shape(), 64, 64 / head_channels, window, dtype)
                .unwrap()
                .with_bias(true);
            let (launches, predicted) = light_conv_backward(&device, conv, wanted, &sequences);
            let problem = LightConvBackwardProblem::new(LightConvProblem::new(conv), wanted).unwrap();
            let share = predicted.token_bytes() as f64 / problem.bytes() as f64;
            let profile = &launches[0].profile;
            let (loads, stores) = (profile.shared_loads, profile.shared_stores);
            let conflicts =
                (loads.conflicts() + stores.conflicts()) as f64 / (loads.passes + stores.passes) as f64;
            let each = profile.total().warps as f64 / (sequences.shape().tokens() * 64) as f64;
            println!(
                "{dtype}, {head_channels} channels a head, K = {width}: {share:.3} of the least, {conflicts:.3} of passes are conflicts, {each:.2} instructions of warps a token and channel"
            );
            assert!((1.0..=1.25).contains(&share), "{share}");
            assert!(profile.matrix_multiply_adds > 0 || head_channels != 64);
            assert!(conflicts < 0.02, "{loads:?} {stores:?}");
        }
    }
}
