//! Plans need no device: that they hold to what kernels ask of them is asserted where they are made, for every one here.

mod backward_plans;
#[cfg(feature = "emulator")]
mod backward_products;
mod convolutions;
mod cublaslt;
#[cfg(feature = "emulator")]
mod products;
mod tables;

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::cuda::limits::Limits;
use crate::cuda::linear::Types;
use crate::cuda::modules::Module;
use crate::cuda::plan::{Launch, Place};
use crate::cuda::{append, attention, dynamic_conv, history, light_conv, linear, modules, norm, span_key};
use crate::gpu::lock;
use crate::problem::{
    Activation, AppendProblem, AttentionKind, AttentionProblem, Convolution, DynamicConvProblem,
    HistoryProblem, LinearProblem, Mask, NormKind, NormProblem, NormResidual, SpanKeyProblem,
};
use crate::{DType, Error, Sequences, Window};

/// Something big, and something small.
const DEVICES: [Limits; 2] = [
    Limits::H100,
    Limits { capability: [8, 7], multiprocessors: 4, shared_memory: 99 << 10, ..Limits::A100 },
];

/// Sequences of every layout, short and long, few and many.
fn sequences() -> Vec<Sequences> {
    let offsets: Vec<usize> = (0..200).map(|i| i * i / 3).collect();
    vec![
        Sequences::batch(1, 1).unwrap(),
        Sequences::batch(3, 0).unwrap(),
        Sequences::batch(8, 4096).unwrap(),
        Sequences::batch(1, 1 << 20).unwrap(),
        Sequences::batch(100_000, 7).unwrap(),
        Sequences::padded(513, &[513, 0, 7]).unwrap(),
        Sequences::packed(&[0, 0, 1, 300]).unwrap(),
        Sequences::packed(&offsets).unwrap(),
    ]
}

fn types() -> impl Iterator<Item = (DType, DType)> {
    DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)])
}

/// Types of products: those of linear layers, and those that generate logits, in f32, from queries of one type with
/// parameters of another.
fn products() -> impl Iterator<Item = Types> {
    let layers = types().map(|(x, parameters)| Types { x, parameters, y: x });
    let generated = DType::ALL
        .into_iter()
        .flat_map(|parameters| [DType::F32, parameters].map(|x| Types { x, parameters, y: DType::F32 }));
    let wide = [DType::F16, DType::BF16].map(|x| Types { x, parameters: DType::F32, y: DType::F32 });
    layers.chain(generated).chain(wide)
}

/// The text of a module, unpacked once.
pub(in crate::cuda) fn text(module: &Module) -> &'static str {
    static TEXTS: Mutex<BTreeMap<&str, &str>> = Mutex::new(BTreeMap::new());
    let mut texts = lock(&TEXTS);
    texts.entry(module.name).or_insert_with(|| String::leak(module.ptx().unwrap()))
}

/// Fails unless the module has the kernel, and it is made for so many threads.
fn assert_there(launch: &Launch) {
    let entry = format!(".entry {}(", launch.entry);
    let kernel = text(launch.module).split_once(&entry);
    let (_, kernel) = kernel.unwrap_or_else(|| panic!("{:?} has no {}", launch.module, launch.entry));
    let most = kernel.split_once(".maxntid ").and_then(|(_, most)| most.split_once(',')).unwrap().0;
    let threads = 32..=most.parse().unwrap();
    assert!(
        launch.grid > 0 && threads.contains(&launch.block) && launch.block.is_multiple_of(32),
        "{launch:?}"
    );
}

#[test]
fn every_linear_layer_has_a_plan() {
    for (rows, inputs, outputs) in
        [(0, 1, 1), (1, 1, 1), (7, 300, 5), (128, 64, 128), (40_000, 1024, 4096), (1 << 30, 8, 3)]
    {
        for types in products() {
            let plain = LinearProblem::new(rows, inputs, outputs, types.x).unwrap();
            let glu = plain.with_activation(Activation::Glu).unwrap();
            let grouped = LinearProblem::new(rows, 4 * inputs, 4 * outputs, types.x);
            let grouped = grouped.and_then(|problem| problem.with_groups(4)).unwrap();
            let problems = if types.y == types.x { vec![plain, glu, grouped] } else { vec![plain] };
            for (problem, limits) in
                problems.iter().flat_map(|problem| DEVICES.iter().map(move |d| (problem, d)))
            {
                match linear::plan(problem, &linear::Places::contiguous(problem), types, limits).unwrap() {
                    Some(launch) => assert_there(&launch),
                    None => assert_eq!(rows, 0),
                }
            }
        }
    }
}

#[test]
fn every_norm_has_a_plan() {
    let mut entries = std::collections::BTreeSet::new();
    for (tokens, channels) in [(0, 1), (1, 1), (9, 6), (40_000, 1024), (7, 1026), (1 << 30, 8), (3, 100_000)]
    {
        for (dtype, parameters) in types() {
            let problem = NormProblem::new(NormKind::Layer, tokens, channels, dtype)
                .and_then(|problem| problem.with_parameters(parameters))
                .unwrap()
                .with_residual(NormResidual::Before { sum: true });
            let places = norm::Places::contiguous(&problem);
            let away = Place { address: dtype.size() as u64, stride: channels };
            for places in
                [places, norm::Places { sum: away, ..places }, norm::Places { residual: away, ..places }]
            {
                for limits in &DEVICES {
                    match norm::plan(&problem, &places, limits).unwrap() {
                        Some(launch) => {
                            assert_there(&launch);
                            entries.insert((launch.module.name, launch.entry));
                        }
                        None => assert_eq!(tokens, 0),
                    }
                }
            }
        }
    }
    // Of 22 that there are, those of units that these rows have.
    assert!(entries.len() > 15, "{entries:?}");
}

#[test]
fn every_span_key_has_a_plan() {
    let windows = [1, 2, 9, 31, 129, 700, 100_000].into_iter().flat_map(|width| {
        [1, 2, 7, 64, 1000].map(|dilation| Window::causal(width).unwrap().dilated(dilation).unwrap())
    });
    let mut entries = std::collections::BTreeSet::new();
    for window in windows {
        for (channels, outputs) in [(1, 1), (3, 200), (768, 384), (1024, 1024), (70_000, 5)] {
            for sequences in sequences() {
                for (dtype, parameters) in types() {
                    for output in [dtype, DType::F32] {
                        let shape = sequences.shape();
                        let problem = SpanKeyProblem::new(shape, channels, outputs, window, dtype)
                            .and_then(|problem| problem.with_parameters(parameters)?.with_output(output))
                            .unwrap();
                        let places = span_key::SpanKeyPlaces::contiguous(&problem);
                        for limits in &DEVICES {
                            let plan = span_key::plan(&problem, &places, true, limits);
                            let Some(launch) = plan.unwrap() else {
                                assert_eq!(shape.tokens(), 0);
                                continue;
                            };
                            assert_there(&launch);
                            assert!(launch.shared > 0 && launch.shared <= limits.shared_memory);
                            entries.insert((launch.module.name, launch.entry));
                        }
                    }
                }
            }
        }
    }
    assert_eq!(entries.len(), 5, "{entries:?}");
}

/// As few columns of tiles as three teams make, where there are tiles enough and memory.
#[test]
fn wide_span_keys_are_convolved_once() {
    let plan = |tokens, outputs, dtype, limits: &Limits| {
        let shape = Sequences::batch(8, tokens).unwrap().shape();
        let window = Window::same(9).unwrap();
        let problem = SpanKeyProblem::new(shape, 768, outputs, window, dtype).unwrap();
        let places = span_key::SpanKeyPlaces::contiguous(&problem);
        let launch = span_key::plan(&problem, &places, false, limits).unwrap().unwrap();
        (launch.block, launch.grid)
    };
    assert_eq!(plan(4096, 384, DType::BF16, &Limits::H100), (384, 512));
    assert_eq!(plan(4096, 384, DType::F16, &Limits::L4), (384, 512));
    assert_eq!(plan(4096, 200, DType::F16, &Limits::H100), (256, 512));
    assert_eq!(plan(4096, 1024, DType::BF16, &Limits::H100), (384, 3 * 512));
    assert_eq!(plan(4096, 64, DType::BF16, &Limits::H100), (128, 512));
    // Too few tokens to go round, and f32.
    assert_eq!(plan(64, 384, DType::BF16, &Limits::H100), (128, 3 * 8));
    assert_eq!(plan(4096, 384, DType::F32, &Limits::H100), (128, 3 * 512));
}

#[test]
fn every_attention_has_a_plan() {
    for (queries, keys) in sequences().into_iter().flat_map(|q| {
        let pairs: Vec<_> =
            sequences().into_iter().filter(|k| k.shape().sequences() == q.shape().sequences()).collect();
        pairs.into_iter().map(move |k| (q.clone(), k))
    }) {
        for (heads, d) in [(1, 1), (3, 64), (16, 64), (2, 65), (2, 128), (1, 129), (1, 256), (1, 300)] {
            for (dtype, mask) in DType::ALL.into_iter().flat_map(|dtype| {
                [Mask::FULL, Mask::CAUSAL, Mask::local(Some(usize::MAX), Some(3))].map(|mask| (dtype, mask))
            }) {
                let problem = AttentionProblem::new(queries.shape(), keys.shape(), heads, d, dtype)
                    .unwrap()
                    .with_mask(mask);
                let places = attention::Places::contiguous(&problem);
                let longest = keys.as_slice().iter().map(|keys| keys.length).max().unwrap_or(0);
                let contents = attention::Contents { listed: [true, false], longest };
                for (limits, kind) in DEVICES
                    .iter()
                    .flat_map(|limits| [AttentionKind::Naive, AttentionKind::Fused].map(|k| (limits, k)))
                {
                    let plan = attention::plan(&problem, kind, &places, contents, limits);
                    let launches = match (kind, plan) {
                        (AttentionKind::Fused, Err(refused)) if d > 256 && queries.shape().tokens() > 0 => {
                            assert!(
                                matches!(refused, Error::Limit { needed: 300, limit: 256, .. }),
                                "{refused:?}"
                            );
                            continue;
                        }
                        // A million queries and keys.
                        (AttentionKind::Naive, Err(Error::Limit { what: "blocks of", .. })) => {
                            assert!(longest >= 1 << 20);
                            continue;
                        }
                        (_, plan) => plan.unwrap(),
                    };
                    let expected = match kind {
                        _ if queries.shape().tokens() == 0 => 0,
                        AttentionKind::Naive => 3,
                        AttentionKind::Fused => 1,
                    };
                    assert_eq!(launches.len(), expected);
                    launches.iter().for_each(assert_there);
                }
            }
        }
    }
}

#[test]
fn every_history_has_a_plan() {
    for (window, channels) in [(1, 3), (2, 1), (31, 512), (4, 6)] {
        for sequences in sequences() {
            for dtype in DType::ALL {
                let window = Window::causal(window).unwrap();
                let conv = Convolution::new(sequences.shape(), channels, 1, window, dtype).unwrap();
                let places = [Place::contiguous(channels); 3];
                let problem = HistoryProblem::new(conv).unwrap();
                let plan = history::plan(&problem, places, true, &DEVICES[0]).unwrap();
                assert_eq!(plan.is_none(), window.width() == 1);
                plan.iter().for_each(assert_there);
            }
        }
    }
}

#[test]
fn every_append_has_a_plan() {
    let all = || sequences().into_iter();
    for (channels, sequences) in [1, 3, 6, 512].into_iter().flat_map(|c| all().map(move |s| (c, s))) {
        for dtype in DType::ALL {
            let problem = AppendProblem::new(sequences.shape(), channels, 4096, dtype).unwrap();
            let plan = append::plan(&problem, [Place::contiguous(channels); 2], true, &DEVICES[0]).unwrap();
            assert_eq!(plan.is_none(), sequences.shape().tokens() == 0);
            plan.iter().for_each(assert_there);
        }
    }
}

/// What kernels cannot count, and grids that no device takes, are errors with both numbers.
#[test]
fn what_is_too_large_is_refused() {
    let far = Sequences::batch(1, 1 << 31).unwrap();
    let conv = Convolution::new(far.shape(), 1, 1, Window::causal(1).unwrap(), DType::F32).unwrap();
    let places = light_conv::Places::contiguous(1);
    let refused = light_conv::plan(&conv, Default::default(), &places, false, &DEVICES[0]);
    assert!(matches!(refused, Err(Error::Limit { limit: 0x7fff_ffff, .. })), "{refused:?}");

    for sequences in [Sequences::batch(4, 1 << 30), Sequences::padded(1 << 30, &[5; 4])] {
        let shape = sequences.unwrap().shape();
        let conv = Convolution::new(shape, 1, 1, Window::causal(3).unwrap(), DType::F16).unwrap();
        let refused = light_conv::plan(&conv, Default::default(), &places, true, &DEVICES[0]);
        let expected =
            Error::Limit { what: "tokens of", of: "the call", needed: 1 << 32, limit: u32::MAX.into() };
        assert_eq!(refused.unwrap_err(), expected);
    }

    for (what, queries, keys) in
        [("queries of a sequence of", 1 << 30, 1), ("keys of a sequence of", 1, 1 << 30)]
    {
        let [queries, keys] = [queries, keys].map(|time| Sequences::batch(1, time).unwrap().shape());
        let problem = AttentionProblem::new(queries, keys, 1, 1, DType::F16).unwrap();
        let contents = attention::Contents { listed: [false; 2], longest: keys.longest() };
        for kind in [AttentionKind::Naive, AttentionKind::Fused] {
            let places = attention::Places::contiguous(&problem);
            let refused = attention::plan(&problem, kind, &places, contents, &DEVICES[0]).unwrap_err();
            let expected = Error::Limit { what, of: "the call", needed: 1 << 30, limit: (1 << 30) - 1 };
            assert_eq!(refused, expected);
        }
    }

    for (tokens, room) in [(1 << 31, 1 << 31), (5, 1 << 31)] {
        let shape = Sequences::batch(1, tokens).unwrap().shape();
        let problem = AppendProblem::new(shape, 1, room, DType::F16).unwrap();
        let refused = append::plan(&problem, [Place::contiguous(1); 2], false, &DEVICES[0]).unwrap_err();
        assert!(matches!(refused, Error::Limit { needed: 0x8000_0000, limit: 0x7fff_ffff, .. }), "{refused}");
    }

    let problem = LinearProblem::new(1 << 31, 1, 1, DType::F32).unwrap();
    let types = Types { x: DType::F32, parameters: DType::F32, y: DType::F32 };
    let refused = linear::plan(&problem, &linear::Places::contiguous(&problem), types, &DEVICES[0]);
    assert!(matches!(refused, Err(Error::Limit { needed: 0x8000_0000, .. })), "{refused:?}");

    let few = Limits { blocks: 10, ..DEVICES[0] };
    let many = Sequences::batch(11, 5).unwrap();
    let conv = Convolution::new(many.shape(), 8, 1, Window::causal(3).unwrap(), DType::F32).unwrap();
    let places = light_conv::Places::contiguous(8);
    let refused = light_conv::plan(&conv, Default::default(), &places, false, &few).unwrap_err();
    let expected = Error::Limit { what: "blocks of", of: "light_conv", needed: 11, limit: 10 };
    assert_eq!(refused, expected);
}

/// A device with next to no shared memory, which only the emulator can be.
#[test]
fn too_little_shared_memory_is_refused() {
    let shape = Sequences::batch(2, 500).unwrap().shape();
    let window = Window::causal(31).unwrap();
    for shared_memory in [0, 1 << 10, 20 << 10, 60 << 10] {
        let limits = Limits { shared_memory, ..Limits::H100 };
        for (dtype, heads) in DType::ALL.into_iter().flat_map(|dtype| [(dtype, 8), (dtype, 512)]) {
            let conv = Convolution::new(shape, 512, heads, window, dtype).unwrap();
            for problem in [DynamicConvProblem::given(conv), DynamicConvProblem::generated(conv)] {
                let problem = problem.unwrap();
                let places = dynamic_conv::DynamicPlaces::contiguous(&problem);
                let fused = dynamic_conv::fused(&problem, &limits);
                match dynamic_conv::plan(
                    &problem,
                    fused.as_ref(),
                    Default::default(),
                    &places,
                    false,
                    &limits,
                ) {
                    Ok(plan) => assert!(plan.launches().iter().all(|launch| launch.shared <= shared_memory)),
                    Err(refused) => assert!(matches!(refused, Error::Limit { .. }), "{refused}"),
                }
                assert!(fused.is_none() || shared_memory > 1 << 10);
            }
            let problem = SpanKeyProblem::new(shape, 512, 512, window, dtype).unwrap();
            let places = span_key::SpanKeyPlaces::contiguous(&problem);
            let refused = span_key::plan(&problem, &places, false, &limits);
            assert!(matches!(refused, Err(Error::Limit { .. })), "{refused:?}");
        }
    }
}

/// The kernels take less than 3 MB of an executable, though their text is several times that.
#[test]
fn kernels_are_small() {
    let backward = [
        modules::LINEAR_BACKWARD,
        modules::LINEAR_BACKWARD_MMA,
        modules::SPAN_KEY_BACKWARD,
        modules::ATTENTION_BACKWARD,
    ];
    let all = [modules::APPEND, modules::HISTORY, modules::TOP_K]
        .into_iter()
        .chain(backward)
        .chain(DType::ALL.map(modules::light_conv))
        .chain(DType::ALL.into_iter().filter_map(modules::light_conv_toeplitz))
        .chain(DType::ALL.map(modules::light_conv_backward))
        .chain(DType::ALL.into_iter().filter_map(modules::light_conv_backward_band))
        .chain(DType::ALL.map(modules::dynamic_conv_backward))
        .chain(DType::ALL.into_iter().filter_map(modules::dynamic_conv_backward_band))
        .chain(DType::ALL.into_iter().filter_map(modules::dynamic_conv_transposed))
        .chain(types().map(|(dtype, parameters)| modules::dynamic_conv_fused(dtype, parameters)))
        .chain(DType::ALL.map(modules::dynamic_conv))
        .chain(DType::ALL.into_iter().filter_map(modules::dynamic_conv_banded))
        .chain(types().map(|(dtype, parameters)| modules::linear(dtype, parameters)))
        .chain(types().map(|(dtype, parameters)| modules::span_key(dtype, parameters)))
        .chain(DType::ALL.map(modules::attention))
        .chain(DType::ALL.map(modules::attention_naive))
        .chain(DType::ALL.map(modules::norm))
        .chain(DType::ALL.map(modules::embedding));
    let sizes: BTreeMap<_, _> = all.map(|module| (module.name, module.packed_len())).collect();
    assert!(sizes.values().sum::<usize>() < 3_000_000, "{sizes:?}");
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx")).unwrap();
    assert_eq!(sizes.len(), files.count(), "a module is not among them");
}
