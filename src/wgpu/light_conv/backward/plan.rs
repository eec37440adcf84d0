//! What the gradients of a light convolution launch.

use crate::gpu::{STEPS, Tiles, window};
use crate::problem::{Convolution, LightConvBackwardProblem};
use crate::wgpu::dynamic_conv::band::{Band, Parts, plan_statistics, statistics_len};
use crate::wgpu::dynamic_conv::{Logits, plan_gathered};
use crate::wgpu::light_conv::{LANES, plan_same};
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, Tokens, dropout_parameters, parameters, tile_parameters};
use crate::wgpu::shader::{File, Kernel, Lane, WORKGROUP, code, store};
use crate::{DType, Normalize, Result};

/// Where the tensors of a call lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) dy: Place,
    pub(crate) dx: Place,
    pub(crate) weight: usize,
    pub(crate) dweight: usize,
    /// Partial sums.
    pub(crate) sums: usize,
    /// Statistics of the softmax of each token.
    pub(crate) statistics: usize,
    /// Of the dropout.
    pub(crate) seed: u64,
}

impl Places {
    pub(crate) fn contiguous(problem: &LightConvBackwardProblem) -> Self {
        let rows = Place::contiguous(problem.forward().convolution().channels());
        Places { x: rows, dy: rows, dx: rows, weight: 0, dweight: 0, sums: 0, statistics: 0, seed: 0 }
    }
}

/// The launches, in their order; that of dbias is not among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Launches {
    /// The statistics of each token's softmax, where it is one over the taps in range.
    pub(crate) statistics: Option<Launch>,
    /// dx.
    pub(crate) x: Option<Launch>,
    /// The gradient of the weights in use, in parts.
    pub(crate) parts: Option<Launch>,
    /// What the tokens at the edges have of dweight, in parts.
    pub(crate) edges: Option<Launch>,
    /// dweight from the parts.
    pub(crate) weight: Option<Launch>,
}

impl Launches {
    pub(crate) fn all(self) -> impl Iterator<Item = Launch> {
        [self.statistics, self.x, self.parts, self.edges, self.weight].into_iter().flatten()
    }
}

fn in_range(conv: &Convolution) -> bool {
    conv.normalize() == Normalize::SoftmaxInRange
}

/// Numbers of scratch memory: partial sums, and statistics.
pub(crate) fn scratch_len(problem: &LightConvBackwardProblem) -> Result<[u64; 2]> {
    let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
    let mut sums = if wanted.bias { super::bias_products(problem).bias_scratch() } else { 0 };
    if conv.sequences().tokens() == 0 {
        return Ok([sums, 0]);
    }
    let places = Places::contiguous(problem);
    if wanted.weight {
        // However the rows lie.
        let parts =
            Division::new(conv, false)?.len().max(Division::new(conv, conv.channels() % 2 == 0)?.len());
        sums = sums.max(parts.saturating_add(edges_len(conv, &places)?));
    }
    let statistics = if in_range(conv) && (wanted.x || wanted.weight) { statistics_len(conv) } else { 0 };
    Ok([sums, statistics])
}

/// Numbers of the parts of the edges.
fn edges_len(conv: &Convolution, places: &Places) -> Result<u64> {
    if !in_range(conv) {
        return Ok(0);
    }
    let parts = band(conv, places, false).parts()?.parts as u64;
    Ok(parts.saturating_mul(conv.heads() as u64).saturating_mul(conv.window().width() as u64))
}

fn same_logits(conv: &Convolution, offset: usize) -> Logits {
    Logits { dtype: conv.parameters(), offset, stride: 0 }
}

fn band<'a>(conv: &'a Convolution, places: &Places, listed: bool) -> Band<'a> {
    let Places { x, dy, weight, statistics, seed, .. } = *places;
    Band { conv, logits: same_logits(conv, weight), x, dy, statistics, seed, listed }
}

/// The launches.
pub(crate) fn plan(
    problem: &LightConvBackwardProblem,
    places: &Places,
    listed: bool,
    limits: &Limits,
) -> Result<Launches> {
    let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
    let mut launches = Launches::default();
    let (mut parts, mut edges) = (None, None);
    if conv.sequences().tokens() > 0 {
        if in_range(conv) && (wanted.x || wanted.weight) {
            let logits = same_logits(conv, places.weight);
            launches.statistics = Some(plan_statistics(conv, logits, places.statistics, listed, limits)?);
        }
        if wanted.x {
            launches.x = Some(plan_x(conv, places, listed, limits)?);
        }
        if wanted.weight {
            let tokens = Tokens { x: places.x, y: places.dy, history: 0, bias: 0 };
            let division = Division::new(conv, tokens.whole_words(conv))?;
            launches.parts = Some(division.plan(conv, places, listed, limits)?);
            if in_range(conv) {
                let offset = places.sums.saturating_add(division.len() as usize);
                let band = band(conv, places, listed);
                launches.edges = Some(band.plan_sums(offset, limits)?);
                edges = Some((band.parts()?.parts, offset));
            }
            parts = Some(division);
        }
    }
    if wanted.weight {
        launches.weight = Some(plan_weight(problem, places, parts, edges, limits)?);
    }
    Ok(launches)
}

/// dx: the convolution of dy along the mirrored window.
fn plan_x(conv: &Convolution, places: &Places, listed: bool, limits: &Limits) -> Result<Launch> {
    let Places { dy, dx, weight, statistics, seed, .. } = *places;
    let tokens = Tokens { x: dy, y: dx, history: 0, bias: 0 };
    let mirrored = conv.mirrored();
    if in_range(conv) {
        let logits = (same_logits(conv, weight), seed);
        return plan_gathered(&mirrored, &tokens, (logits, statistics), conv.dtype(), (listed, limits));
    }
    plan_same(&mirrored, &tokens, (weight, seed), true, (listed, limits))
}

/// How the sums over all tokens are divided.
struct Division {
    tiles: Tiles,
    lane: Lane,
    lanes: usize,
    columns: usize,
    /// Times [`STEPS`] outputs that an invocation has of a tile.
    run: usize,
    time_groups: usize,
    /// Quads of taps that an invocation has.
    tap_quads: usize,
    tap_groups: usize,
    /// Heads that a column can touch.
    heads: usize,
    parts: Parts,
}

impl Division {
    /// With rows of x and dy that begin on whole words, or do not.
    fn new(conv: &Convolution, whole_words: bool) -> Result<Self> {
        /// As many taps as fit into registers, with the tokens that they see.
        const TAP_QUADS: usize = 4;
        /// Most of the tokens of a run are then new ones, and not those under its first taps.
        const RUN: usize = 4;
        /// Tiles of a part: no invocation loops so long that a device gives up on it.
        const MOST: usize = 32;
        let lane = Lane::new(conv.dtype(), whole_words, conv.head_channels());
        let words = conv.channels() / lane.channels();
        let columns = words.div_ceil(LANES);
        let lanes = words.div_ceil(columns);
        let quads = conv.window().width().div_ceil(4);
        let tap_groups = quads.div_ceil(TAP_QUADS);
        let tap_quads = quads.div_ceil(tap_groups);

        let (near, longest) = (window(conv), conv.sequences().longest());
        let blocks = longest.div_ceil(near.dilation()).div_ceil(STEPS).max(1);
        let most = WORKGROUP / lanes;
        let run = blocks.div_ceil(most).min(RUN);
        let runs = blocks.div_ceil(run).min(most);
        let phases = (most / runs).min(near.dilation()).min(longest).max(1);
        let tiles = Tiles::of(conv.sequences(), near, false, [phases, runs * run * STEPS], 1)?;

        let (channels, head_channels) = (lanes * lane.channels(), conv.head_channels());
        let heads = ((channels + head_channels - 2) / head_channels + 1).min(conv.heads());
        let parts = Parts::new(tiles.groups, columns * tap_groups, MOST, columns * heads * 4 * quads);
        let time_groups = runs * phases;
        Ok(Division { tiles, lane, lanes, columns, run, time_groups, tap_quads, tap_groups, heads, parts })
    }

    /// Numbers of a head and part.
    fn part_width(&self) -> usize {
        4 * self.tap_quads * self.tap_groups
    }

    /// Numbers of all parts.
    fn len(&self) -> u64 {
        let rows = (self.parts.parts * self.columns) as u64 * self.heads as u64;
        rows.saturating_mul(self.part_width() as u64)
    }

    fn plan(&self, conv: &Convolution, places: &Places, listed: bool, limits: &Limits) -> Result<Launch> {
        let y = Place { offset: places.sums, stride: 0 };
        let tokens = Tokens { x: places.x, y, history: 0, bias: 0 };
        let mut all = tile_parameters(&Tiles { listed, ..self.tiles })?;
        all.extend(tokens.parameters(conv, false)?);
        all.extend(self.parts.parameters(places.dy)?);
        all.extend(parameters(&[
            ("lanes", self.lanes),
            ("time_groups", self.time_groups),
            ("run", self.run),
            ("channel_columns", self.columns),
            ("tap_groups", self.tap_groups),
            ("heads", self.heads),
            ("interior", usize::from(in_range(conv))),
            ("unused", 0),
        ])?);
        let groups = (self.parts.parts * self.columns * self.tap_groups) as u64;
        Launch::new(parts_kernel(conv.dtype(), self.lane, self.tap_quads), groups, all, limits)
    }
}

/// dweight from the parts, and from those of the edges, which begin at an offset.
fn plan_weight(
    problem: &LightConvBackwardProblem,
    places: &Places,
    division: Option<Division>,
    edges: Option<(usize, usize)>,
    limits: &Limits,
) -> Result<Launch> {
    let conv = problem.forward().convolution();
    let (edge_parts, edge_offset) = edges.unwrap_or((0, 0));
    let of = |number: fn(&Division) -> usize| division.as_ref().map_or(1, number);
    let mut all = dropout_parameters(conv, places.seed).to_vec();
    all.extend(parameters(&[
        ("heads", conv.heads()),
        ("width", conv.window().width()),
        ("head_channels", conv.head_channels()),
        ("normalize", usize::from(conv.normalize() != Normalize::None)),
        ("column_channels", of(|division| division.lanes * division.lane.channels())),
        ("column_heads", of(|division| division.heads)),
        ("columns", of(|division| division.columns)),
        ("part_width", of(Division::part_width)),
        // Without tokens there are none.
        ("parts", division.as_ref().map_or(0, |division| division.parts.parts)),
        ("part_offset", places.sums),
        ("edge_parts", edge_parts),
        ("edge_offset", edge_offset),
        ("weight_offset", places.weight),
        ("y_offset", places.dweight),
        ("groups", conv.heads()),
        ("unused", 0),
    ])?);
    let kernel =
        reduce_kernel(conv.parameters(), problem.parameters()).with_dropout(conv.dropout().is_some());
    Launch::new(kernel, conv.heads() as u64, all, limits)
}

fn parts_kernel(dtype: DType, lane: Lane, tap_quads: usize) -> Kernel {
    let files = [File::Element, lane.file(), File::StoreWords, File::Tiles, File::Window, File::Memory];
    Kernel {
        name: "light_conv_backward",
        workgroup: WORKGROUP,
        files: files.into_iter().chain([File::Gradient, File::LightConvBackwardWeight]).collect(),
        constants: vec![
            ("X", code(dtype)),
            ("Y", code(DType::F32)),
            ("SPLIT", lane.split()),
            ("TAP_QUADS", tap_quads as u32),
        ],
        inputs: 5,
    }
}

fn reduce_kernel(parameters: DType, gradients: DType) -> Kernel {
    let files = [File::Element, store(gradients, false), File::Dropout, File::LightConvBackwardReduce];
    Kernel {
        name: "light_conv_reduce",
        workgroup: WORKGROUP,
        files: files.to_vec(),
        constants: vec![("P", code(parameters)), ("Y", code(gradients))],
        inputs: 2,
    }
}

/// Every kernel that a plan can ask for, but for those of the band.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    for dtype in DType::ALL {
        for lane in Lane::ALL.into_iter().filter(|&lane| dtype != DType::F32 || lane == Lane::One) {
            all.extend((1..=4).map(|tap_quads| parts_kernel(dtype, lane, tap_quads)));
        }
        all.extend(reduce_kernel(dtype, dtype).both_dropouts());
    }
    for parameters in [DType::F16, DType::BF16] {
        all.extend(reduce_kernel(parameters, DType::F32).both_dropouts());
    }
    all
}
