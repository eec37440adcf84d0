//! The plan of `kernels/span_key_backward.cu`: a depthwise convolution of numbers of any type, and the gradient of its
//! filters.

use bytemuck::{Pod, Zeroable};

use crate::cuda::limits::Limits;
use crate::cuda::linear::product::{Chunks, type_number};
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, TileParams, WindowParams, count};
use crate::cuda::traffic::{SECTOR, Tile, Traffic, list, sectors, tiles_of};
use crate::gpu::{STEPS, Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Result, Sequences};

/// Threads and warps of a block.
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Channels of a block.
const CHANNELS: usize = 32;
/// Taps that a thread works on at once, and those that a block's memory holds.
const OCTET: usize = 8;
const TAPS: usize = 64;
/// The least tiles of a chunk of what is summed.
const SHORTEST: usize = 8;

/// The structure `TokenParams` of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct TokenParams {
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    x_type: u32,
    x_stride: u64,
}

impl TokenParams {
    fn new(conv: &Convolution, tiles: &Tiles, x: DType, place: Place) -> Result<Self> {
        Ok(TokenParams {
            tiles: TileParams::new(tiles)?,
            window: WindowParams::new(conv)?,
            channels: count("x", conv.channels())?,
            x_type: type_number(x),
            x_stride: place.stride as u64,
        })
    }
}

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    tokens: TokenParams,
    y_stride: u64,
    weight_type: u32,
    y_type: u32,
    mirrored: u32,
    unused: u32,
}

/// The structure `FilterParams` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct FilterParams {
    tokens: TokenParams,
    dd_stride: u64,
    sum_chunk: u64,
    all_tiles: u32,
    chunk: u32,
    columns: u32,
    parts: u32,
    octets: u32,
    sum_type: u32,
}

fn tiles(conv: &Convolution, listed: bool, columns: usize) -> Result<Tiles> {
    Tiles::new(conv.sequences(), window(conv), listed, WARPS * STEPS, columns)
}

/// Sectors of a token's channels, as warps read them.
fn row(conv: &Convolution, dtype: DType) -> u64 {
    (conv.channels() * dtype.size()).div_ceil(SECTOR) as u64
}

/// The first positions of a tile's groups of outputs: eight one dilation apart, of which there is one at least.
fn groups(tiles: &Tiles, tile: Tile) -> impl Iterator<Item = usize> + '_ {
    let of_phase = tiles.steps / STEPS;
    let groups = (0..tile.phases * of_phase)
        .map(move |group| tile.start + group / of_phase + group % of_phase * STEPS * tiles.dilation);
    groups.filter(move |&position| position < tile.sequence.length)
}

/// Rows of a group, one dilation apart from `position` on, that are tokens.
fn tokens(tiles: &Tiles, tile: &Tile, position: i64, rows: usize) -> u64 {
    let at = |n: usize| position + (n * tiles.dilation) as i64;
    (0..rows).filter(|&n| (0..tile.sequence.length as i64).contains(&at(n))).count() as u64
}

/// A depthwise convolution of a tensor that may be of another type than that of `conv`, whose window it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depthwise {
    pub(crate) conv: Convolution,
    /// Types of what is convolved, and of what it becomes.
    pub(crate) x: DType,
    pub(crate) y: DType,
    /// Whether taps are counted from the last.
    pub(crate) mirrored: bool,
}

impl Depthwise {
    fn tiles(&self, listed: bool) -> Result<Tiles> {
        tiles(&self.conv, listed, self.conv.channels().div_ceil(CHANNELS))
    }

    /// The one launch, or none where there is no token: it takes x, the filters, the list of sequences and y.
    pub(crate) fn plan(&self, [x, y]: [Place; 2], listed: bool, limits: &Limits) -> Result<Option<Launch>> {
        if self.conv.sequences().tokens() == 0 {
            return Ok(None);
        }
        let tiles = self.tiles(listed)?;
        let params = Params {
            tokens: TokenParams::new(&self.conv, &tiles, self.x, x)?,
            y_stride: y.stride as u64,
            weight_type: type_number(self.conv.parameters()),
            y_type: type_number(self.y),
            mirrored: self.mirrored.into(),
            unused: 0,
        };
        Launch::new((modules::SPAN_KEY_BACKWARD, "depthwise"), tiles.groups(), THREADS, &params, limits)
            .map(Some)
    }

    pub(crate) fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        let conv = &self.conv;
        if conv.sequences().tokens() == 0 {
            return Ok(Traffic::default());
        }
        let (near, width) = (window(conv), conv.window().width());
        let tiles = self.tiles(listed(sequences.shape()))?;
        let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
        for tile in tiles_of(&tiles, sequences) {
            let length = tile.sequence.length;
            let room = length + tile.sequence.padding;
            all.written += row(conv, self.y) * tile.outputs(&tiles, room) as u64;
            let last = tile.start + tiles.phases - 1 + (tiles.steps - 1) * tiles.dilation;
            let (begin, end) =
                (near.taps_in_range(last, length, 0).start, near.taps_in_range(tile.start, length, 0).end);
            if tile.start >= length || begin >= end {
                continue;
            }
            let taps = if width <= TAPS { 0..width } else { begin / OCTET * OCTET..end };
            for first in taps.clone().step_by(TAPS) {
                all.parameters += self.filters(first, TAPS.min(taps.end - first));
            }
            for position in groups(&tiles, tile) {
                let first = position as i64 + (taps.start * tiles.dilation) as i64 - near.left() as i64;
                all.read += row(conv, self.x) * tokens(&tiles, &tile, first, taps.len() + STEPS - 1);
            }
        }
        Ok(all)
    }

    /// Sectors of `taps` taps from the `first` on, of all channels, as warps read them.
    fn filters(&self, first: usize, taps: usize) -> u64 {
        let (width, size) = (self.conv.window().width(), self.conv.parameters().size());
        let of_channel = |channel: usize| {
            let runs = (0..taps).step_by(32).map(|run| (run, 32.min(taps - run)));
            let begin = |run: usize, count: usize| match self.mirrored {
                true => width - first - run - count,
                false => first + run,
            };
            runs.map(|(run, count)| sectors((channel * width + begin(run, count)) * size, count * size))
                .sum::<u64>()
        };
        (0..self.conv.channels()).map(of_channel).sum()
    }
}

/// The gradient of the filters of a depthwise convolution, from that of its output in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filters {
    pub(crate) conv: Convolution,
    /// Of the gradients.
    pub(crate) sum: DType,
}

/// How the taps and tokens are divided.
struct FilterShape {
    /// Every block walks over all tiles of its chunk: `columns` of them are blocks.
    tiles: Tiles,
    all_tiles: usize,
    columns: usize,
    parts: usize,
    octets: usize,
    chunks: Chunks,
}

impl Filters {
    fn shape(&self, listed: bool, limits: &Limits) -> Result<FilterShape> {
        let octets_of_all = self.conv.window().width().div_ceil(OCTET);
        let octets = octets_of_all.next_power_of_two().min(WARPS);
        let (columns, parts) = (self.conv.channels().div_ceil(CHANNELS), octets_of_all.div_ceil(octets));
        let tiles = tiles(&self.conv, listed, columns.saturating_mul(parts))?;
        let all_tiles = tiles.groups / tiles.columns;
        let chunks = Chunks::new(all_tiles, tiles.columns as u64, [SHORTEST, 1], limits);
        Ok(FilterShape { tiles, all_tiles, columns, parts, octets, chunks })
    }

    fn sums(&self) -> usize {
        self.conv.channels() * self.conv.window().width()
    }

    /// Numbers of f32 that chunks leave to the launch that adds them up: as many whether sequences are listed or not.
    pub(crate) fn scratch_len(&self, limits: &Limits) -> Result<u64> {
        Ok(self.shape(false, limits)?.chunks.scratch_len(self.sums()))
    }

    /// The launches, in order. The first takes x, the gradient of the convolution's output, the list of sequences and the
    /// gradient of the filters, or scratch in its place where there is a second, which takes scratch and the gradient.
    pub(crate) fn plan(&self, [x, dd]: [Place; 2], listed: bool, limits: &Limits) -> Result<Vec<Launch>> {
        let FilterShape { tiles, all_tiles, columns, parts, octets, chunks } = self.shape(listed, limits)?;
        let many = chunks.count > 1;
        let params = FilterParams {
            tokens: TokenParams::new(&self.conv, &tiles, self.conv.dtype(), x)?,
            dd_stride: dd.stride as u64,
            sum_chunk: if many { Chunks::stride(self.sums()) } else { 0 },
            all_tiles: count("the tokens", all_tiles)?,
            chunk: count("the tokens", chunks.length)?,
            columns: count("x", columns)?,
            parts: count("the window", parts)?,
            octets: octets as u32,
            sum_type: type_number(if many { DType::F32 } else { self.sum }),
        };
        let blocks = (tiles.columns as u64).saturating_mul(chunks.count as u64);
        let first = Launch::new((modules::SPAN_KEY_BACKWARD, "filters"), blocks, THREADS, &params, limits)?;
        Ok([first].into_iter().chain(chunks.add_up(self.sums(), self.sum, limits)?).collect())
    }

    pub(crate) fn traffic(&self, sequences: &Sequences, limits: &Limits) -> Result<Traffic> {
        let conv = &self.conv;
        let (near, width) = (window(conv), conv.window().width());
        let FilterShape { tiles, chunks, .. } = self.shape(listed(sequences.shape()), limits)?;
        let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
        for tile in tiles_of(&tiles, sequences) {
            for position in groups(&tiles, tile) {
                for tap in (0..width).step_by(OCTET) {
                    let first = position as i64 + (tap * tiles.dilation) as i64 - near.left() as i64;
                    let under = STEPS - 1 + OCTET.min(width - tap);
                    all.read += row(conv, DType::F32) * tokens(&tiles, &tile, position as i64, STEPS);
                    all.read += row(conv, conv.dtype()) * tokens(&tiles, &tile, first, under);
                }
            }
        }
        Ok(all + self.stores(&chunks))
    }

    /// Sectors that sums go to and come from: a lane stores a channel's, one tap at a time.
    fn stores(&self, chunks: &Chunks) -> Traffic {
        let (width, channels) = (self.conv.window().width(), self.conv.channels());
        let one = |dtype: DType, tap: usize, first: usize| {
            let of = |channel: usize| (channel * width + tap) * dtype.size() / SECTOR;
            let sectors: std::collections::BTreeSet<_> =
                (first..channels.min(first + CHANNELS)).map(of).collect();
            sectors.len() as u64
        };
        let all = |dtype: DType| -> u64 {
            (0..channels)
                .step_by(CHANNELS)
                .map(|first| (0..width).map(|tap| one(dtype, tap, first)).sum::<u64>())
                .sum()
        };
        if chunks.count == 1 {
            return Traffic { written: all(self.sum), ..Traffic::default() };
        }
        let mut added = chunks.traffic(self.sums(), self.sum);
        added.written += chunks.count as u64 * all(DType::F32);
        added
    }
}
