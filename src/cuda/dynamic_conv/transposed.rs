//! The plan of `kernels/dynamic_conv_transposed.cu`, the gradient of x: 16-bit types, heads of 16 channels and more, up to 129 taps.

use std::collections::BTreeSet;

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::bands::{self, SIDE, THREADS, WARPS, block_groups, groups_each};
use crate::cuda::dynamic_conv::plan::Logits;
use crate::cuda::light_conv::Places;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count};
use crate::cuda::traffic::{SECTOR, Tile, Traffic, list, tiles_of};
use crate::gpu::{Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequences};

/// Bytes of an output's channels that wait to leave.
const OUTPUT_PITCH: usize = 48;
/// Outputs of a tile: the fewest go with the widest windows.
const STEPS: [usize; 3] = [128, 64, 32];
/// Pairs of weights of a lane.
const PAIRS: usize = 5;
const WARP: usize = 32;

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    dy_stride: u64,
    dx_stride: u64,
    logit_stride: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    head_channels: u32,
    normalize: u32,
    wide_logits: u32,
    has_addend: u32,
    groups: u32,
    rows: u32,
    eights: u32,
    quads: u32,
    load_unit: u32,
    store_unit: u32,
    unused: u32,
    dropout: DropoutParams,
}

/// How channels and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    products: usize,
    tiles: Tiles,
    groups: usize,
}

impl Shape {
    /// None where this form is not for such a convolution, or the device has too little shared memory.
    fn new(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Option<Self>> {
        let Some(products) = bands::products(conv) else {
            return Ok(None);
        };
        let groups = block_groups(conv);
        let columns = (conv.heads() * groups_each(conv)).div_ceil(groups);
        let memory = |steps| memory(conv, products, groups, steps);
        let tiles = bands::tiles(conv, listed, columns, &STEPS, memory, limits)?;
        Ok(tiles.map(|tiles| Shape { products, tiles, groups }))
    }

    /// Rows of dy in the block's memory.
    fn rows(&self) -> usize {
        self.tiles.steps + (self.products - 1) * SIDE
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution) -> bool {
        let Shape { products, tiles, groups } = *self;
        let eights = eights(conv, tiles.steps);
        groups > 0
            && groups * bands::GROUP <= THREADS
            && tiles.columns * groups >= conv.heads() * groups_each(conv)
            && tiles.steps.is_multiple_of(SIDE)
            && self.rows() < 4096
            && eights >= across(products) / 4
            && quads(conv, tiles.steps) >= eights * parts(conv)
            && tiles.phases == 1
    }
}

/// Parts that a weight is made of.
fn parts(conv: &Convolution) -> usize {
    if conv.dtype() == DType::BF16 { 3 } else { 2 }
}

/// Eights of outputs in which a token has a tap.
fn eights(conv: &Convolution, steps: usize) -> usize {
    ((conv.window().width() + 6) / 8 + 1).min(steps / 8)
}

/// Quads of a row of weights: an odd number.
fn quads(conv: &Convolution, steps: usize) -> usize {
    (eights(conv, steps) * parts(conv)) | 1
}

/// Lanes that have a row of weights.
fn across(products: usize) -> usize {
    match products {
        3 => 4,
        5 => 8,
        _ => 16,
    }
}

/// Bytes of the block's memory: tokens, weights and what they are normalised by, and a corner for each warp.
fn memory(conv: &Convolution, products: usize, groups: usize, steps: usize) -> usize {
    let rows = steps + (products - 1) * SIDE;
    let taps = steps + conv.window().width() - 1;
    rows * (groups | 1) * 16 + taps * (quads(conv, steps) * 16 + 8) + WARPS * SIDE * OUTPUT_PITCH
}

/// The launch for a mirrored convolution, if this form is for it: x and y are the gradients of y and x. `addends`, if something
/// is added.
pub(crate) fn plan(
    conv: &Convolution,
    (dropout, addends): (DropoutParams, bool),
    places: &Places,
    logits: Logits,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (Some(module), Some(shape)) =
        (modules::dynamic_conv_transposed(conv.dtype()), shape(conv, listed, limits))
    else {
        return Ok(None);
    };
    debug_assert!(shape.holds(conv), "{shape:?} for {conv:?}");
    let Shape { products, tiles, groups } = shape;
    let params = Params {
        dy_stride: places.x.stride as u64,
        dx_stride: places.y.stride as u64,
        logit_stride: logits.place.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", conv.channels())?,
        head_channels: count("x", conv.head_channels())?,
        normalize: match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        },
        wide_logits: (logits.dtype == DType::F32).into(),
        has_addend: addends.into(),
        groups: groups as u32,
        rows: shape.rows() as u32,
        eights: eights(conv, tiles.steps) as u32,
        quads: quads(conv, tiles.steps) as u32,
        load_unit: bands::unit(conv, &[places.x]),
        store_unit: bands::unit(conv, &[places.y]),
        unused: 0,
        dropout,
    };
    let entry = match products {
        3 => "dynamic_conv_transposed_3",
        5 => "dynamic_conv_transposed_5",
        _ => "dynamic_conv_transposed_9",
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

/// What the call reads and writes, if this form is for such a convolution, with logits of type `logits`.
pub(crate) fn traffic(
    conv: &Convolution,
    addends: bool,
    logits: DType,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Option<Traffic>> {
    let Some(shape) = shape(conv, listed(sequences.shape()), limits) else {
        return Ok(None);
    };
    let tiles = shape.tiles;
    let (of_window, width) = (WindowParams::new(conv)?, conv.window().width());
    let row = |size: usize| (conv.channels() * size).div_ceil(SECTOR) as u64;
    let heads = bands::column_heads(conv, &tiles, shape.groups);
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let (length, room) = (tile.sequence.length, tile.sequence.length + tile.sequence.padding);
        let computed = tile.outputs(&tiles, length);
        all.written += row(conv.dtype().size()) * tile.outputs(&tiles, room) as u64;
        if computed == 0 {
            continue;
        }
        all.read += row(conv.dtype().size()) * tile.tokens(conv, &of_window, 0, computed + width - 1) as u64;
        if addends {
            // Four lanes read a pair each, one number and then the other.
            all.read += 2 * row(4) * computed as u64;
        }
        let rows = computed.next_multiple_of(SIDE) + width - 1;
        for &head in &heads {
            all.read += logits_read(conv, &tile, &shape, head, rows, logits);
        }
    }
    Ok(Some(all))
}

/// Sectors of the logits of a head that a tile reads: some lanes have a row, two neighbouring taps each.
fn logits_read(
    conv: &Convolution,
    tile: &Tile,
    shape: &Shape,
    head: usize,
    rows: usize,
    dtype: DType,
) -> u64 {
    let (mirrored, width, length) = (window(conv), conv.window().width(), tile.sequence.length);
    let own = mirrored.mirrored();
    let across = across(shape.products);
    let row_of = |row: usize| {
        let position = tile.start as i64 + (row * own.dilation()) as i64 - mirrored.left() as i64;
        let position = usize::try_from(position).ok().filter(|&position| row < rows && position < length)?;
        let taps = match conv.normalize() {
            Normalize::Softmax => 0..width,
            _ => own.taps_in_range(position, length, 0),
        };
        Some(((tile.sequence.first + position) * conv.heads() + head, taps))
    };
    // Rows of a warp begin where tap 0 is for the first output of an eight.
    let before = (8 - (width - 1) % 8) % 8;
    let mut all = 0;
    for first in (0..rows + before).step_by(WARP / across) {
        let of_warp: Vec<_> = (first..first + WARP / across)
            .map(|row| (row, row.checked_sub(before).and_then(row_of)))
            .collect();
        for number in (0..2 * PAIRS).take_while(|number| 2 * across * (number / 2) < width + 7) {
            let mut sectors = BTreeSet::new();
            for lane in 0..across {
                for (row, of) in &of_warp {
                    let Some((place, taps)) = of else { continue };
                    // The output that tap 0 is for is this one of its eight.
                    let of_eight = row % 8;
                    let tap = (2 * (lane + across * (number / 2)) + number % 2).checked_sub(of_eight);
                    if let Some(tap) = tap.filter(|tap| taps.contains(tap)) {
                        sectors.insert((place * width + tap) * dtype.size() / SECTOR);
                    }
                }
            }
            all += sectors.len() as u64;
        }
    }
    all
}
