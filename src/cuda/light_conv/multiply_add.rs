//! The plan of `kernels/light_conv.cu`: for every number of heads, and every type.

use bytemuck::{Pod, Zeroable};

use crate::cuda::light_conv::{Filter, Places};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count, unit};
use crate::cuda::rows::{gap, of_phase};
use crate::cuda::traffic::{SECTOR, Tile, Traffic, filter, list, tiles_of};
use crate::gpu::{STEPS, Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequences};

/// Threads of a block.
const THREADS: usize = 256;
/// The block's memory: bytes of tokens, quads of taps.
const TOKEN_BYTES: usize = 39168;
const TAP_QUADS: usize = 576;
/// Bytes of a row of the block's memory, at most: the widest first, and a sector.
pub(crate) const ROW_BYTES: [usize; 3] = [128, 64, 32];
/// Rows of the halo for each that is written, at most, where there is a choice.
const HALO: f64 = 0.2;
/// Taps that are added at once.
const OCTET: usize = 8;
/// Rounds of a tile, at most. More of them read the halo for more outputs, and leave fewer blocks to go round.
const ROUNDS: usize = 8;

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    y_stride: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    head_channels: u32,
    normalize: u32,
    has_bias: u32,
    wide: u32,
    lanes: u32,
    groups: u32,
    rounds: u32,
    taps: u32,
    load_unit: u32,
    store_unit: u32,
    gap: u32,
    of_phase: u32,
    mirrored: u32,
    end_rows: u32,
    heads: u32,
    dropout: DropoutParams,
}

/// As many heads as the channels of a row can touch.
pub(crate) fn most_heads(conv: &Convolution, lanes: usize) -> usize {
    let (channels, head_channels) = (2 * lanes, conv.head_channels());
    ((channels + head_channels - 2) / head_channels + 1).min(conv.heads())
}

/// How channels and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    lanes: usize,
    groups: usize,
    tiles: Tiles,
    rounds: usize,
    taps: usize,
}

impl Shape {
    /// Rows of the block's memory that are as wide as possible, unless narrower ones, of which there are more, read much
    /// less of the halo.
    fn new(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Self> {
        let mut best = Shape::with_rows(ROW_BYTES[0], conv, listed, limits)?;
        for row_bytes in &ROW_BYTES[1..] {
            if best.halo(conv) <= HALO {
                break;
            }
            let narrower = Shape::with_rows(*row_bytes, conv, listed, limits)?;
            if narrower.halo(conv) < best.halo(conv) {
                best = narrower;
            }
        }
        Ok(best)
    }

    fn with_rows(row_bytes: usize, conv: &Convolution, listed: bool, limits: &Limits) -> Result<Self> {
        let size = conv.dtype().size();
        let words = conv.channels().div_ceil(2);
        let columns = words.div_ceil(row_bytes / (2 * size));
        // Rows are a multiple of 16 bytes.
        let lanes = words.div_ceil(columns).next_multiple_of(16 / (2 * size));
        let columns = words.div_ceil(lanes);
        let groups = THREADS / lanes;
        let row = 2 * lanes * size;
        let most_taps = TAP_QUADS / (most_heads(conv, lanes) | 1) / 2 * OCTET;
        let window = window(conv);
        let all = window.width().next_multiple_of(OCTET);
        let mut rounds = ROUNDS;
        loop {
            let outputs = rounds * groups * STEPS;
            let tiles = Tiles::new(conv.sequences(), window, listed, outputs, columns)?;
            let fit = |taps: &usize| tiles.phases * of_phase(row, &tiles, *taps) <= TOKEN_BYTES;
            let fits = all <= most_taps && fit(&all);
            let busy = tiles.groups() >= 2 * u64::from(limits.multiprocessors);
            if rounds == 1 || fits && busy {
                // What the block's memory does not hold goes chunk by chunk, in one round.
                let mut chunks = (1..=most_taps.min(all) / OCTET).rev().map(|octets| octets * OCTET);
                let taps = chunks.find(fit).unwrap_or(OCTET);
                let rounds = tiles.outputs().div_ceil(groups * STEPS);
                return Ok(Shape { lanes, groups, tiles, rounds, taps });
            }
            rounds -= 1;
        }
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution) -> bool {
        let Shape { lanes, groups, tiles, rounds, taps } = *self;
        let (row, width) = (2 * lanes * conv.dtype().size(), conv.window().width());
        row.is_multiple_of(16)
            && row <= ROW_BYTES[0]
            && lanes * groups <= THREADS
            && lanes * tiles.columns * 2 >= conv.channels()
            && tiles.phases * of_phase(row, &tiles, taps) <= TOKEN_BYTES
            && taps.is_multiple_of(OCTET)
            && taps > 0
            && taps / 4 * (most_heads(conv, lanes) | 1) <= TAP_QUADS
            && tiles.steps.is_multiple_of(STEPS)
            && rounds * groups * STEPS >= tiles.outputs()
            && (rounds == 1 || width <= taps)
    }

    /// Rows of the halo that a tile of many reads, for each that it writes.
    fn halo(&self, conv: &Convolution) -> f64 {
        let (width, steps) = (conv.window().width(), self.tiles.steps);
        if conv.sequences().longest() <= self.tiles.span {
            return 0.0;
        }
        let chunks = width.div_ceil(self.taps);
        (width - 1 + (chunks - 1) * (steps - 1)) as f64 / steps as f64
    }
}

/// What the call reads and writes.
pub(crate) fn traffic(
    conv: &Convolution,
    mirrored: bool,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    let listed = listed(sequences.shape()) || sequences.continues();
    let Shape { lanes, tiles, taps, .. } = Shape::new(conv, listed, limits)?;
    let (near, window) = (window(conv), WindowParams::new(conv)?);
    let (width, normalized) = (window.width as usize, conv.normalize() != Normalize::None);
    let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
    // The heads of each column's channels.
    let columns = (0..tiles.columns).map(|column| {
        let first = column * 2 * lanes;
        let end = (first + 2 * lanes).min(conv.channels());
        first / conv.head_channels()..(end - 1) / conv.head_channels() + 1
    });
    let heads: Vec<usize> = columns.flatten().collect();
    let filters =
        |first, taps| heads.iter().map(|&head| filter(conv, mirrored, head, first, taps)).sum::<u64>();
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Tile { sequence, start, .. } = tile;
        all.written += row * tile.outputs(&tiles, sequence.length + sequence.padding) as u64;
        if width > taps && normalized {
            // The largest logit, and then the total.
            all.parameters += 2 * filters(0, width);
        }
        // The taps that read a token for some output.
        let last = start + tiles.phases - 1 + (tiles.steps - 1) * tiles.dilation;
        let begin = near.taps_in_range(last, sequence.length, conv.past(sequence)).start;
        let end = near.taps_in_range(start, sequence.length, conv.past(sequence)).end;
        if start >= sequence.length || begin >= end {
            continue;
        }
        let some = if width <= taps { 0..width } else { begin / OCTET * OCTET..end };
        for first in some.clone().step_by(taps) {
            let count = taps.min(some.end - first);
            all.read += row * tile.tokens(conv, &window, first, first + tiles.steps + count - 1) as u64;
            all.parameters += filters(first, count);
        }
    }
    Ok(all)
}

/// Tokens of each sequence that are at its ends, at most: not all taps are in range of them.
pub(crate) fn end_rows(conv: &Convolution) -> usize {
    window(conv).reach().min(conv.sequences().longest())
}

pub(crate) fn plan(
    conv: &Convolution,
    filter: Filter,
    places: &Places,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    let shape = Shape::new(conv, listed, limits)?;
    debug_assert!(shape.holds(conv), "{shape:?} for {conv:?}");
    let Shape { lanes, groups, tiles, rounds, taps } = shape;
    let (dtype, channels) = (conv.dtype(), conv.channels());
    let row = 2 * lanes * dtype.size();
    let read = [places.x, places.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    let params = Params {
        x_stride: places.x.stride as u64,
        y_stride: places.y.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", channels)?,
        head_channels: count("x", conv.head_channels())?,
        normalize: (conv.normalize() != Normalize::None).into(),
        has_bias: conv.has_bias().into(),
        wide: (dtype != DType::F32 && conv.parameters() == DType::F32).into(),
        lanes: lanes as u32,
        groups: groups as u32,
        rounds: rounds as u32,
        taps: taps as u32,
        load_unit: unit(dtype, channels, read),
        store_unit: unit(dtype, channels, &[places.y]),
        gap: gap(row) as u32,
        of_phase: of_phase(row, &tiles, taps) as u32,
        mirrored: filter.mirrored.into(),
        end_rows: count("the window", end_rows(conv))?,
        heads: count("x", conv.heads())?,
        dropout: filter.dropout,
    };
    let in_range = conv.normalize() == Normalize::SoftmaxInRange;
    let entry = match (conv.head_channels().is_multiple_of(2), in_range) {
        (true, false) => "light_conv",
        (false, false) => "light_conv_split",
        (true, true) => "light_conv_in_range",
        (false, true) => "light_conv_split_in_range",
    };
    Launch::new((modules::light_conv(dtype), entry), tiles.groups(), THREADS as u32, &params, limits)
}
