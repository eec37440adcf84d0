//! The plan of a light convolution's backward pass: `kernels/light_conv_backward.cu`, and the forward kernels for x.

mod shape;

pub(super) use shape::Shape;

use bytemuck::{Pod, Zeroable};

use crate::cuda::light_conv::multiply_add::end_rows;
use crate::cuda::light_conv::{self, Filter, Places};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, Place, TileParams, WindowParams, count, unit};
use crate::cuda::rows::gap;
use crate::gpu::word;
use crate::problem::LightConvBackwardProblem;
use crate::{DType, Normalize, Result};

/// Threads of a block, and of a warp.
const THREADS: usize = 256;
pub(super) const WARP: usize = 32;
/// Taps of a thread.
const OCTET: usize = 8;
/// Bytes of a block's memory, beside what the kernel declares: several blocks of a multiprocessor have so much.
const MEMORY: usize = 47 << 10;
/// By products of matrices: what one block of a multiprocessor has, for the most products.
const BAND_MEMORY: usize = 96 << 10;
/// Tokens of a tile then, and channels of a warp, of which a column has four at most.
const BAND_OUTPUTS: [usize; 4] = [512, 384, 256, 128];
const SIDE: usize = 16;
const GROUPS: usize = 4;
/// Tokens of a tile, at most, and at least where there is a choice.
const OUTPUTS: [usize; 2] = [512, 64];
/// Blocks for each multiprocessor.
const BLOCKS: u64 = 4;
/// Warps for each multiprocessor that walk over the ends of sequences, and the numbers of f32 that their sums may take.
const END_WARPS: u64 = 32;
const END_NUMBERS: u64 = 1 << 22;
/// Numbers of f32 in a sector: parts of scratch memory begin on one.
const ALIGNED: u64 = 8;

/// The structure `Params` of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    dy_stride: u64,
    sums_at: u64,
    biases_at: u64,
    ends_at: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    heads: u32,
    head_channels: u32,
    normalize: u32,
    wide: u32,
    wide_gradients: u32,
    wants_x: u32,
    wants_weight: u32,
    wants_bias: u32,
    lanes: u32,
    octets: u32,
    groups: u32,
    taps: u32,
    chunks: u32,
    all_tiles: u32,
    blocks: u32,
    column_heads: u32,
    load_unit: u32,
    gap: u32,
    of_phase: u32,
    of_dy_phase: u32,
    dy_at: u32,
    end_rows: u32,
    end_warps: u32,
    dropout: DropoutParams,
}

/// Where the tokens lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackwardPlaces {
    pub(crate) x: Place,
    pub(crate) dy: Place,
    pub(crate) dx: Place,
}

impl BackwardPlaces {
    pub(crate) fn contiguous(channels: usize) -> Self {
        let place = Place::contiguous(channels);
        BackwardPlaces { x: place, dy: place, dx: place }
    }
}

/// The launches of a call, in this order; those that it needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// The ends of sequences, of a softmax over the taps in range.
    pub(crate) ends: Option<Launch>,
    pub(crate) x: Option<Launch>,
    /// Sums of some tokens each, and then of all.
    pub(crate) sums: Option<Launch>,
    pub(crate) parameters: Option<Launch>,
}

impl Plan {
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        [&self.ends, &self.x, &self.sums, &self.parameters].into_iter().flatten()
    }
}

/// Where the parts of scratch memory begin, in numbers of f32. What the ends of sequences are normalised by is the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scratch {
    pub(super) sums: u64,
    pub(super) biases: u64,
    ends: u64,
    len: u64,
    end_warps: u64,
}

impl Scratch {
    fn new(problem: &LightConvBackwardProblem, shape: &Shape, limits: &Limits) -> Self {
        let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
        let (heads, width) = (conv.heads() as u64, conv.window().width() as u64);
        let product = |sizes: &[u64]| sizes.iter().fold(1, |all: u64, &size| all.saturating_mul(size));
        let tokens = product(&[conv.sequences().sequences() as u64, end_rows(conv) as u64]);
        let in_range = conv.normalize() == Normalize::SoftmaxInRange && (wanted.x || wanted.weight);
        let ends = if in_range { tokens } else { 0 };
        let warps = (END_WARPS * u64::from(limits.multiprocessors) / heads)
            .min(END_NUMBERS / product(&[2, heads, width]).max(1));
        let end_warps = warps.max(1).min(ends);
        let columns = [shape.tiles.columns as u64, shape.column_heads(conv) as u64, width];
        let lens = [
            if wanted.x { product(&[2, heads, ends]) } else { 0 },
            if wanted.weight { product(&[shape.blocks, product(&columns)]) } else { 0 },
            if wanted.bias { product(&[shape.blocks, conv.channels() as u64]) } else { 0 },
            if wanted.weight { product(&[2, end_warps, heads, width]) } else { 0 },
        ];
        let [sums, biases, ends, len] = {
            let mut at = 0u64;
            lens.map(|len| {
                at = at.saturating_add(len).checked_next_multiple_of(ALIGNED).unwrap_or(u64::MAX);
                at
            })
        };
        Scratch { sums, biases, ends, len, end_warps }
    }
}

/// Whether there is anything to do.
pub(super) fn any(problem: &LightConvBackwardProblem) -> bool {
    let wanted = problem.wanted();
    problem.forward().convolution().sequences().tokens() > 0 && (wanted.x || wanted.weight || wanted.bias)
}

/// Numbers of scratch memory. Which sequences there are does not matter.
pub(super) fn scratch_len(problem: &LightConvBackwardProblem, limits: &Limits) -> u64 {
    match layout(problem, true, limits) {
        Ok((_, scratch)) if any(problem) => scratch.len,
        // What cannot be planned is refused, whatever scratch there is.
        _ => 0,
    }
}

/// How the sums are made, and where they lie.
pub(super) fn layout(
    problem: &LightConvBackwardProblem,
    listed: bool,
    limits: &Limits,
) -> Result<(Shape, Scratch)> {
    let shape = Shape::new(problem, listed, limits)?;
    Ok((shape, Scratch::new(problem, &shape, limits)))
}

/// The launches of a call.
pub(crate) fn plan(
    problem: &LightConvBackwardProblem,
    dropout: DropoutParams,
    places: &BackwardPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Plan> {
    let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
    let (shape, scratch) = layout(problem, listed, limits)?;
    debug_assert!(shape.holds(conv), "{shape:?} for {problem:?}");
    let any = any(problem);
    let Shape { lanes, octets, groups, chunks, tiles, blocks, .. } = shape;
    let blocks = if any { blocks } else { 0 };
    let (dtype, channels) = (conv.dtype(), conv.channels());
    let [of_phase, of_dy_phase] = shape.phases(conv);
    let wide = |of: DType| u32::from(dtype != DType::F32 && of == DType::F32);
    let params = Params {
        x_stride: places.x.stride as u64,
        dy_stride: places.dy.stride as u64,
        sums_at: scratch.sums,
        biases_at: scratch.biases,
        ends_at: scratch.ends,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", channels)?,
        heads: count("x", conv.heads())?,
        head_channels: count("x", conv.head_channels())?,
        normalize: match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        },
        wide: wide(conv.parameters()),
        wide_gradients: wide(problem.parameters()),
        wants_x: wanted.x.into(),
        wants_weight: wanted.weight.into(),
        wants_bias: wanted.bias.into(),
        lanes: lanes as u32,
        octets: octets as u32,
        groups: groups as u32,
        taps: shape.taps() as u32,
        chunks: count("the window", chunks)?,
        all_tiles: word("tiles of", "the call", tiles.groups / tiles.columns)?,
        blocks: blocks as u32,
        column_heads: shape.column_heads(conv) as u32,
        load_unit: unit(dtype, channels, &[places.x, places.dy]),
        gap: gap(shape.row(conv)) as u32,
        of_phase: of_phase as u32,
        of_dy_phase: of_dy_phase as u32,
        dy_at: (tiles.phases * of_phase) as u32,
        end_rows: count("the window", end_rows(conv))?,
        end_warps: scratch.end_warps as u32,
        dropout,
    };
    let module = modules::light_conv_backward(dtype);
    let launch =
        |entry, blocks| Launch::new((module, entry), blocks, THREADS as u32, &params, limits).map(Some);
    let sums = match (shape.band, modules::light_conv_backward_band(dtype)) {
        (Some(band), Some(module)) => (module, band.entry),
        _ => (module, "light_conv_sums"),
    };
    let mut plan = Plan::default();
    if any && scratch.end_warps > 0 {
        let warps = scratch.end_warps.saturating_mul(conv.heads() as u64);
        plan.ends = launch("light_conv_ends", warps.div_ceil((THREADS / WARP) as u64))?;
    }
    if wanted.x {
        let filter = Filter { dropout, mirrored: true, addends: false };
        let lies = Places { x: places.dy, history: Place::contiguous(channels), y: places.dx };
        plan.x = light_conv::plan(&conv.mirrored(), filter, &lies, listed, limits)?;
    }
    if any && (wanted.weight || wanted.bias) {
        let all = blocks.saturating_mul(chunks as u64).saturating_mul(tiles.columns as u64);
        let launch = Launch::new(sums, all, THREADS as u32, &params, limits)?;
        plan.sums = Some(launch.with_shared(shape.memory(conv) as u64, limits)?);
    }
    if wanted.weight || wanted.bias {
        let weights = if wanted.weight { conv.heads() as u64 } else { 0 };
        let biases = if wanted.bias { channels.div_ceil(WARP) as u64 } else { 0 };
        plan.parameters = launch("light_conv_parameters", weights + biases)?;
    }
    Ok(plan)
}
