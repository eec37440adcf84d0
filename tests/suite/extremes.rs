//! Sizes at the ends of what a problem allows: right, and at a price that goes with the tokens that there are.

use lightspan::problem::{DynamicConvProblem, LightConvProblem, SpanConvProblem};
use lightspan::{DType, Normalize, Sequences, Window, cpu};

use crate::dynamic_conv::Generator;
use crate::support::ConvCase;
use crate::{dynamic_conv, light_conv, span_conv};

fn case(window: Window) -> ConvCase {
    ConvCase {
        sequences: Sequences::batch(1, 5).unwrap(),
        heads: 2,
        head_channels: 2,
        window,
        normalize: Normalize::Softmax,
        dtype: DType::F32,
        parameters: DType::F32,
        bias: true,
        history: false,
        dropout: None,
        seed: 11,
    }
}

/// Every convolution against the reference.
fn check(case: &ConvCase) {
    light_conv::check(case).unwrap();
    dynamic_conv::check(case, Generator::Given).unwrap();
    span_conv::check(case, 3).unwrap();
}

/// Fails where a thread asks for more than tens of megabytes of scratch.
fn assert_little_scratch(case: &ConvCase) {
    let conv = case.convolution();
    let needed = [
        cpu::LightConv::new(LightConvProblem::new(conv)).scratch_len(),
        cpu::DynamicConv::new(DynamicConvProblem::given(conv).unwrap()).scratch_len(),
        cpu::SpanConv::new(SpanConvProblem::new(3, conv).unwrap()).scratch_len(),
    ];
    for numbers in needed {
        assert!(numbers / rayon::current_num_threads() < 10_000_000, "{needed:?} numbers of scratch");
    }
}

#[test]
fn a_window_far_wider_than_its_sequence() {
    for (window, normalize) in [
        (Window::causal(100_000), Normalize::Softmax),
        (Window::same(100_000), Normalize::SoftmaxInRange),
        (Window::new(100_000, 1, 0), Normalize::None),
    ] {
        let case = ConvCase { normalize, ..case(window.unwrap()) };
        assert_little_scratch(&case);
        check(&case);
    }
}

#[test]
fn a_dilation_far_longer_than_its_sequence() {
    let dilated = |window: lightspan::Result<Window>| window.unwrap().dilated(1_000_000_000).unwrap();
    for window in [Window::causal(5), Window::same(5), Window::new(5, 1, 0)].map(dilated) {
        for normalize in [Normalize::Softmax, Normalize::SoftmaxInRange, Normalize::None] {
            let case = ConvCase { normalize, ..case(window) };
            assert_little_scratch(&case);
            check(&case);
        }
    }
}

#[test]
fn a_past_far_longer_than_the_reach() {
    for past in [9, 1_000_000_000_000] {
        let case = case(Window::causal(4).unwrap().dilated(3).unwrap());
        let sequences = Sequences::packed(&[0, 1, 6, 40]).unwrap().after(&[past, 0, past]).unwrap();
        let case = ConvCase { sequences, history: true, ..case };
        assert_little_scratch(&case);
        check(&case);
    }
}

#[test]
fn one_channel_and_heads_of_awkward_size() {
    for (heads, head_channels) in [(1, 1), (1, 131), (3, 131)] {
        let sequences = Sequences::padded(30, &[30, 1, 0, 17]).unwrap();
        let case = case(Window::same(9).unwrap());
        check(&ConvCase { sequences, heads, head_channels, ..case });
    }
}

/// Problems that no memory holds are described, and their scratch is a number too large to be had: nothing overflows.
#[test]
fn a_window_past_all_memory() {
    for normalize in [Normalize::Softmax, Normalize::SoftmaxInRange] {
        let sequences = Sequences::batch(1, 1).unwrap();
        let window = Window::causal(1 << 58).unwrap();
        let case = ConvCase { sequences, heads: 1, head_channels: 1, window, normalize, ..case(window) };
        let conv = case.convolution();
        let problem = DynamicConvProblem::given(conv).unwrap();
        assert!(cpu::LightConv::new(LightConvProblem::new(conv)).scratch_len() > 1 << 58);
        assert!(cpu::DynamicConv::new(problem).scratch_len() > 1 << 58);
        assert!(cpu::SpanConv::new(SpanConvProblem::new(1, conv).unwrap()).scratch_len() > 1 << 58);
        assert!(problem.flops() > 1 << 58);
    }
}
