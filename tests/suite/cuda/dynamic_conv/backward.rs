//! Gradients by products of matrices, on devices of other sizes: plans go by what there is.

use lightspan::cuda::Limits;
use lightspan::problem::{
    Convolution, DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, Taps,
};
use lightspan::{DType, Device, Normalize, Sequences, Window};
use proptest::prelude::*;

use super::{device, spots};
use crate::cuda::traffic::{conflicts, dynamic_conv_backward::dynamic_conv_backward};
use crate::dynamic_conv::backward::Backward;
use crate::dynamic_conv::generator;
use crate::support::{assert_admitted, config, selection, sequences, trained_case};

/// By what powers of two logits are multiplied, one after another.
fn powers() -> impl Strategy<Value = Vec<i32>> {
    prop_oneof![Just(vec![0]), prop::collection::vec(-40..20, 1..5)]
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn equals_the_reference_on_any_device(
        (mut case, generator, selection) in (trained_case(), generator(), selection()),
        sequences in sequences(1..3, 0..200),
        (width, dilation, left) in (1usize..135, 1usize..4, any::<prop::sample::Index>()),
        (heads, head_channels) in (1usize..4, prop::sample::select(&[16usize, 17, 24, 40, 64, 70, 136, 280][..])),
        (half, wide) in (any::<bool>(), any::<bool>()),
        (powers, spots, device) in (powers(), spots(), device()),
    ) {
        case.sequences = sequences;
        case.window = Window::new(width, dilation, left.index((width - 1) * dilation + 1)).unwrap();
        (case.heads, case.head_channels) = (heads, head_channels);
        case.dtype = if half { DType::F16 } else { DType::BF16 };
        case.parameters = if wide { DType::F32 } else { case.dtype };
        let mut backward = Backward::draw(&case, generator, selection);
        // Weights that are logits as they are may be of any size.
        if backward.call.problem.taps() == Taps::Given && case.normalize == Normalize::None {
            let logits = &mut backward.call.weight;
            for (number, power) in logits.data.iter_mut().zip(powers.into_iter().cycle()) {
                *number = logits.dtype.round(*number * f64::from(power).exp2());
            }
        }
        for (number, tensor, at) in spots {
            let tensors = [&mut backward.call.x, &mut backward.dy, &mut backward.call.weight];
            let tensor = tensors.into_iter().nth(tensor % 3).filter(|tensor| !tensor.data.is_empty());
            if let Some(tensor) = tensor {
                let at = at.index(tensor.data.len());
                tensor.data[at] = tensor.dtype.round(number);
            }
        }
        for (expected, found) in backward.expected().iter().zip(backward.run(&device).unwrap()) {
            prop_assert_eq!(expected.wanted, found.is_some(), "{}", expected.name);
            if let Some(found) = found {
                assert_admitted(&expected.estimates, &found)
                    .map_err(|error| TestCaseError::fail(format!("{}: {error}", expected.name)))?;
            }
        }
    }
}

/// Both gradients are made by matrices, and move little more than must move: dy twice, x, logits twice, and what they make.
#[test]
fn gradients_are_made_by_matrices() {
    // So few multiprocessors that there is enough to do for all of them.
    let device = Device::cuda_emulated_with(Limits { multiprocessors: 4, ..Limits::H100 });
    let sequences = Sequences::batch(1, 2048).unwrap();
    let tokens = sequences.shape().tokens();
    for (channels, heads) in [(256, 4), (256, 8)] {
        for width in [3, 31, 63, 127] {
            for dtype in [DType::F16, DType::BF16] {
                let window = Window::same(width).unwrap();
                let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype)
                    .and_then(|conv| conv.with_parameters(DType::F32))
                    .unwrap();
                let problem = DynamicConvProblem::given(conv).unwrap();
                for wanted in [
                    DynamicConvWanted { logits: true, ..DynamicConvWanted::NONE },
                    DynamicConvWanted { x: true, ..DynamicConvWanted::NONE },
                ] {
                    let (launches, predicted) = dynamic_conv_backward(&device, problem, wanted, &sequences);
                    let [launch] = &launches[..] else {
                        panic!("{} launches", launches.len());
                    };
                    let least = DynamicConvBackwardProblem::new(problem, wanted).unwrap().bytes();
                    let share = predicted.token_bytes() as f64 / least as f64;
                    let [met, passes] = conflicts(launch);
                    let each = launch.profile.total().warps as f64 / (tokens * heads) as f64;
                    let conflicts = met as f64 / passes as f64;
                    println!(
                        "{}, {dtype}, R = {}, K = {width}: {share:.3} of the least, {each:.1} instructions of warps a token and head, {conflicts:.3} of passes are conflicts",
                        launch.entry,
                        channels / heads
                    );
                    let bands = tokens * channels * (15 + width).next_multiple_of(16);
                    let parts = match dtype {
                        _ if wanted.logits => 1,
                        DType::F16 => 2,
                        _ => 3,
                    };
                    assert!(launch.profile.matrix_multiply_adds >= (parts * bands) as u64);
                    assert!(conflicts < if width > 33 { 0.2 } else { 0.03 }, "{conflicts}");
                    assert!((1.0..=3.0).contains(&share) || width > 31, "{share}");
                }
            }
        }
    }
}

/// By multiply-adds too next to no bank is met twice, where heads are wide.
#[test]
fn sums_lie_on_different_banks() {
    let device = Device::cuda_emulated();
    let sequences = Sequences::batch(2, 512).unwrap();
    let wanted = DynamicConvWanted { logits: true, ..DynamicConvWanted::NONE };
    for width in [3, 31, 127] {
        let window = Window::same(width).unwrap();
        let conv = Convolution::new(sequences.shape(), 256, 4, window, DType::F32).unwrap();
        let problem = DynamicConvProblem::given(conv).unwrap();
        let (launches, _) = dynamic_conv_backward(&device, problem, wanted, &sequences);
        let [met, passes] = conflicts(&launches[0]);
        assert!(met as f64 <= 0.05 * passes as f64, "{met} of {passes}");
    }
}
