//! The plan of `kernels/dynamic_conv_backward_band.cu`: 16-bit types, heads of 16 channels and more, up to 129 taps.

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::backward::logits::LogitPlaces;
use crate::cuda::dynamic_conv::bands::{
    self, GROUP, MOST_GROUPS, SIDE, THREADS, WARPS, block_groups, groups_each, odd_pitch,
};
use crate::cuda::dynamic_conv::plan::logit_sectors;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count};
use crate::cuda::traffic::{SECTOR, Traffic, list, tiles_of};
use crate::gpu::{Tiles, listed};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequences};

/// Tokens of a tile; where a head goes slab by slab, no more than all warps have at a time.
const STEPS: [usize; 4] = [128, WARPS * SIDE, 32, 16];
/// Bytes of what dropout keeps of 16 tokens.
const KEPT: usize = 16 * 36;

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    dy_stride: u64,
    logit_stride: u64,
    gradient_stride: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    head_channels: u32,
    normalize: u32,
    wide_logits: u32,
    wide_gradients: u32,
    block_groups: u32,
    groups: u32,
    rows: u32,
    logit_pitch: u32,
    load_unit: u32,
    dropout: DropoutParams,
}

/// How channels and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    products: usize,
    tiles: Tiles,
    /// Groups of a block, of whole heads, and those of a slab.
    block_groups: usize,
    groups: usize,
}

impl Shape {
    /// None where this form is not for such a convolution, or the device has too little shared memory.
    fn new(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Option<Self>> {
        let Some(products) = bands::products(conv) else {
            return Ok(None);
        };
        let each = groups_each(conv);
        let groups = block_groups(conv).min(MOST_GROUPS);
        // A part of a head is a slab, an even number of groups, and the block has all of them.
        let (block_groups, groups, steps) = match groups < each {
            true => (each, groups.next_multiple_of(2), &STEPS[1..]),
            false => (groups, groups, &STEPS[..]),
        };
        let columns = (conv.heads() * each).div_ceil(block_groups);
        let memory = |steps| memory(conv, products, groups, steps);
        let tiles = bands::tiles(conv, listed, columns, steps, memory, limits)?;
        Ok(tiles.map(|tiles| Shape { products, tiles, block_groups, groups }))
    }

    /// Rows of x in the block's memory.
    fn rows(&self) -> usize {
        self.tiles.steps + (self.products - 1) * SIDE
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution) -> bool {
        let Shape { tiles, block_groups, groups, .. } = *self;
        let (each, pitch) = (groups_each(conv), odd_pitch(conv.window().width()));
        groups > 0
            && groups * GROUP <= THREADS
            && tiles.columns * block_groups >= conv.heads() * each
            && block_groups.is_multiple_of(each)
            && (groups == block_groups
                || block_groups == each && groups.is_multiple_of(2) && tiles.steps <= WARPS * SIDE)
            && tiles.steps.is_multiple_of(SIDE)
            && self.rows() < 4096
            && pitch >= conv.window().width()
            && pitch % 8 == 5
            && tiles.phases == 1
    }
}

/// Bytes of the block's memory: tokens of both tensors, and a corner for each warp.
fn memory(conv: &Convolution, products: usize, groups: usize, steps: usize) -> usize {
    let rows = 2 * steps + (products - 1) * SIDE;
    rows * (groups | 1) * 16 + WARPS * (SIDE * 4 * odd_pitch(conv.window().width()) + KEPT)
}

/// The launch, if this form is for such a convolution.
pub(super) fn plan(
    conv: &Convolution,
    dropout: DropoutParams,
    places: &LogitPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (Some(module), Some(shape)) =
        (modules::dynamic_conv_backward_band(conv.dtype()), shape(conv, listed, limits))
    else {
        return Ok(None);
    };
    debug_assert!(shape.holds(conv), "{shape:?} for {conv:?}");
    let Shape { products, tiles, block_groups, groups } = shape;
    let params = Params {
        x_stride: places.x.stride as u64,
        dy_stride: places.dy.stride as u64,
        logit_stride: places.logits.place.stride as u64,
        gradient_stride: places.gradients.place.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", conv.channels())?,
        head_channels: count("x", conv.head_channels())?,
        normalize: match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        },
        wide_logits: (places.logits.dtype == DType::F32).into(),
        wide_gradients: (places.gradients.dtype == DType::F32).into(),
        block_groups: count("x", block_groups)?,
        groups: groups as u32,
        rows: shape.rows() as u32,
        logit_pitch: odd_pitch(conv.window().width()) as u32,
        load_unit: bands::unit(conv, &[places.x, places.dy]),
        dropout,
    };
    let entry = match products {
        3 => "dynamic_conv_logits_3",
        5 => "dynamic_conv_logits_5",
        _ => "dynamic_conv_logits_9",
    };
    let shared = memory(conv, products, groups, tiles.steps) as u64;
    Launch::new((module, entry), tiles.groups(), THREADS as u32, &params, limits)?
        .with_shared(shared, limits)
        .map(Some)
}

/// Where tiles are too far apart to be counted, those of the other form may not be.
fn shape(conv: &Convolution, listed: bool, limits: &Limits) -> Option<Shape> {
    Shape::new(conv, listed, limits).ok().flatten()
}

/// What it reads and writes, if this form is for such a convolution.
pub(super) fn traffic(
    conv: &Convolution,
    [logits, gradients]: [DType; 2],
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Option<Traffic>> {
    let Some(Shape { tiles, .. }) = shape(conv, listed(sequences.shape()), limits) else {
        return Ok(None);
    };
    let (window, width) = (WindowParams::new(conv)?, conv.window().width());
    let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let (first, length) = (tile.sequence.first, tile.sequence.length);
        let computed = tile.outputs(&tiles, length);
        if computed > 0 {
            let tokens = tile.tokens(conv, &window, 0, computed + width - 1) + computed;
            all.read += row * tokens as u64;
        }
        for output in 0..tile.outputs(&tiles, length + tile.sequence.padding) {
            let token = first + tile.start + output * tiles.dilation;
            let of =
                |dtype| (0..conv.heads()).map(|head| logit_sectors(conv, dtype, token, head)).sum::<u64>();
            all.written += of(gradients);
            if output < computed && conv.normalize() != Normalize::None {
                all.read += of(logits);
            }
        }
    }
    Ok(Some(all))
}
