//! Kernels are compiled for types and for how tensors lie, never for a size: their number has an end, which few calls
//! reach.

use ::wgpu::Limits;
use lightspan::problem::{EmbeddingProblem, LinearProblem, NormProblem, TopKProblem};
use lightspan::{DType, Device, Normalize, Sequences, Window};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::dynamic_conv::{self, Generator};
use crate::support::gpu::device_with;
use crate::support::{ConvCase, Selection, config};
use crate::{attention, embedding, light_conv, linear, norm, span_conv, span_key, top_k};

/// Convolutions of one kind and of all sizes; the channels of a head are even.
fn case(dtype: DType, normalize: Normalize, bias: bool) -> impl Strategy<Value = ConvCase> {
    let sizes = (1usize..4, 1usize..1200, 1usize..6, 1usize..9);
    // More taps than can be generated on the chip are in every run.
    let width = prop_oneof![1usize..40, 240usize..260];
    (sizes, width, 1usize..4, any::<u64>()).prop_map(
        move |((batch, time, heads, half), width, dilation, seed)| ConvCase {
            sequences: Sequences::batch(batch, if width > 40 { 9 } else { time }).unwrap(),
            heads,
            head_channels: 2 * half,
            window: Window::causal(width).unwrap().dilated(dilation).unwrap(),
            normalize,
            dtype,
            parameters: dtype,
            bias,
            history: false,
            dropout: None,
            seed,
        },
    )
}

/// Fails unless drawn calls on a device of their own end with just so many pipelines.
fn ends_with<T: std::fmt::Debug>(
    pipelines: usize,
    strategy: impl Strategy<Value = T>,
    run: impl Fn(T, &Device),
) {
    let Some(device) = device_with(Limits::default()) else { return };
    let gpu = device.gpu().unwrap();
    assert_eq!(gpu.pipelines(), 0);
    let mut runner = TestRunner::new(config(40));
    runner
        .run(&strategy, |drawn| {
            run(drawn, &device);
            prop_assert!(gpu.pipelines() <= pipelines, "{} pipelines", gpu.pipelines());
            Ok(())
        })
        .unwrap();
    assert!(gpu.pipelines() > 0);
}

#[test]
fn light_conv_has_one() {
    for dtype in DType::ALL {
        for (normalize, bias) in
            [(Normalize::None, true), (Normalize::Softmax, false), (Normalize::SoftmaxInRange, true)]
        {
            ends_with(1, case(dtype, normalize, bias), |case, device| {
                light_conv::Call::draw(&case).run(device);
            });
        }
    }
}

/// One where taps are given; where they are generated one that does it all, or a product, for few rows or for many, and
/// one for logits in f32.
#[test]
fn dynamic_conv_has_one_or_four() {
    for dtype in [DType::F32, DType::BF16] {
        ends_with(1, case(dtype, Normalize::Softmax, false), |case, device| {
            dynamic_conv::Call::draw(&case, Generator::Given).run(device);
        });
        ends_with(4, case(dtype, Normalize::Softmax, true), |case, device| {
            dynamic_conv::Call::draw(&case, Generator::Own { weight_bias: true }).run(device);
        });
    }
}

/// That of the key, and those of the dynamic convolution.
#[test]
fn span_conv_has_one_more() {
    ends_with(1, (case(DType::F16, Normalize::Softmax, true), 1usize..9), |(case, outputs), device| {
        span_key::Call::draw(&case, 2 * outputs, DType::F16).run(device);
    });
    ends_with(5, (case(DType::F16, Normalize::Softmax, true), 1usize..9), |(case, channels), device| {
        span_conv::Call::draw(&case, 2 * channels).run(device);
    });
}

/// One for few rows, and one for many.
#[test]
fn linear_has_two() {
    let problem = (1usize..2000, 1usize..40, 1usize..40).prop_map(|(rows, inputs, outputs)| {
        LinearProblem::new(rows, 2 * inputs, 2 * outputs, DType::F16).unwrap()
    });
    ends_with(2, (problem, any::<u64>()), |(problem, seed), device| {
        linear::Call::draw(problem, seed).run(device);
    });
}

/// One for the norm, of either kind and with a residual anywhere, and one for the sum.
#[test]
fn norm_has_two() {
    ends_with(2, (norm::problem(), any::<u64>()), |(problem, seed), device| {
        let [kind, tokens, channels] = [seed as usize % 2, problem.tokens(), 2 * problem.channels()];
        let even = NormProblem::new(norm::KINDS[kind], tokens, channels, DType::F16).unwrap();
        let even = even.with_bias(problem.has_bias()).with_residual(problem.residual());
        norm::Call::draw(even, 0.0, seed).run(device);
    });
}

/// One for the embedding, whatever is added, and of the largest numbers one for their indices and one for their values.
#[test]
fn tables_have_three() {
    ends_with(3, (embedding::call(), top_k::problem(), any::<u64>()), |(call, problem, seed), device| {
        let [tokens, channels] = [call.problem.tokens(), 2 * call.problem.channels()];
        let even = EmbeddingProblem::new(tokens, 9, channels, DType::F16).unwrap();
        embedding::Call::draw(even, None, &[tokens], seed).run(device);
        let problem =
            TopKProblem::new(problem.rows(), problem.vocabulary(), problem.k(), DType::F16).unwrap();
        let problem = problem.with_log_softmax(seed % 2 == 0);
        top_k::Call::draw(problem, top_k::Kind::Numbers, seed).run(device);
    });
}

/// Three of naive attention; of fused one for heads of up to 64 channels and one for larger.
#[test]
fn attention_has_three_and_two() {
    for (kind, pipelines) in attention::KINDS.into_iter().zip([3, 2]) {
        let even = attention::case(100).prop_map(|case| attention::Case {
            head_channels: case.head_channels.next_multiple_of(2),
            dtype: DType::BF16,
            ..case
        });
        ends_with(pipelines, even, |case, device| {
            attention::Call::draw(&case).run(kind, device);
        });
    }
}

/// For dx and dW two each, for few rows and for many; two for dW and two for dbias that write partial sums or do not, and
/// one that adds those up.
#[test]
fn linear_backward_has_nine() {
    let problem = (1usize..2000, 1usize..40, 1usize..40).prop_map(|(rows, inputs, outputs)| {
        LinearProblem::new(rows, 2 * inputs, 2 * outputs, DType::F16).unwrap().with_bias(true)
    });
    ends_with(9, (problem, any::<u64>()), |(problem, seed), device| {
        linear::backward::Backward::draw(problem, seed, Selection::ALL).run(device).unwrap();
    });
}

/// Five of naive attention; of fused the statistics, and for each gradient as the forward pass.
#[test]
fn attention_backward_has_five_and_seven() {
    for (kind, pipelines) in attention::KINDS.into_iter().zip([5, 7]) {
        let even = attention::case(100).prop_map(|case| attention::Case {
            head_channels: case.head_channels.next_multiple_of(2),
            dtype: DType::BF16,
            ..case
        });
        ends_with(pipelines, even, |case, device| {
            attention::backward::Backward::draw(&case, Selection::ALL).run(kind, device).unwrap();
        });
    }
}
