//! Sizes at the ends of what a problem allows: right, and at a price that goes with the tokens that there are.

use lightspan::problem::{
    DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, LightConvBackwardProblem,
    LightConvProblem, LightConvWanted, SpanConvBackwardProblem, SpanConvProblem, SpanConvWanted,
};
use lightspan::{DType, Device, Dropout, Normalize, Result, Sequences, Tensor, Window, cpu};

use crate::dynamic_conv::Generator;
use crate::support::{ConvCase, Expected, Selection, assert_admitted};
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

/// The gradients of every convolution on the CPU against the reference, with and without dropout.
fn check_gradients(case: &ConvCase) {
    let check = |expected: Vec<Expected>, found: Result<Vec<Option<Tensor>>>| {
        for (expected, found) in expected.iter().zip(found.unwrap()) {
            assert_eq!(expected.wanted, found.is_some(), "{}", expected.name);
            if let Some(found) = found {
                assert_admitted(&expected.estimates, &found).expect(expected.name);
            }
        }
    };
    let device = Device::cpu();
    for dropout in [None, Some(Dropout::new(0.5, 3).unwrap())] {
        let case = ConvCase { dropout, ..case.clone() };
        let light = light_conv::backward::Backward::draw(&case, Selection::ALL);
        check(light.expected(), light.run(&device));
        let dynamic = dynamic_conv::backward::Backward::draw(&case, Generator::Given, Selection::ALL);
        check(dynamic.expected(), dynamic.run(&device));
        let span = span_conv::backward::Backward::draw(&case, 3, Selection::ALL);
        check(span.expected(), span.run(&device));
    }
}

/// The scratch of the gradients of light and dynamic convolution.
fn gradients_scratch(case: &ConvCase) -> [usize; 3] {
    let conv = case.convolution();
    let light = LightConvBackwardProblem::new(LightConvProblem::new(conv), LightConvWanted::ALL);
    let dynamic = DynamicConvProblem::given(conv).unwrap();
    let dynamic = DynamicConvBackwardProblem::new(dynamic, DynamicConvWanted::ALL);
    let span = SpanConvBackwardProblem::new(SpanConvProblem::new(1, conv).unwrap(), SpanConvWanted::ALL);
    [
        cpu::LightConvBackward::new(light.unwrap()).scratch_len(),
        cpu::DynamicConvBackward::new(dynamic.unwrap()).scratch_len(),
        cpu::SpanConvBackward::new(span.unwrap()).scratch_len(),
    ]
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
        // The taps of all tokens, and their gradients, are as many numbers as the logits.
        for numbers in gradients_scratch(&case) {
            assert!(numbers / rayon::current_num_threads() < 20_000_000, "{numbers} numbers of scratch");
        }
        check_gradients(&case);
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
            check_gradients(&case);
        }
    }
    // One tap, whose dilation is past all memory.
    check_gradients(&case(Window::new(1, usize::MAX, 0).unwrap()));
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
        let case = ConvCase { sequences, heads, head_channels, ..case(Window::same(9).unwrap()) };
        check(&case);
        check_gradients(&case);
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
        assert!(gradients_scratch(&case).iter().all(|&numbers| numbers > 1 << 58));
    }
}
