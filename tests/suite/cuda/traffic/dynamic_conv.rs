use lightspan::cuda::{DynamicConv, LaunchProfile, Traffic};
use lightspan::problem::{Convolution, DynamicConvProblem, Taps};
use lightspan::{DType, Device, Normalize, Sequences, Window, ops};
use proptest::prelude::*;

use super::{assert_all_counted, conflicts, profiled_launches};
use crate::support::{Numbers, config, sequences};

/// Runs a dynamic convolution without a bias on its outputs.
fn run_dynamic_conv(
    device: &Device,
    problem: &DynamicConvProblem,
    sequences: &Sequences,
) -> Vec<LaunchProfile> {
    let conv = problem.convolution();
    let mut numbers = Numbers::new(7);
    let x = numbers.draw(&sequences.shape().tensor(conv.channels()), conv.dtype(), 1.0).on(device);
    let history =
        conv.has_history().then(|| numbers.draw(&conv.history_shape(), conv.dtype(), 1.0).on(device));
    let (normalize, sequences_of) = (conv.normalize(), Some(sequences));
    match problem.taps() {
        Taps::Given => {
            let mut shape = sequences.shape().tensor(conv.heads());
            shape.push(conv.window().width());
            let logits = numbers.draw(&shape, conv.parameters(), 1.0).on(device);
            let options = ops::ConvOptions {
                bias: None,
                normalize,
                sequences: sequences_of,
                history: history.as_ref(),
                dropout: None,
            };
            let run = || ops::dynamic_conv_given(&x, &logits, conv.window(), &options).unwrap();
            profiled_launches(device, run)
        }
        Taps::Generated { query_channels, query, weight_bias } => {
            let weight = numbers.draw(&[problem.logits(), query_channels], conv.parameters(), 0.1).on(device);
            let rows = sequences.shape().tensor(query_channels);
            let query = query.map(|dtype| numbers.draw(&rows, dtype, 1.0).on(device));
            let bias =
                weight_bias.then(|| numbers.draw(&[problem.logits()], conv.parameters(), 0.1).on(device));
            let options = ops::DynamicConvOptions {
                query: query.as_ref(),
                weight_bias: bias.as_ref(),
                normalize,
                sequences: sequences_of,
                history: history.as_ref(),
                ..Default::default()
            };
            let run = || ops::dynamic_conv(&x, &weight, conv.heads(), conv.window(), &options).unwrap();
            profiled_launches(device, run)
        }
        other => panic!("{other:?}"),
    }
}

/// The same, and holds its traffic against the prediction.
pub fn dynamic_conv(
    device: &Device,
    problem: &DynamicConvProblem,
    sequences: &Sequences,
) -> (Vec<LaunchProfile>, Traffic) {
    let operator = DynamicConv::new(device.cuda_gpu().unwrap(), *problem).unwrap();
    let predicted = operator.traffic(sequences).unwrap();
    let launches = run_dynamic_conv(device, problem, sequences);
    assert_all_counted(&launches, predicted);
    (launches, predicted)
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn dynamic_conv_reads_and_writes_what_is_predicted(
        sequences in prop_oneof![sequences(1..5, 1..60), sequences(1..3, 200..300)],
        past in prop::collection::vec(0usize..100, 5),
        (width, dilation, left) in (1usize..140, 1usize..4, any::<prop::sample::Index>()),
        (columns, head_channels) in (1usize..4, prop::sample::select(&[4usize, 8, 16, 64][..])),
        (dtype, wide) in (prop::sample::select(&DType::ALL[..]), any::<bool>()),
        normalize in prop::sample::select(&[Normalize::None, Normalize::Softmax, Normalize::SoftmaxInRange][..]),
        history in any::<bool>(),
    ) {
        let tokens = sequences.shape().tokens();
        if tokens == 0 {
            return Ok(());
        }
        let reach = (width - 1) * dilation;
        let left = if history { reach } else { left.index(reach + 1) };
        let count = sequences.as_slice().len();
        let sequences = if history { sequences.after(&past[..count]).unwrap() } else { sequences };
        let channels = 64 * columns;
        let window = Window::new(width, dilation, left).unwrap();
        let conv = Convolution::new(sequences.shape(), channels, channels / head_channels, window, dtype)
            .and_then(|conv| conv.with_parameters(if wide { DType::F32 } else { dtype }))
            .and_then(|conv| conv.with_history(history))
            .unwrap()
            .with_normalize(normalize);
        let problem = DynamicConvProblem::given(conv).unwrap();
        dynamic_conv(&Device::cuda_emulated(), &problem, &sequences);
    }
}

/// Where logits cross from one launch to another, as those of windows too long for one do, both are counted.
#[test]
fn generated_taps_read_and_write_what_is_predicted() {
    let device = Device::cuda_emulated();
    for (dtype, parameters) in DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)])
    {
        for (time, heads, width) in [(7, 1, 72), (130, 4, 80), (300, 2, 128), (70, 64, 136)] {
            let sequences = Sequences::padded(time, &[time, time / 2]).unwrap();
            let conv = Convolution::new(sequences.shape(), 128, heads, Window::same(width).unwrap(), dtype)
                .and_then(|conv| conv.with_parameters(parameters))
                .unwrap();
            let problem = DynamicConvProblem::generated(conv).unwrap();
            let (launches, _) = dynamic_conv(&device, &problem, &sequences);
            assert_eq!(launches.len(), 2, "{problem:?}");
        }
    }
}

/// With given logits, long sequences move little more than must move; logits that are no whole sectors for a token and head
/// are read a sector more of, and those of a head wider than a row of the block's memory more than once.
#[test]
fn dynamic_halos_are_short() {
    let device = Device::cuda_emulated();
    let sequences = Sequences::batch(4, 4_096).unwrap();
    for (dtype, head_channels, width, allowed) in [
        (DType::F16, 64, 3, 1.15),
        (DType::BF16, 64, 31, 1.25),
        (DType::BF16, 64, 63, 1.25),
        (DType::BF16, 128, 127, 1.35),
        (DType::F16, 16, 31, 1.4),
        (DType::F32, 64, 31, 1.45),
        (DType::F32, 16, 31, 1.45),
    ] {
        let window = Window::causal(width).unwrap();
        let conv = Convolution::new(sequences.shape(), 512, 512 / head_channels, window, dtype).unwrap();
        let problem = DynamicConvProblem::given(conv).unwrap();
        let operator = DynamicConv::new(device.cuda_gpu().unwrap(), problem).unwrap();
        let share = operator.traffic(&sequences).unwrap().token_bytes() as f64 / problem.bytes() as f64;
        println!("{dtype}, R = {head_channels}, K = {width}: {share:.3} of the least");
        assert!((1.0..=allowed).contains(&share), "{dtype}, R = {head_channels}, K = {width}: {share}");
    }
}

/// The form by products of matrices meets no bank of the shared memory twice, and multiplies matrices.
#[test]
fn token_bands_do_not_fight_for_banks() {
    let device = Device::cuda_emulated();
    for (head_channels, width) in [(64, 7), (64, 31), (16, 33), (64, 63), (64, 127), (128, 31)] {
        for (parameters, normalize) in [(DType::BF16, Normalize::Softmax), (DType::F32, Normalize::None)] {
            let sequences = Sequences::batch(1, 1_000).unwrap();
            let conv = Convolution::new(
                sequences.shape(),
                128,
                128 / head_channels,
                Window::same(width).unwrap(),
                DType::BF16,
            )
            .and_then(|conv| conv.with_parameters(parameters))
            .unwrap()
            .with_normalize(normalize);
            let (launches, _) = dynamic_conv(&device, &DynamicConvProblem::given(conv).unwrap(), &sequences);
            let [launch] = &launches[..] else { panic!("{launches:?}") };
            assert_eq!(launch.module, "dynamic_conv_banded_bf16");
            assert_eq!(conflicts(launch)[0], 0, "R = {head_channels}, K = {width}, {}", launch.entry);
            // Each product has 16 x 8 sums of 16 terms, in three parts.
            let least = (1_000 * 128 * (width + 15) * 3) as u64;
            let products = launch.profile.matrix_multiply_adds;
            assert!(products >= least, "{products}, not {least}");
        }
    }
}

/// The form by multiply-adds meets some: where a pass writes the taps of several rows, and where neighbouring channels are
/// of two heads.
#[test]
fn token_taps_fight_little_for_banks() {
    let device = Device::cuda_emulated();
    for dtype in DType::ALL {
        for (head_channels, width) in
            [(2, 3), (2, 31), (8, 31), (8, 127), (64, 3), (64, 31), (64, 150), (1, 3), (1, 31)]
        {
            if dtype != DType::F32 && head_channels >= 16 && width < 130 {
                continue;
            }
            let sequences = Sequences::batch(2, 512).unwrap();
            let window = Window::causal(width).unwrap();
            let conv = Convolution::new(sequences.shape(), 64, 64 / head_channels, window, dtype).unwrap();
            let (launches, _) = dynamic_conv(&device, &DynamicConvProblem::given(conv).unwrap(), &sequences);
            let [launch] = &launches[..] else { panic!("{launches:?}") };
            let [conflicts, passes] = conflicts(launch);
            let share = conflicts as f64 / passes as f64;
            println!("{dtype}, R = {head_channels}, K = {width}: {share:.3} of {passes} passes");
            assert!(launch.module != "dynamic_conv_banded_f16" && launch.profile.matrix_multiply_adds == 0);
            assert!(
                share <= if head_channels <= 2 { 0.5 } else { 0.25 },
                "{dtype}, R = {head_channels}, K = {width}: {share}"
            );
        }
    }
}
