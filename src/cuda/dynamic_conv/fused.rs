//! The plan of `kernels/dynamic_conv_fused.cu`: generation, normalisation and convolution in one launch.

#[cfg(test)]
mod tests;
mod time;
mod traffic;

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::DynamicPlaces;
use crate::cuda::dynamic_conv::fused::time::time_apart;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, Place, TileParams, WindowParams, count, unit};
use crate::gpu::{Tiles, window};
use crate::problem::{Convolution, DynamicConvProblem, Taps};
use crate::{DType, Normalize, Result};

pub(crate) use traffic::traffic;

/// Warps that keep a multiprocessor's tensor cores busy.
const WARPS: usize = 8;
/// Queries and logits of a warp's part of the generating product.
const PART: usize = 32;
/// Numbers of a slab of W, and how many stages of some slabs lie in a block's memory.
const DEPTH: usize = 32;
const STAGES: usize = 3;
/// Outputs of a matrix.
const SIDE: usize = 16;
/// The longest window: a longer one has a halo as long as a tile that two launches do better with.
const WIDTH: usize = 65;
/// Heads narrower than this are cheaper by multiply-adds.
const HEAD_CHANNELS: usize = 16;
/// Bytes of a warp's corner, where outputs wait.
const CORNER: usize = 768;
/// The most tokens of a tile.
const STEPS: usize = 128;
/// Bytes before the tokens.
const WORK: usize = 128;
/// Says that no row of tokens is an output's query.
const NOWHERE: u32 = u32::MAX;

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    query_stride: u64,
    y_stride: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    head_channels: u32,
    heads: u32,
    query_channels: u32,
    normalize: u32,
    has_bias: u32,
    has_weight_bias: u32,
    block_heads: u32,
    group_heads: u32,
    own_row: u32,
    token_pitch: u32,
    query_pitch: u32,
    tap_pitch: u32,
    query_at: u32,
    taps_at: u32,
    weight_bias_at: u32,
    slabs_at: u32,
    corners_at: u32,
    slab_rows: u32,
    stage_slabs: u32,
    wide_query: u32,
    banded: u32,
    x_unit: u32,
    query_unit: u32,
    weight_unit: u32,
    y_unit: u32,
    dropout: DropoutParams,
}

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: &'static str,
    /// Warps that a block may have.
    warps: &'static [usize],
    /// Whether a multiprocessor has registers for two blocks of the least.
    pair: bool,
}

/// The one for so many products of a band; where W is of 32 bits there is one for any.
fn entry(conv: &Convolution) -> Entry {
    if conv.window().width() <= 33 && conv.parameters() != DType::F32 {
        Entry { name: "dynamic_conv_3", warps: &[WARPS, 2 * WARPS], pair: true }
    } else {
        Entry { name: "dynamic_conv_5", warps: &[WARPS], pair: conv.dtype() == DType::F32 }
    }
}

/// What generates the taps.
#[derive(Clone, Copy, Debug)]
struct Generator {
    channels: usize,
    /// Type of a separate query.
    separate: Option<DType>,
    has_bias: bool,
}

impl Generator {
    fn of(problem: &DynamicConvProblem) -> Option<Self> {
        match problem.taps() {
            Taps::Given => None,
            Taps::Generated { query_channels, query, weight_bias } => {
                Some(Generator { channels: query_channels, separate: query, has_bias: weight_bias })
            }
        }
    }
}

/// How a call is divided among blocks, and a block's memory.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tiles: Tiles,
    warps: usize,
    block_heads: usize,
    group_heads: usize,
    stage_slabs: usize,
    /// The row of tokens that is an output's own query, if any is.
    own_row: Option<usize>,
    token_pitch: usize,
    query_pitch: usize,
    tap_pitch: usize,
    slab_rows: usize,
    query_at: usize,
    taps_at: usize,
    weight_bias_at: usize,
    slabs_at: usize,
    corners_at: usize,
    bytes: usize,
}

/// Whether taps are convolved by products of matrices.
fn banded(conv: &Convolution) -> bool {
    conv.dtype() != DType::F32 && conv.head_channels() >= HEAD_CHANNELS
}

/// The unit in which the kernel copies.
fn copied_by(dtype: DType, channels: usize, places: &[Place]) -> u32 {
    match unit(dtype, channels, places) {
        8 => 4,
        unit => unit,
    }
}

/// Bytes from row to row of so many numbers: whole slabs, and an odd number of 16 bytes.
fn pitch(numbers: usize, dtype: DType) -> usize {
    ((numbers.next_multiple_of(DEPTH) * dtype.size() / 16) | 1) * 16
}

impl Shape {
    /// Tiles of `steps` tokens and `block_heads` heads, `group_heads` of them at a time, for so many warps.
    fn new(
        conv: &Convolution,
        generator: Generator,
        [steps, warps]: [usize; 2],
        [block_heads, group_heads, stage_slabs]: [usize; 3],
    ) -> Result<Self> {
        let window = window(conv);
        let (heads, width) = (conv.heads(), window.width());
        let blocks = heads.div_ceil(block_heads);
        let tiles = Tiles::of(conv.sequences(), window, false, [1, steps], blocks)?;
        let dtype = conv.dtype();
        let query = generator.separate.unwrap_or(dtype);
        let own =
            generator.separate.is_none() && blocks == 1 && window.left().is_multiple_of(window.dilation());
        // The first channel may not be the first of eight.
        let channels = if blocks == 1 { conv.channels() } else { block_heads * conv.head_channels() + 7 };
        let (token_pitch, query_pitch) = (pitch(channels, dtype), pitch(generator.channels, query));
        let slab_rows = (group_heads * width).next_multiple_of(PART);
        // Warps read the taps of a band as the one, and threads a row each as the other: see `token_band.cuh` and
        // `tap_rows.cuh`.
        let tap_pitch = if banded(conv) { slab_rows + 5 } else { slab_rows + 1 };
        let query_at = WORK + (steps + width - 1) * token_pitch;
        let slabs_at = query_at + if own { 0 } else { steps * query_pitch };
        let weight_bias_at = slabs_at + STAGES * stage_slabs * slab_rows * DEPTH * conv.parameters().size();
        let corners_at = weight_bias_at + slab_rows * 4;
        let taps_at = corners_at + if banded(conv) { warps * CORNER } else { 0 };
        let bytes = taps_at + steps * tap_pitch * 4;
        let own_row = own.then(|| window.left() / window.dilation());
        Ok(Shape {
            tiles,
            warps,
            block_heads,
            group_heads,
            stage_slabs,
            own_row,
            token_pitch,
            query_pitch,
            tap_pitch,
            slab_rows,
            query_at,
            taps_at,
            weight_bias_at,
            slabs_at,
            corners_at,
            bytes,
        })
    }

    /// The one that is over soonest, if one fits.
    fn best(conv: &Convolution, generator: Generator, limits: &Limits) -> Result<Option<Self>> {
        let (heads, width) = (conv.heads(), conv.window().width());
        // No tile holds so much, and its bytes could not be counted.
        let many = |count: usize| count > limits.shared_memory as usize;
        if width > WIDTH || many(conv.channels()) || many(generator.channels) {
            return Ok(None);
        }
        let longest = conv.sequences().longest().div_ceil(window(conv).dilation());
        let slabs = generator.channels.div_ceil(DEPTH);
        let mut best: Option<(f64, Shape)> = None;
        let mut consider = |sizes, heads| {
            let shape = Shape::new(conv, generator, sizes, heads)?;
            let time = shape.time(conv, generator, limits);
            let fits = shape.bytes <= limits.shared_memory as usize;
            if fits && best.as_ref().is_none_or(|&(least, _)| time < least) {
                best = Some((time, shape));
            }
            Ok(())
        };
        for steps in (SIDE..=STEPS.min(longest.next_multiple_of(SIDE))).step_by(SIDE) {
            // Tiles of one matrix read all of W for 16 tokens: two launches do better, where there are more tokens.
            if steps == SIDE && longest > SIDE {
                continue;
            }
            for &warps in entry(conv).warps {
                let most = warps / steps.div_ceil(PART) * PART / width;
                for blocks in (0..).map(|i| 1 << i).take_while(|&blocks| most > 0 && blocks <= heads) {
                    let block_heads = heads.div_ceil(blocks);
                    let mut groups = block_heads.div_ceil(most);
                    loop {
                        let group_heads = block_heads.div_ceil(groups);
                        for stage_slabs in [1, 2, 4].into_iter().take_while(|&stage| stage < 2 * slabs) {
                            consider([steps, warps], [block_heads, group_heads, stage_slabs])?;
                        }
                        if group_heads == 1 {
                            break;
                        }
                        groups = block_heads.div_ceil(group_heads - 1);
                    }
                }
            }
        }
        Ok(best.map(|(_, shape)| shape))
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution, generator: Generator) -> bool {
        let steps = self.tiles.steps;
        self.tiles.phases == 1
            && steps.is_multiple_of(SIDE)
            && self.group_heads > 0
            && self.group_heads <= self.block_heads
            && self.group_heads * conv.window().width() <= self.slab_rows
            && steps.div_ceil(PART) * (self.slab_rows / PART) <= self.warps
            && self.stage_slabs > 0
            && self.tap_pitch >= self.slab_rows
            && self.tiles.columns * self.block_heads >= conv.heads()
            && (self.own_row.is_none() || generator.channels == conv.channels())
            && [self.query_at, self.slabs_at, self.weight_bias_at, self.corners_at, self.taps_at]
                .into_iter()
                .all(|at| at.is_multiple_of(16))
    }
}

/// How a call is divided, and what its taps are generated from.
#[derive(Clone, Debug)]
pub(crate) struct Fused {
    shape: Shape,
    generator: Generator,
}

/// How the calls of a problem are divided, if this form is for it: where a tile fits, unless two launches would be the sooner
/// over by far. They want scratch memory, and the times are not measured yet. It depends on the problem and the device
/// alone, not on how tensors lie, since a call's scratch memory depends on it; and it takes some time to find.
pub(crate) fn fused(problem: &DynamicConvProblem, limits: &Limits) -> Option<Fused> {
    const FAR: f64 = 1.6;
    let (conv, generator) = (problem.convolution(), Generator::of(problem)?);
    // Where tiles are too far apart to be counted, they may not be in another form.
    let shape = Shape::best(conv, generator, limits).ok().flatten()?;
    let near = shape.time(conv, generator, limits) <= FAR * time_apart(conv, generator, limits);
    near.then_some(Fused { shape, generator })
}

/// The launch.
pub(crate) fn plan(
    Fused { shape, generator }: &Fused,
    problem: &DynamicConvProblem,
    dropout: DropoutParams,
    places: &DynamicPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    let (conv, generator) = (problem.convolution(), *generator);
    let tiles = Tiles { listed, ..shape.tiles };
    debug_assert!(shape.holds(conv, generator), "{shape:?} for {conv:?}");
    let (dtype, channels) = (conv.dtype(), conv.channels());
    let query = generator.separate.unwrap_or(dtype);
    let read = [places.tokens.x, places.tokens.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    // Heads are written one by one, or those of a block together.
    let apart = banded(conv) || shape.tiles.columns > 1;
    let written = if apart { conv.head_channels() } else { channels };
    let params = Params {
        x_stride: places.tokens.x.stride as u64,
        query_stride: places.query.stride as u64,
        y_stride: places.tokens.y.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", channels)?,
        head_channels: count("x", conv.head_channels())?,
        heads: count("x", conv.heads())?,
        query_channels: count("query", generator.channels)?,
        normalize: match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        },
        has_bias: conv.has_bias().into(),
        has_weight_bias: generator.has_bias.into(),
        block_heads: shape.block_heads as u32,
        group_heads: shape.group_heads as u32,
        own_row: shape.own_row.map_or(NOWHERE, |row| row as u32),
        token_pitch: shape.token_pitch as u32,
        query_pitch: shape.query_pitch as u32,
        tap_pitch: shape.tap_pitch as u32,
        query_at: shape.query_at as u32,
        taps_at: shape.taps_at as u32,
        weight_bias_at: shape.weight_bias_at as u32,
        slabs_at: shape.slabs_at as u32,
        corners_at: shape.corners_at as u32,
        slab_rows: shape.slab_rows as u32,
        stage_slabs: shape.stage_slabs as u32,
        wide_query: (query != dtype).into(),
        banded: banded(conv).into(),
        x_unit: copied_by(dtype, channels, read),
        query_unit: copied_by(query, generator.channels, &[places.query]),
        weight_unit: copied_by(conv.parameters(), generator.channels, &[places.source]),
        y_unit: copied_by(dtype, written, &[places.tokens.y]),
        dropout,
    };
    count("weight", problem.logits())?;
    let module = modules::dynamic_conv_fused(dtype, conv.parameters());
    Launch::new((module, entry(conv).name), shape.tiles.groups(), 32 * shape.warps as u32, &params, limits)?
        .with_shared(shape.bytes as u64, limits)
}
