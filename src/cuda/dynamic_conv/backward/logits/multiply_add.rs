//! The plan of `kernels/dynamic_conv_backward.cu`: the gradient of logits for every number of heads, window and type.

use std::collections::BTreeSet;

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::backward::logits::LogitPlaces;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count, unit};
use crate::cuda::traffic::{SECTOR, Tile, Traffic, list, sectors, tiles_of};
use crate::gpu::{STEPS, Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Error, Normalize, Result, Sequences};

/// Threads of a block, and of a warp.
const THREADS: usize = 256;
const WARP: usize = 32;
/// Threads at work that keep a multiprocessor busy, beside those of other blocks.
const BUSY: usize = 128;
/// Taps of a thread.
const OCTET: usize = 8;
/// Bytes of the block's memory: what several blocks of a multiprocessor have, and what one has. Beside what the kernel
/// declares.
const MEMORY: [usize; 2] = [48 << 10, 96 << 10];
const DECLARED: usize = 256;
/// Bytes of a row of tokens.
const ROW_BYTES: usize = 256;
/// Tokens of a tile.
const OUTPUTS: [usize; 8] = [128, 96, 64, 48, 32, 24, 16, 8];
/// Taps of a chunk, where a block's memory does not hold all.
const CHUNKS: [usize; 5] = [128, 64, 32, 16, 8];
/// Threads that divide the channels of an item among themselves, at most.
const SPLIT: usize = 8;

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
    heads: u32,
    head_channels: u32,
    normalize: u32,
    wide_logits: u32,
    wide_gradients: u32,
    block_heads: u32,
    slab: u32,
    pitch: u32,
    taps: u32,
    octets: u32,
    split: u32,
    across: u32,
    tap_pitch: u32,
    dy_at: u32,
    sums_at: u32,
    means_at: u32,
    load_unit: u32,
    unused: u32,
    dropout: DropoutParams,
}

/// How channels, taps and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tiles: Tiles,
    /// Heads of a block, and channels of a slab.
    heads: usize,
    slab: usize,
    /// Taps of a chunk.
    taps: usize,
    split: usize,
}

impl Shape {
    /// The shape that reads the least, and has the most threads at work.
    fn new(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Self> {
        let (width, size, channels) = (window(conv).width(), conv.dtype().size(), conv.head_channels());
        let most = (ROW_BYTES / size / channels).clamp(1, conv.heads());
        let heads = || std::iter::successors(Some(most), |&heads| (heads > 1).then(|| heads.div_ceil(2)));
        for memory in MEMORY {
            if memory + DECLARED > limits.shared_memory as usize {
                break;
            }
            let mut best: Option<(f64, Shape)> = None;
            for heads in heads() {
                let chunks = CHUNKS.into_iter().filter(|&taps| taps < width);
                for taps in [width].into_iter().chain(chunks) {
                    for outputs in OUTPUTS {
                        let shape = Shape::of(conv, listed, [heads, taps, outputs])?;
                        let Some(shape) = shape.filter(|shape| shape.memory(conv)[3] <= memory) else {
                            continue;
                        };
                        let cost = shape.cost(conv, limits);
                        if best.is_none_or(|(least, _)| cost < least) {
                            best = Some((cost, shape));
                        }
                    }
                }
            }
            if let Some((_, shape)) = best {
                return Ok(shape);
            }
        }
        // Eight tokens and eight taps of a head fit into the memory of every GPU there is; what is emulated may have less.
        Err(Error::Limit {
            what: "bytes of shared memory of",
            of: "dynamic_conv_logits",
            needed: (MEMORY[0] + DECLARED) as u64,
            limit: limits.shared_memory.into(),
        })
    }

    /// None where there are more items than threads.
    fn of(conv: &Convolution, listed: bool, [heads, taps, outputs]: [usize; 3]) -> Result<Option<Self>> {
        let channels = conv.head_channels();
        let most = ROW_BYTES / conv.dtype().size();
        // An even part of a wide head.
        let slab = match heads * channels <= most {
            true => heads * channels,
            false => channels.div_ceil(channels.div_ceil(most)).next_multiple_of(OCTET),
        };
        let columns = conv.heads().div_ceil(heads);
        let tiles = Tiles::new(conv.sequences(), window(conv), listed, outputs, columns)?;
        let items = tiles.outputs() / STEPS * taps.div_ceil(OCTET) * heads;
        if items > THREADS {
            return Ok(None);
        }
        let mut split = 1;
        while split < SPLIT && 2 * split * items <= THREADS && 2 * split <= slab.min(channels) / 2 {
            split *= 2;
        }
        Ok(Some(Shape { tiles, heads, slab, taps, split }))
    }

    /// Bytes of a row of tokens.
    fn pitch(&self, conv: &Convolution) -> usize {
        (self.slab * conv.dtype().size()).next_multiple_of(16)
    }

    /// Quads of a row of sums: an odd number.
    fn tap_pitch(&self) -> usize {
        self.taps.div_ceil(4) | 1
    }

    /// Where dy begins in the block's memory, where sums do, where what rows are normalised by does, and its end.
    fn memory(&self, conv: &Convolution) -> [usize; 4] {
        let Tiles { phases, steps, .. } = self.tiles;
        let dy_at = phases * (steps + self.taps - 1) * self.pitch(conv);
        let sums_at = dy_at + phases * steps * self.pitch(conv);
        let rows = phases * steps * self.heads;
        let means_at = sums_at + rows * self.tap_pitch() * 16;
        [dy_at, sums_at, means_at, means_at + if self.walks(conv) == 2 { 12 * rows } else { 0 }]
    }

    /// How often it goes over the chunks of taps.
    fn walks(&self, conv: &Convolution) -> usize {
        let chunked = self.taps < window(conv).width() && conv.normalize() != Normalize::None;
        if chunked { 2 } else { 1 }
    }

    /// Lanes that have a row of taps.
    fn across(&self) -> usize {
        self.taps.next_power_of_two().min(WARP)
    }

    /// What is moved for each channel of a token, times what the device cannot use of itself meanwhile.
    fn cost(&self, conv: &Convolution, limits: &Limits) -> f64 {
        let (width, steps) = (window(conv).width(), self.tiles.steps);
        let chunks = width.div_ceil(self.taps) * self.walks(conv);
        let halo = (self.taps - 1) as f64 / steps as f64;
        // Units of less than a sector bring whole ones.
        let narrow = (SECTOR as f64 / (self.slab * conv.dtype().size()) as f64).max(1.0);
        let items = self.tiles.outputs() / STEPS * self.taps.div_ceil(OCTET) * self.heads;
        let idle = BUSY as f64 / (items * self.split).min(BUSY) as f64;
        let few = (f64::from(limits.multiprocessors) / self.tiles.groups().max(1) as f64).max(1.0);
        (chunks as f64 * (2.0 + halo) * narrow + 1.0) * idle * few
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution, limits: &Limits) -> bool {
        let Shape { tiles, heads, slab, taps, split } = *self;
        let items = tiles.outputs() / STEPS * taps.div_ceil(OCTET) * heads;
        tiles.columns * heads >= conv.heads()
            && items * split <= THREADS
            && split.is_power_of_two()
            && split <= WARP
            && (slab == heads * conv.head_channels() || heads == 1 && slab.is_multiple_of(2))
            && (taps == window(conv).width() || taps.is_multiple_of(OCTET))
            && tiles.steps.is_multiple_of(STEPS)
            && self.tap_pitch() % 2 == 1
            && self.memory(conv)[3] + DECLARED <= limits.shared_memory as usize
    }
}

/// The launch.
pub(super) fn plan(
    conv: &Convolution,
    dropout: DropoutParams,
    places: &LogitPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    let shape = Shape::new(conv, listed, limits)?;
    debug_assert!(shape.holds(conv, limits), "{shape:?} for {conv:?}");
    let Shape { tiles, heads, slab, taps, split } = shape;
    let [dy_at, sums_at, means_at, end] = shape.memory(conv);
    let dtype = conv.dtype();
    let wide = |of: DType| u32::from(dtype != DType::F32 && of == DType::F32);
    // Slabs begin where heads do, or at every eighth of their channels.
    let whole = if slab < conv.head_channels() { OCTET } else { heads * conv.head_channels() };
    let whole = [whole, conv.head_channels()].into_iter().fold(0, greatest_divisor);
    let params = Params {
        x_stride: places.x.stride as u64,
        dy_stride: places.dy.stride as u64,
        logit_stride: places.logits.place.stride as u64,
        gradient_stride: places.gradients.place.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        heads: count("x", conv.heads())?,
        head_channels: count("x", conv.head_channels())?,
        normalize: match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        },
        wide_logits: wide(places.logits.dtype),
        wide_gradients: wide(places.gradients.dtype),
        block_heads: heads as u32,
        slab: slab as u32,
        pitch: shape.pitch(conv) as u32,
        taps: count("the window", taps)?,
        octets: taps.div_ceil(OCTET) as u32,
        split: split as u32,
        across: shape.across() as u32,
        tap_pitch: shape.tap_pitch() as u32,
        dy_at: dy_at as u32,
        sums_at: sums_at as u32,
        means_at: means_at as u32,
        load_unit: unit(dtype, whole, &[places.x, places.dy]),
        unused: 0,
        dropout,
    };
    let entry = match conv.head_channels().is_multiple_of(2) {
        true => "dynamic_conv_logits",
        false => "dynamic_conv_logits_split",
    };
    let module = modules::dynamic_conv_backward(dtype);
    Launch::new((module, entry), tiles.groups(), THREADS as u32, &params, limits)?
        .with_shared(end as u64, limits)
}

fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// What it reads and writes, with logits and gradients of these types that lie without gaps.
pub(super) fn traffic(
    conv: &Convolution,
    [logits, gradients]: [DType; 2],
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    let shape = Shape::new(conv, listed(sequences.shape()), limits)?;
    let Shape { tiles, heads, slab, taps, .. } = shape;
    let (near, of_window, width) = (window(conv), WindowParams::new(conv)?, conv.window().width());
    let (across, walks) = (shape.across(), shape.walks(conv));
    let normal = conv.normalize() != Normalize::None;
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Tile { sequence, start, phases } = tile;
        let (length, room) = (sequence.length, sequence.length + sequence.padding);
        for column in 0..tiles.columns {
            let of_block = column * heads..((column + 1) * heads).min(conv.heads());
            let outputs = (0..tiles.outputs()).map(|output| {
                let position = start + output / tiles.steps + output % tiles.steps * tiles.dilation;
                if output / tiles.steps >= phases || position >= room {
                    return None;
                }
                let taps = match conv.normalize() {
                    _ if position >= length => 0..0,
                    Normalize::Softmax => 0..width,
                    _ => near.taps_in_range(position, length, 0),
                };
                Some((sequence.first + position, taps))
            });
            let rows: Vec<Row> =
                outputs.flat_map(|output| of_block.clone().map(move |head| (head, output.clone()))).collect();
            // What some lanes for each row take: from the first that `of` says to its end, step by step.
            let walk = |of: &dyn Fn(&std::ops::Range<usize>) -> std::ops::Range<usize>, size: usize| {
                let mut all = 0;
                for rows in rows.chunks(WARP / across) {
                    for step in (0..width).step_by(across) {
                        let mut sectors = BTreeSet::new();
                        for (head, output) in rows {
                            let Some((token, taps)) = output else { continue };
                            let run = of(taps);
                            let row = (token * conv.heads() + head) * width;
                            let run = run.start + step..(run.start + step + across).min(run.end);
                            sectors.extend(run.map(|tap| (row + tap) * size / SECTOR));
                        }
                        all += sectors.len() as u64;
                    }
                }
                all
            };
            for pass in 0..walks {
                for first in (0..width).step_by(taps) {
                    let end = (first + taps).min(width);
                    let within = |taps: &std::ops::Range<usize>| {
                        taps.start.max(first)..taps.end.min(end).max(taps.start.max(first))
                    };
                    if normal && pass == 0 {
                        if first == 0 {
                            all.read += 2 * walk(&|taps| taps.clone(), logits.size());
                        }
                        all.read += walk(&within, logits.size());
                    }
                    if pass + 1 == walks {
                        if normal {
                            all.read += finish(&rows, conv, across, first..end, &within, logits.size());
                        }
                        all.written += walk(&|_| first..end, gradients.size());
                    }
                    if start >= length {
                        continue;
                    }
                    // Tokens, slab by slab.
                    let x = tile.tokens(conv, &of_window, first, tiles.steps + end - 1) as u64;
                    let dy = tile.outputs(&tiles, length) as u64;
                    let channels = of_block.start * conv.head_channels()..of_block.end * conv.head_channels();
                    for channel in channels.clone().step_by(slab) {
                        let count = slab.min(channels.end - channel);
                        let size = conv.dtype().size();
                        all.read += (x + dy) * sectors(channel * size, count * size);
                    }
                }
            }
        }
    }
    Ok(all)
}

/// A head, and of a token that is there its row and the taps that have a gradient.
type Row = (usize, Option<(usize, std::ops::Range<usize>)>);

/// Sectors of logits that are read as gradients are written: lanes go over the whole chunk, and read where there is one.
fn finish(
    rows: &[Row],
    conv: &Convolution,
    across: usize,
    chunk: std::ops::Range<usize>,
    within: &dyn Fn(&std::ops::Range<usize>) -> std::ops::Range<usize>,
    size: usize,
) -> u64 {
    let width = conv.window().width();
    let mut all = 0;
    for rows in rows.chunks(WARP / across) {
        for step in chunk.clone().step_by(across) {
            let mut sectors = BTreeSet::new();
            for (head, output) in rows {
                let Some((token, taps)) = output else { continue };
                let some = within(taps);
                let row = (token * conv.heads() + head) * width;
                let run = step.max(some.start)..(step + across).min(some.end);
                sectors.extend(run.map(|tap| (row + tap) * size / SECTOR));
            }
            all += sectors.len() as u64;
        }
    }
    all
}
