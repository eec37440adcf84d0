use std::collections::HashSet;

use crate::gpu::{STEPS, Tiles, listed, window};
use crate::problem::{
    AppendProblem, AttentionBackwardProblem, AttentionKind, AttentionProblem, AttentionWanted, Convolution,
    DynamicConvProblem, EmbeddingProblem, HistoryProblem, LightConvProblem, LinearBackwardProblem,
    LinearProblem, LinearWanted, NormKind, NormProblem, NormResidual, SpanKeyBackwardProblem, SpanKeyProblem,
    SpanKeyWanted, Taps, TopKProblem,
};
use crate::wgpu::plan::{Launch, Place, Tokens, tile_parameters};
use crate::wgpu::shader::{MEMORY, WORKGROUP};
use crate::wgpu::tests::backward::{attend_backward, key_backward, layer_backward};
use crate::wgpu::tests::convolutions::{dynamic_backward, light_backward};
use crate::wgpu::tests::kernels::{kernels, module};
use crate::wgpu::tests::products::{assert_stage_fits, attend, normed, product};
use crate::wgpu::tests::tables::{embed, rank};
use crate::wgpu::{Limits, append, dynamic_conv, history, light_conv, span_key};
use crate::{DType, Error, Normalize, Result, Sequences, Window};

/// What a big GPU allows.
pub(super) fn big() -> Limits {
    Limits {
        workgroup_memory: 48 << 10,
        invocations: 1024,
        binding: 4 << 30,
        buffer: 64 << 30,
        offset_alignment: 32,
        ..Limits::default()
    }
}

/// Sequences of every layout, short and long, few and many.
pub(super) fn sequences() -> Vec<Sequences> {
    let offsets: Vec<usize> = (0..200).map(|i| i * i / 3).collect();
    vec![
        Sequences::batch(1, 1).unwrap(),
        Sequences::batch(8, 512).unwrap(),
        Sequences::batch(70_000, 3).unwrap(),
        Sequences::batch(2, 100_000).unwrap(),
        Sequences::batch(3, 0).unwrap(),
        Sequences::padded(37, &[37, 0, 5]).unwrap(),
        Sequences::packed(&offsets).unwrap(),
        Sequences::packed(&[0, 0, 9, 9]).unwrap(),
    ]
}

pub(super) fn windows() -> Vec<Window> {
    let mut all = vec![];
    for width in [1, 2, 3, 7, 31, 64, 65, 127, 129, 250, 1000, 5000] {
        all.extend([1, 3, 1000].map(|dilation| Window::new(width, dilation, (width - 1) / 2).unwrap()));
        all.push(Window::causal(width).unwrap());
    }
    all
}

/// Convolutions of every kind that plans tell apart.
pub(super) fn convolutions() -> Vec<Convolution> {
    let mut all = vec![];
    for sequences in sequences() {
        for window in windows() {
            for (heads, head_channels) in [(1, 1), (1, 131), (8, 64), (512, 1), (5, 3), (6, 5), (16, 64)] {
                for dtype in [DType::F32, DType::BF16] {
                    let shape = sequences.shape();
                    let conv = Convolution::new(shape, heads * head_channels, heads, window, dtype).unwrap();
                    all.push(conv);
                }
            }
        }
    }
    all
}

pub(super) fn parameter(launch: &Launch, name: &str) -> usize {
    let found = launch.parameters.iter().find(|(other, _)| *other == name);
    found.unwrap_or_else(|| panic!("{} has no {name}", launch.kernel.name)).1 as usize
}

pub(super) fn has(launch: &Launch, name: &str) -> bool {
    launch.parameters.iter().any(|(other, _)| *other == name)
}

/// What every launch must keep to on the smallest device, and that a bigger one changes nothing.
pub(super) fn check(
    what: &dyn std::fmt::Debug,
    plan: impl Fn(&Limits) -> Result<Vec<Launch>>,
) -> Vec<Launch> {
    let limits = Limits::default();
    let launches = plan(&limits).unwrap_or_else(|error| panic!("{what:?}: {error}"));
    assert_eq!(launches, plan(&big()).unwrap());
    for launch in &launches {
        assert!(launch.grid.iter().all(|&size| (1..=limits.groups).contains(&size)), "{what:?}");
        let held: u64 = launch.grid.iter().map(|&size| u64::from(size)).product();
        // Where a workgroup has several tiles, `groups` counts those.
        let groups = ["all_groups", "groups"].into_iter().find(|name| has(launch, name));
        let wanted = groups.map_or(held, |name| parameter(launch, name) as u64);
        assert!(groups.is_some() || ["append", "history"].contains(&launch.kernel.name));
        // The kernels leave what is over.
        assert!(held >= wanted && held - wanted <= wanted / 1000 + 1, "{what:?}: {held} of {wanted}");
    }
    launches
}

fn light(conv: &Convolution, limits: &Limits) -> Result<Vec<Launch>> {
    let tokens = Tokens::contiguous(conv.channels(), conv.channels());
    let problem = LightConvProblem::new(*conv);
    Ok(light_conv::plan(&problem, &tokens, (0, 0), listed(conv.sequences()), limits)?.into_iter().collect())
}

fn dynamic(problem: &DynamicConvProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let places = dynamic_conv::DynamicPlaces::contiguous(problem);
    dynamic_conv::plan(problem, &places, listed(problem.convolution().sequences()), limits)
}

fn key(problem: &SpanKeyProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let places = span_key::SpanKeyPlaces::contiguous(problem);
    let plan = span_key::plan(
        problem,
        problem.depthwise().dtype(),
        &places,
        listed(problem.depthwise().sequences()),
        limits,
    )?;
    Ok(plan.into_iter().collect())
}

/// Taps in memory: rows and quads of a chunk fit, each row has an invocation where chunks are measured one after another.
fn assert_taps_fit(launch: &Launch, rows: usize) {
    let (quads, width) = (parameter(launch, "quads"), parameter(launch, "width"));
    assert!(quads > 0 && rows * quads <= MEMORY, "{rows} rows of {quads} quads");
    assert!(4 * quads >= width || rows <= WORKGROUP, "{rows} rows in chunks");
}

#[test]
fn light_convolutions_fit_the_smallest_device() {
    for conv in convolutions() {
        let launches = check(&conv, |limits| light(&conv, limits));
        assert_eq!(launches.len(), usize::from(conv.sequences().tokens() > 0), "one dispatch");
        for launch in launches {
            let (lanes, groups) = (parameter(&launch, "lanes"), parameter(&launch, "time_groups"));
            assert!(lanes > 0 && groups > 0 && lanes * groups <= WORKGROUP);
            let lane = if conv.dtype() == DType::F32 || conv.channels() % 2 == 1 { 1 } else { 2 };
            assert!(parameter(&launch, "columns") * lanes * lane >= conv.channels());
            // The heads that the channels of a column touch at most.
            let heads = |column: usize| {
                let first = column * lanes * lane;
                let last = (first + lanes * lane).min(conv.channels()) - 1;
                last / conv.head_channels() - first / conv.head_channels() + 1
            };
            (0..parameter(&launch, "columns")).for_each(|column| assert_taps_fit(&launch, heads(column)));
        }
    }
}

#[test]
fn dynamic_convolutions_fit_the_smallest_device() {
    let mut kinds = HashSet::new();
    for conv in convolutions() {
        let in_range = conv.with_normalize(Normalize::SoftmaxInRange);
        let mut all = vec![light(&in_range, &Limits::default()).unwrap()];
        for problem in [DynamicConvProblem::given(conv), DynamicConvProblem::generated(conv)] {
            let problem = problem.unwrap();
            let launches = check(&problem, |limits| dynamic(&problem, limits));
            let expected = match problem.taps() {
                _ if conv.sequences().tokens() == 0 => 0,
                Taps::Generated { .. } if dynamic_conv::scratch_len(&problem) > 0 => 2,
                _ => 1,
            };
            assert_eq!(launches.len(), expected, "{problem:?}");
            kinds.insert(launches.len());
            all.push(launches);
        }
        for launch in all.iter().filter_map(|launches| launches.last()) {
            let (heads, tokens) =
                (parameter(launch, "heads"), parameter(launch, "steps") * parameter(launch, "phases"));
            assert!(tokens % STEPS == 0);
            assert_taps_fit(launch, heads * tokens);
            assert!(parameter(launch, "columns") >= conv.heads().div_ceil(heads));
            // Two channels of one word are in one tile.
            assert!(
                conv.channels() % 2 == 1 || heads * conv.head_channels() % 2 == 0 || heads == conv.heads()
            );
            let (rows, columns) = (parameter(launch, "row_groups"), parameter(launch, "column_groups"));
            if rows > 0 {
                assert_stage_fits(1, rows, columns, WORKGROUP);
                assert_eq!(4 * rows, tokens);
            }
        }
    }
    assert_eq!(kinds, HashSet::from([0, 1, 2]), "each path is taken");
}

#[test]
fn span_keys_fit_the_smallest_device() {
    for conv in convolutions() {
        for outputs in [1, 30, 384] {
            let (shape, channels) = (conv.sequences(), conv.channels());
            let problem = SpanKeyProblem::new(shape, channels, outputs, conv.window(), conv.dtype()).unwrap();
            for launch in check(&problem, |limits| key(&problem, limits)) {
                let (rows, columns) = (parameter(&launch, "row_groups"), parameter(&launch, "column_groups"));
                assert_stage_fits(2, rows, columns, WORKGROUP);
                assert_eq!(8 * rows, parameter(&launch, "steps") * parameter(&launch, "phases"));
                assert!(parameter(&launch, "columns") * 4 * columns >= outputs);
            }
        }
    }
}

/// Parameters go to the kernel by their order: it must be that of the kernel's structure.
#[test]
fn parameters_are_those_of_the_kernel() {
    let shape = Sequences::batch(8, 512).unwrap().shape();
    let conv = Convolution::new(shape, 512, 8, Window::causal(31).unwrap(), DType::F16).unwrap();
    let limits = Limits::default();
    let given = DynamicConvProblem::given(conv).unwrap();
    let generated = DynamicConvProblem::generated(conv).unwrap();
    let span = SpanKeyProblem::new(shape, 512, 64, conv.window(), DType::F16).unwrap();
    let attention = AttentionProblem::new(shape, shape, 8, 64, DType::F16).unwrap();
    let history = HistoryProblem::new(conv).unwrap();
    let places = history::Places { x: Place::contiguous(512), history: 0, next: 0 };
    let append = AppendProblem::new(shape, 512, 600, DType::F16).unwrap();
    let beside = append::Places { x: Place::contiguous(512), cache: Place::contiguous(512) };
    let attend_back = AttentionBackwardProblem::new(attention, AttentionWanted::ALL);
    let layer = LinearProblem::new(9000, 8, 7, DType::BF16).unwrap().with_bias(true);
    let layer = LinearBackwardProblem::new(layer, LinearWanted::ALL).unwrap();
    let launches = [
        light(&conv, &limits).unwrap(),
        dynamic(&given, &limits).unwrap(),
        dynamic(&generated, &limits).unwrap(),
        key(&span, &limits).unwrap(),
        product(&LinearProblem::new(9, 8, 7, DType::F32).unwrap(), &limits).unwrap(),
        attend(&attention, AttentionKind::Fused, &limits).unwrap(),
        attend(&attention, AttentionKind::Naive, &limits).unwrap(),
        normed(
            &NormProblem::new(NormKind::Rms, 9, 8, DType::BF16)
                .unwrap()
                .with_residual(NormResidual::Before { sum: true }),
            &limits,
        )
        .unwrap(),
        history::plan(&history, places, true, &limits).unwrap().into_iter().collect(),
        append::plan(&append, beside, true, &limits).unwrap().into_iter().collect(),
        layer_backward(&layer, &limits).unwrap(),
        dynamic_backward(given, &limits).unwrap(),
        light_backward(&conv.with_normalize(Normalize::SoftmaxInRange), &limits).unwrap(),
        attend_backward(&attend_back, AttentionKind::Fused, &limits).unwrap(),
        attend_backward(&attend_back, AttentionKind::Naive, &limits).unwrap(),
        key_backward(&SpanKeyBackwardProblem::new(span, SpanKeyWanted::ALL).unwrap(), &limits).unwrap(),
        embed(&EmbeddingProblem::of_sequences(shape, 9, 8, DType::F16).unwrap(), &limits).unwrap(),
        rank(&TopKProblem::new(9, 8, 7, DType::F16).unwrap(), &limits).unwrap(),
    ];
    let mut seen = HashSet::new();
    for launch in launches.concat() {
        let names: Vec<String> = launch.parameters.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names, fields(&module(&launch.kernel)), "{}", launch.kernel.name);
        seen.insert(launch.kernel.name);
    }
    let all: HashSet<_> = kernels().iter().map(|kernel| kernel.name).collect();
    assert_eq!(seen, all, "every operator's parameters are looked at");
}

/// The members of the uniform structure at binding 0, structures within it opened up.
fn fields(module: &naga::Module) -> Vec<String> {
    fn open(module: &naga::Module, ty: naga::Handle<naga::Type>, names: &mut Vec<String>) {
        let naga::TypeInner::Struct { members, .. } = &module.types[ty].inner else { return };
        for member in members {
            match &module.types[member.ty].inner {
                naga::TypeInner::Struct { .. } => open(module, member.ty, names),
                _ => names.push(member.name.clone().unwrap()),
            }
        }
    }
    let mut names = vec![];
    let uniform =
        module.global_variables.iter().find(|(_, variable)| variable.space == naga::AddressSpace::Uniform);
    open(module, uniform.unwrap().1.ty, &mut names);
    names
}

#[test]
fn a_device_that_allows_less_is_refused() {
    let shape = Sequences::batch(1, 8).unwrap().shape();
    let conv = Convolution::new(shape, 8, 2, Window::causal(3).unwrap(), DType::F32).unwrap();
    let refused = |limits: Limits, what, needed, limit| {
        let expected = Error::Limit { what, of: "light_conv", needed, limit };
        assert_eq!(light(&conv, &limits), Err(expected));
    };
    let limits = Limits::default();
    let memory = Limits { workgroup_memory: 8 << 10, ..limits };
    refused(memory, "bytes of workgroup memory of", 16 << 10, 8 << 10);
    refused(Limits { invocations: 128, ..limits }, "invocations in a workgroup of", 256, 128);
    refused(Limits { storage_buffers: 4, ..limits }, "storage buffers of", 6, 4);
}

/// Every row of every sequence is in one tile, and no tile has rows of two sequences: what `tile_of` and `position_of` of
/// `shaders/shared/tiles.wgsl` do with the parameters.
#[test]
fn tiles_cover_every_row_once() {
    let some = [
        Sequences::batch(3, 40).unwrap(),
        Sequences::padded(37, &[37, 0, 5]).unwrap(),
        Sequences::packed(&[0, 0, 9, 10, 60, 60, 61, 200]).unwrap(),
    ];
    for sequences in some {
        for (width, dilation) in [(1, 1), (3, 1), (3, 2), (3, 5), (2, 9), (3, 39), (2, 64), (3, 500)] {
            for outputs in [8, 16, 64] {
                let shape = sequences.shape();
                let far = Window::new(width, dilation, 0).unwrap();
                let conv = Convolution::new(shape, 1, 1, far, DType::F32).unwrap();
                let tiles = Tiles::new(shape, window(&conv), true, outputs, 2).unwrap();
                let p = |name| {
                    tile_parameters(&tiles).unwrap().iter().find(|(n, _)| *n == name).unwrap().1 as usize
                };
                let mut seen = vec![0; shape.tokens()];
                for group in 0..p("groups") {
                    let (column, rest) = (group % 2, group / 2);
                    let (phase, block) = (rest % p("tiles") * p("phases"), rest / p("tiles"));
                    let (index, start) = if p("time") > 0 {
                        (block / p("blocks"), block % p("blocks") * p("span"))
                    } else {
                        let begin = |i: usize| sequences.as_slice()[i].first / p("span") + i;
                        let index = (0..shape.sequences()).rfind(|&i| begin(i) <= block).unwrap();
                        (index, (block - begin(index)) * p("span"))
                    };
                    let sequence = sequences.as_slice()[index];
                    for output in 0..p("phases") * p("steps") {
                        let (phase, step) = (phase + output / p("steps"), output % p("steps"));
                        let position = start + phase + step * p("dilation");
                        if column == 0
                            && phase < p("dilation")
                            && position < sequence.length + sequence.padding
                        {
                            seen[sequence.first + position] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{shape}, {far:?}, {outputs}: {seen:?}");
            }
        }
    }
}
