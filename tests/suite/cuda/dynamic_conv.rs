//! Dynamic convolution in one launch, on devices of other sizes: plans go by what there is.

mod backward;

use lightspan::cuda::{DynamicConv, Limits};
use lightspan::problem::{Convolution, DynamicConvProblem};
use lightspan::{DType, Device, Sequences, Window};
use proptest::prelude::*;

use crate::cuda::traffic::dynamic_conv::dynamic_conv;
use crate::dynamic_conv::{Call, Generator, generator};
use crate::support::{assert_admitted, config, conv_case, sequences};

/// A device with much or little shared memory; with few multiprocessors tiles are as large as it holds.
fn device() -> impl Strategy<Value = Device> {
    let limits = prop::sample::select(&[Limits::L4, Limits::A100, Limits::H100][..]);
    (limits, any::<bool>()).prop_map(|(limits, few)| {
        let multiprocessors = if few { 2 } else { limits.multiprocessors };
        Device::cuda_emulated_with(Limits { multiprocessors, ..limits })
    })
}

/// Numbers that spoil what they touch, and where they are put: in which tensor, and where in it.
fn spots() -> impl Strategy<Value = Vec<(f64, usize, prop::sample::Index)>> {
    let number = prop::sample::select(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 30_000.0][..]);
    let tensor = prop_oneof![2 => Just(0), 3 => 1usize..5];
    let spots = prop::collection::vec((number, tensor, any::<prop::sample::Index>()), 1..4);
    prop_oneof![2 => Just(vec![]), 1 => spots]
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn equals_the_reference_on_any_device(
        (mut case, generator) in (conv_case(), generator()),
        (sequences, past) in (sequences(1..3, 0..200), prop::collection::vec(0usize..100, 3)),
        (heads, head_channels) in (1usize..9, prop::sample::select(&[5usize, 16, 17, 24, 32, 40, 64, 70][..])),
        (query_channels, sixteen_bits) in (1usize..500, prop::option::weighted(0.8, any::<bool>())),
        (spots, device) in (spots(), device()),
    ) {
        let count = sequences.as_slice().len();
        case.sequences = if case.history { sequences.after(&past[..count]).unwrap() } else { sequences };
        (case.heads, case.head_channels) = (heads, head_channels);
        if let Some(half) = sixteen_bits {
            case.dtype = if half { DType::F16 } else { DType::BF16 };
            case.parameters = if case.parameters == DType::F32 { DType::F32 } else { case.dtype };
        }
        let generator = match generator {
            Generator::Separate { wide, weight_bias, .. } => {
                Generator::Separate { channels: query_channels, wide, weight_bias }
            }
            other => other,
        };
        let mut call = Call::draw(&case, generator);
        for (number, tensor, at) in spots {
            let Call { x, query, history, weight, weight_bias, .. } = &mut call;
            let tensors = [Some(x), query.as_mut(), history.as_mut(), Some(weight), weight_bias.as_mut()];
            let tensor = tensors.into_iter().nth(tensor).flatten();
            if let Some(tensor) = tensor.filter(|tensor| !tensor.data.is_empty()) {
                let at = at.index(tensor.data.len());
                tensor.data[at] = tensor.dtype.round(number);
            }
        }
        // All of it in one launch, or with the logits in memory.
        let operator = DynamicConv::new(device.cuda_gpu().unwrap(), call.problem).unwrap();
        prop_assert!(operator.scratch_len() == 0 || !matches!(generator, Generator::Given));
        assert_admitted(&call.expected(), &call.run(&device))?;
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn one_launch_reads_and_writes_what_is_predicted(
        sequences in prop_oneof![sequences(1..5, 1..60), sequences(1..3, 100..300)],
        past in prop::collection::vec(0usize..100, 5),
        (width, dilation, left) in (1usize..66, 1usize..4, any::<prop::sample::Index>()),
        (heads, head_channels) in (1usize..4, prop::sample::select(&[16usize, 64][..])),
        (query_channels, wide_query) in (prop::option::of(1usize..5), any::<bool>()),
        (dtype, wide) in (prop::sample::select(&DType::ALL[..]), any::<bool>()),
        (weight_bias, history) in (any::<bool>(), any::<bool>()),
        limits in prop::sample::select(&[Limits::L4, Limits::A100, Limits::H100][..]),
    ) {
        if sequences.shape().tokens() == 0 {
            return Ok(());
        }
        let reach = (width - 1) * dilation;
        let left = if history { reach } else { left.index(reach + 1) };
        let count = sequences.as_slice().len();
        let sequences = if history { sequences.after(&past[..count]).unwrap() } else { sequences };
        let window = Window::new(width, dilation, left).unwrap();
        let conv = Convolution::new(sequences.shape(), heads * head_channels, heads, window, dtype)
            .and_then(|conv| conv.with_parameters(if wide { DType::F32 } else { dtype }))
            .and_then(|conv| conv.with_history(history))
            .unwrap();
        let mut problem = DynamicConvProblem::generated(conv).unwrap().with_weight_bias(weight_bias).unwrap();
        if let Some(sixteens) = query_channels {
            problem = problem.with_query(16 * sixteens, if wide_query { DType::F32 } else { dtype }).unwrap();
        }
        let device = Device::cuda_emulated_with(limits);
        // Two launches are held to theirs elsewhere, where logits lie on whole sectors. Not many calls take two.
        prop_assume!(DynamicConv::new(device.cuda_gpu().unwrap(), problem).unwrap().scratch_len() == 0);
        dynamic_conv(&device, &problem, &sequences);
    }
}

/// Long sequences move at most 1.25 times the tokens that must move, and both products are made by matrices. No bank is
/// met twice but where warps leave their logits: two by two.
#[test]
fn logits_stay_on_the_chip() {
    // So few multiprocessors that there is enough to do for all of them.
    let device = Device::cuda_emulated_with(Limits { multiprocessors: 4, ..Limits::H100 });
    let sequences = Sequences::batch(1, 2048).unwrap();
    let tokens = sequences.shape().tokens();
    for (channels, heads, separate) in [(256, 4, false), (512, 8, false), (256, 8, true)] {
        for width in [3, 7, 15, 31] {
            for dtype in [DType::F16, DType::BF16] {
                let window = Window::same(width).unwrap();
                let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype).unwrap();
                let problem = DynamicConvProblem::generated(conv).unwrap();
                let problem = if separate { problem.with_query(channels, dtype).unwrap() } else { problem };
                let (launches, predicted) = dynamic_conv(&device, &problem, &sequences);
                let [launch] = &launches[..] else {
                    panic!("{} launches", launches.len());
                };
                let tensors = if separate { 3 } else { 2 };
                let share =
                    predicted.token_bytes() as f64 / (tensors * tokens * channels * dtype.size()) as f64;
                let profile = &launch.profile;
                let (loads, stores) = (profile.shared_loads, profile.shared_stores);
                let conflicts = stores.conflicts() as f64 / (loads.passes + stores.passes) as f64;
                println!(
                    "{dtype}, C = {channels}, K = {width}: {share:.3} of the least, {:.1} instructions of warps a token, {conflicts:.3} of passes are conflicts",
                    profile.total().warps as f64 / tokens as f64
                );
                assert!((1.0..=1.25).contains(&share), "{share}");
                assert!(loads.conflicts() == 0 && conflicts < 0.06, "{loads:?} {stores:?}");
                // As many as there are logits, and for each part of a band.
                let logits = tokens * problem.logits() * channels;
                let bands = tokens * channels * (15 + width).next_multiple_of(16);
                let parts = if dtype == DType::F16 { 2 } else { 3 };
                assert!(profile.matrix_multiply_adds >= (logits + parts * bands) as u64);
            }
        }
    }
}
