//! Plans of light and dynamic convolution, forward and backward.

use crate::cuda::tests::{DEVICES, assert_there, sequences, types};
use crate::cuda::{dynamic_conv, light_conv};
use crate::problem::{
    Convolution, DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, LightConvBackwardProblem,
    LightConvProblem, LightConvWanted,
};
use crate::{DType, Normalize, Sequences, Window};

#[test]
fn every_light_conv_has_a_plan() {
    let windows =
        [1, 2, 3, 17, 18, 31, 33, 65, 66, 127, 129, 130, 700, 100_000].into_iter().flat_map(|width| {
            [1, 2, 7, 1000].map(|dilation| Window::causal(width).unwrap().dilated(dilation).unwrap())
        });
    let mut entries = std::collections::BTreeSet::new();
    for window in windows {
        for (channels, heads) in [
            (1, 1),
            (3, 3),
            (3, 1),
            (64, 64),
            (60, 3),
            (100, 5),
            (512, 8),
            (1024, 16),
            (1024, 1024),
            (4099, 1),
        ] {
            for sequences in sequences() {
                for (dtype, parameters) in types() {
                    for normalize in [Normalize::None, Normalize::SoftmaxInRange] {
                        let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype)
                            .and_then(|conv| conv.with_parameters(parameters))
                            .unwrap()
                            .with_normalize(normalize);
                        let problem = LightConvProblem::new(conv);
                        let places = light_conv::Places::contiguous(channels);
                        for limits in &DEVICES {
                            let plan = light_conv::plan(
                                problem.convolution(),
                                Default::default(),
                                &places,
                                true,
                                limits,
                            );
                            let Some(launch) = plan.unwrap() else {
                                assert_eq!(sequences.shape().tokens(), 0);
                                continue;
                            };
                            assert_there(&launch);
                            entries.insert((launch.module.name, launch.entry));
                        }
                    }
                }
            }
        }
    }
    // Four kernels by multiply-adds of each type, and four by products of matrices of two.
    assert_eq!(entries.len(), 3 * 4 + 2 * 4, "{entries:?}");
}

#[test]
fn every_light_conv_backward_has_a_plan() {
    let windows = [1, 31, 33, 65, 127, 700, 100_000].into_iter().flat_map(|width| {
        [1, 7, 1000].map(|dilation| Window::causal(width).unwrap().dilated(dilation).unwrap())
    });
    let mut entries = std::collections::BTreeSet::new();
    for window in windows {
        for (channels, heads) in [(1, 1), (3, 3), (64, 64), (100, 5), (1024, 16), (1024, 1024), (4099, 1)] {
            for (sequences, (dtype, parameters)) in sequences()
                .into_iter()
                .flat_map(|sequences| types().map(move |types| (sequences.clone(), types)))
            {
                for normalize in [Normalize::Softmax, Normalize::SoftmaxInRange] {
                    let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype)
                        .and_then(|conv| conv.with_parameters(parameters))
                        .unwrap()
                        .with_normalize(normalize)
                        .with_bias(true);
                    for wanted in
                        [LightConvWanted::ALL, LightConvWanted { weight: false, ..LightConvWanted::ALL }]
                    {
                        let problem =
                            LightConvBackwardProblem::new(LightConvProblem::new(conv), wanted).unwrap();
                        let places = light_conv::backward::BackwardPlaces::contiguous(channels);
                        for limits in &DEVICES {
                            let plan = light_conv::backward::plan(
                                &problem,
                                Default::default(),
                                &places,
                                true,
                                limits,
                            )
                            .unwrap();
                            let some = sequences.shape().tokens() > 0;
                            assert_eq!((plan.x.is_some(), plan.sums.is_some()), (some, some));
                            // Gradients of parameters are zero where there is no token.
                            assert!(plan.parameters.is_some());
                            plan.launches().for_each(assert_there);
                            entries.extend(plan.launches().map(|launch| (launch.module.name, launch.entry)));
                        }
                    }
                }
            }
        }
    }
    let of = |name: &str| entries.iter().filter(|(module, _)| module.starts_with(name)).count();
    // Sums by multiply-adds, ends of sequences and gradients of each type; sums by products of matrices of two.
    let band = of("light_conv_backward_band_");
    assert_eq!((of("light_conv_backward_"), band), (3 * 3 + band, 2 * 4), "{entries:?}");
}

/// Products of matrices take heads of 16 channels and more in 16 bits, and up to 129 taps; multiply-adds take the rest.
#[test]
fn tensor_cores_take_what_they_are_good_for() {
    for (dtype, head_channels, width, expected) in [
        (DType::BF16, 16, 1, "light_conv_2"),
        (DType::BF16, 16, 17, "light_conv_2"),
        (DType::F16, 17, 18, "light_conv_3"),
        (DType::F16, 64, 33, "light_conv_3"),
        (DType::F16, 64, 34, "light_conv_5"),
        (DType::F16, 64, 66, "light_conv_9"),
        (DType::F16, 64, 129, "light_conv_9"),
        (DType::F16, 64, 130, "light_conv"),
        (DType::F16, 15, 31, "light_conv_split"),
        (DType::F32, 64, 31, "light_conv"),
    ] {
        let shape = Sequences::batch(2, 100).unwrap().shape();
        let window = Window::causal(width).unwrap();
        let conv = Convolution::new(shape, 2 * head_channels, 2, window, dtype).unwrap();
        let places = light_conv::Places::contiguous(2 * head_channels);
        let plan = light_conv::plan(&conv, Default::default(), &places, false, &DEVICES[0]);
        assert_eq!(plan.unwrap().unwrap().entry, expected, "{dtype}, R = {head_channels}, K = {width}");
    }
}

#[test]
fn every_dynamic_conv_has_a_plan() {
    let windows = [(1, 1), (16, 1000), (33, 1), (64, 1), (129, 1000), (130, 1), (700, 1), (100_000, 1)]
        .into_iter()
        .map(|(width, dilation)| Window::causal(width).unwrap().dilated(dilation).unwrap());
    let mut entries = std::collections::BTreeSet::new();
    for window in windows {
        for (channels, heads) in
            [(1, 1), (3, 3), (64, 64), (100, 5), (512, 8), (1024, 16), (1024, 1024), (4099, 1)]
        {
            for (sequences, (dtype, parameters)) in sequences()
                .into_iter()
                .flat_map(|sequences| types().map(move |types| (sequences.clone(), types)))
            {
                // No grid is large enough to generate so many taps.
                if heads * window.width() > 1 << 20 {
                    continue;
                }
                for normalize in [Normalize::None, Normalize::Softmax] {
                    let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype)
                        .and_then(|conv| conv.with_parameters(parameters))
                        .unwrap()
                        .with_normalize(normalize);
                    let given = DynamicConvProblem::given(conv).unwrap();
                    let own = DynamicConvProblem::generated(conv).unwrap();
                    let query = own.with_query(5, DType::F32).unwrap();
                    for (problem, limits) in [given, own, query]
                        .iter()
                        .flat_map(|problem| DEVICES.iter().map(move |l| (problem, l)))
                    {
                        let places = dynamic_conv::DynamicPlaces::contiguous(problem);
                        let fused = dynamic_conv::fused(problem, limits);
                        let plan = dynamic_conv::plan(
                            problem,
                            fused.as_ref(),
                            Default::default(),
                            &places,
                            true,
                            limits,
                        )
                        .unwrap();
                        let launches = plan.launches();
                        assert_eq!(launches.is_empty(), sequences.shape().tokens() == 0);
                        assert!(problem != &given || launches.len() < 2);
                        launches.iter().for_each(assert_there);
                        entries.extend(launches.iter().map(|launch| (launch.module.name, launch.entry)));
                        let tokens = if launches.len() == 2 { sequences.shape().tokens() } else { 0 };
                        let scratch = dynamic_conv::scratch_len(problem, fused.as_ref());
                        assert_eq!(scratch, (tokens * problem.logits()) as u64);
                    }
                }
            }
        }
    }
    let of = |name: &str| entries.iter().filter(|(module, _)| module.starts_with(name)).count();
    let counts = ["dynamic_conv_banded_", "dynamic_conv_fused_", "dynamic_conv_"].map(of);
    // Of two types, three kernels by bands; in one launch two, and one where W is f32; and two by multiply-adds of each type.
    let (banded, fused) = (2 * 3, 2 * 2 + 3);
    assert_eq!(counts, [banded, fused, banded + fused + 3 * 2], "{entries:?}");
}

#[test]
fn every_dynamic_conv_backward_has_a_plan() {
    let windows = [(1, 1), (31, 1), (33, 1000), (64, 1), (129, 1), (700, 1), (100_000, 1)]
        .into_iter()
        .map(|(width, dilation)| Window::causal(width).unwrap().dilated(dilation).unwrap());
    let mut entries = std::collections::BTreeSet::new();
    for window in windows {
        for (channels, heads) in [(1, 1), (3, 3), (64, 64), (100, 5), (1024, 16), (1024, 1024), (4099, 1)] {
            for (sequences, (dtype, parameters)) in sequences()
                .into_iter()
                .flat_map(|sequences| types().map(move |types| (sequences.clone(), types)))
            {
                // No grid is large enough to generate so many taps.
                if heads * window.width() > 1 << 20 {
                    continue;
                }
                let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype)
                    .and_then(|conv| conv.with_parameters(parameters))
                    .unwrap()
                    .with_bias(true);
                let given = DynamicConvProblem::given(conv).unwrap();
                let own = DynamicConvProblem::generated(conv).unwrap();
                let query = own.with_query(5, DType::F32).unwrap();
                for (problem, limits) in [given, own, query]
                    .iter()
                    .flat_map(|problem| DEVICES.iter().map(move |limits| (problem, limits)))
                {
                    let problem = DynamicConvBackwardProblem::new(*problem, DynamicConvWanted::ALL).unwrap();
                    let places = dynamic_conv::backward::BackwardPlaces::contiguous(&problem);
                    let parts = dynamic_conv::backward::Parts::new(&problem, limits).unwrap();
                    let launches = parts.launches(Default::default(), &places, true, limits).unwrap();
                    launches.iter().for_each(assert_there);
                    entries.extend(launches.iter().map(|launch| (launch.module.name, launch.entry)));
                }
            }
        }
    }
    let of = |name: &str| entries.iter().filter(|(module, _)| module.starts_with(name)).count();
    // For the logits two kernels by multiply-adds of each type, and three by bands of two; for x as many by bands.
    let (band, transposed) = (of("dynamic_conv_backward_band_"), of("dynamic_conv_transposed_"));
    assert_eq!((band, transposed), (2 * 3, 2 * 3), "{entries:?}");
    assert_eq!(of("dynamic_conv_backward_"), 3 * 2 + band, "{entries:?}");
}

/// Bands of filters take heads of 16 channels and more in 16 bits, and up to 129 taps; multiply-adds take the rest.
#[test]
fn tensor_cores_take_the_taps_of_tokens() {
    for (dtype, head_channels, width, expected) in [
        (DType::BF16, 16, 1, "dynamic_conv_3"),
        (DType::F16, 64, 33, "dynamic_conv_3"),
        (DType::F16, 64, 34, "dynamic_conv_5"),
        (DType::BF16, 17, 65, "dynamic_conv_5"),
        (DType::F16, 64, 66, "dynamic_conv_9"),
        (DType::BF16, 300, 129, "dynamic_conv_9"),
        (DType::F16, 64, 130, "dynamic_conv"),
        (DType::F16, 15, 31, "dynamic_conv_split"),
        (DType::F32, 64, 31, "dynamic_conv"),
    ] {
        let shape = Sequences::batch(2, 100).unwrap().shape();
        let window = Window::causal(width).unwrap();
        let conv = Convolution::new(shape, 2 * head_channels, 2, window, dtype).unwrap();
        let problem = DynamicConvProblem::given(conv).unwrap();
        let places = dynamic_conv::DynamicPlaces::contiguous(&problem);
        for limits in &DEVICES {
            let fused = dynamic_conv::fused(&problem, limits);
            let plan =
                dynamic_conv::plan(&problem, fused.as_ref(), Default::default(), &places, false, limits)
                    .unwrap();
            assert_eq!(plan.launches()[0].entry, expected, "{dtype}, R = {head_channels}, K = {width}");
        }
    }
}
