//! The plan of `kernels/dynamic_conv.cu`: logits that are given, for every number of heads, and every type.

mod traffic;

pub(crate) use traffic::traffic;

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::plan::Logits;
use crate::cuda::light_conv::multiply_add::{ROW_BYTES, most_heads};
use crate::cuda::light_conv::{Filter, Places};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count, unit};
use crate::cuda::rows::{gap, of_phase};
use crate::gpu::{STEPS, Tiles, window};
use crate::problem::Convolution;
use crate::{DType, Error, Normalize, Result};

/// Threads of a block, and of a warp.
const THREADS: usize = 256;
const WARP: usize = 32;
/// Threads that convolve, as many as keep a multiprocessor busy beside those of other blocks.
const BUSY: usize = 128;
/// Bytes of the block's memory: what several blocks of a multiprocessor have, and what one has.
const MEMORY: [usize; 2] = [48 << 10, 96 << 10];
/// Taps of a chunk, where a block's memory does not hold all.
const CHUNKS: [usize; 5] = [128, 64, 32, 16, 8];

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    y_stride: u64,
    logit_stride: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    head_channels: u32,
    normalize: u32,
    has_bias: u32,
    wide: u32,
    wide_logits: u32,
    lanes: u32,
    groups: u32,
    taps: u32,
    across: u32,
    heads: u32,
    tap_pitch: u32,
    tap_gap: u32,
    taps_at: u32,
    softmax_at: u32,
    load_unit: u32,
    store_unit: u32,
    gap: u32,
    of_phase: u32,
    mirrored: u32,
    dropout: DropoutParams,
}

/// How channels and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    lanes: usize,
    groups: usize,
    tiles: Tiles,
    /// Taps of a chunk.
    taps: usize,
    heads: usize,
}

impl Shape {
    /// The shape that reads the least, and has the most threads at work.
    fn new(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Self> {
        let mut best: Option<(f64, Shape)> = None;
        // Beside what the kernel declares.
        let there = |memory: &usize| memory + 256 <= limits.shared_memory as usize;
        for memory in MEMORY.into_iter().filter(there) {
            for row_bytes in ROW_BYTES {
                let width = window(conv).width();
                for taps in [width].into_iter().chain(CHUNKS.into_iter().filter(|&taps| taps < width)) {
                    if let Some(shape) = Shape::with_rows(row_bytes, taps, memory, conv, listed, limits)? {
                        let cost = shape.cost(conv, limits);
                        if best.is_none_or(|(least, _)| cost < least) {
                            best = Some((cost, shape));
                        }
                    }
                }
            }
            // More memory for each is fewer blocks: that is for windows that want it.
            if best.is_some_and(|(_, shape)| shape.taps == window(conv).width() && shape.halo(conv) <= 1.0) {
                break;
            }
        }
        // The smallest, eight outputs of a row of 32 bytes and eight taps, fits into either, and these into the memory of every
        // GPU there is; what is emulated may have less.
        let needed = MEMORY[0] as u64 + 256;
        best.map(|(_, shape)| shape).ok_or(Error::Limit {
            what: "bytes of shared memory of",
            of: "dynamic_conv",
            needed,
            limit: limits.shared_memory.into(),
        })
    }

    /// Of rows of so many bytes: with as many outputs as the memory holds.
    fn with_rows(
        row_bytes: usize,
        taps: usize,
        memory: usize,
        conv: &Convolution,
        listed: bool,
        limits: &Limits,
    ) -> Result<Option<Self>> {
        let size = conv.dtype().size();
        let words = conv.channels().div_ceil(2);
        let columns = words.div_ceil(row_bytes / (2 * size));
        // Rows are a multiple of 16 bytes.
        let lanes = words.div_ceil(columns).next_multiple_of(16 / (2 * size));
        let columns = words.div_ceil(lanes);
        let heads = most_heads(conv, lanes);
        let mut groups = THREADS / lanes;
        loop {
            let tiles = Tiles::new(conv.sequences(), window(conv), listed, groups * STEPS, columns)?;
            let shape = Shape { lanes, groups: tiles.outputs() / STEPS, tiles, taps, heads };
            let enough = tiles.groups() >= 2 * u64::from(limits.multiprocessors);
            if shape.memory(conv) <= memory && (enough || groups * lanes <= BUSY) {
                return Ok(Some(shape));
            }
            if groups == 1 {
                return Ok((shape.memory(conv) <= memory).then_some(shape));
            }
            groups = (groups * 3 / 4).max(1);
        }
    }

    /// Bytes of a row of tokens.
    fn row(&self, conv: &Convolution) -> usize {
        2 * self.lanes * conv.dtype().size()
    }

    /// Quads of a row of taps: an odd number.
    fn tap_pitch(&self) -> usize {
        self.taps.div_ceil(4) | 1
    }

    /// Whether rows of taps are free after those of eight outputs: where fewer lanes than read together are of one group.
    fn tap_gap(&self) -> usize {
        usize::from(self.lanes < 8)
    }

    /// Where taps begin in the block's memory, where what they are divided by does, and its end.
    fn places(&self, conv: &Convolution) -> [usize; 3] {
        let taps_at = self.tiles.phases * of_phase(self.row(conv), &self.tiles, self.taps);
        let outputs = self.tiles.outputs();
        let rows = (outputs + outputs / STEPS * self.tap_gap()) * self.heads;
        let softmax_at = taps_at + rows * self.tap_pitch() * 16;
        let chunked = self.taps < window(conv).width() && conv.normalize() != Normalize::None;
        [taps_at, softmax_at, softmax_at + if chunked { 8 * rows } else { 0 }]
    }

    fn memory(&self, conv: &Convolution) -> usize {
        self.places(conv)[2]
    }

    /// Lanes that bring in a row of taps.
    fn across(&self) -> usize {
        self.taps.next_power_of_two().min(WARP)
    }

    /// Rows of the halo that a tile of many reads, for each that it writes.
    fn halo(&self, conv: &Convolution) -> f64 {
        let (width, steps) = (window(conv).width(), self.tiles.steps);
        if conv.sequences().longest() <= self.tiles.span {
            return 0.0;
        }
        let chunks = width.div_ceil(self.taps);
        (width - 1 + (chunks - 1) * (steps - 1)) as f64 / steps as f64
    }

    /// What is moved for each channel of a token, times what the device cannot use of itself meanwhile.
    fn cost(&self, conv: &Convolution, limits: &Limits) -> f64 {
        let width = window(conv).width();
        let chunked = self.taps < width && conv.normalize() != Normalize::None;
        // The heads of a block, over its channels.
        let logits = (self.heads * width) as f64 / (2 * self.lanes) as f64 * if chunked { 3.0 } else { 1.0 };
        let idle = BUSY as f64 / (self.lanes * self.groups).min(BUSY) as f64;
        let few = (f64::from(limits.multiprocessors) / self.tiles.groups().max(1) as f64).max(1.0);
        (2.0 + self.halo(conv) + logits) * idle * few
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution, limits: &Limits) -> bool {
        let Shape { lanes, groups, tiles, taps, heads } = *self;
        let (row, width) = (self.row(conv), window(conv).width());
        row.is_multiple_of(16)
            && row <= ROW_BYTES[0]
            && lanes * groups <= THREADS
            && lanes * tiles.columns * 2 >= conv.channels()
            && heads >= most_heads(conv, lanes)
            && (taps == width || taps.is_multiple_of(8))
            && tiles.steps.is_multiple_of(STEPS)
            && groups * STEPS >= tiles.outputs()
            && self.tap_pitch() % 2 == 1
            && self.memory(conv) + 256 <= limits.shared_memory as usize
    }
}

pub(crate) fn plan(
    conv: &Convolution,
    filter: Filter,
    places: &Places,
    logits: Logits,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    let shape = Shape::new(conv, listed, limits)?;
    debug_assert!(shape.holds(conv, limits), "{shape:?} for {conv:?}");
    let Shape { lanes, groups, tiles, taps, heads } = shape;
    let (dtype, channels, row) = (conv.dtype(), conv.channels(), shape.row(conv));
    let [taps_at, softmax_at, end] = shape.places(conv);
    let read = [places.x, places.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    let wide = |of: DType| u32::from(dtype != DType::F32 && of == DType::F32);
    let params = Params {
        x_stride: places.x.stride as u64,
        y_stride: places.y.stride as u64,
        logit_stride: logits.place.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", channels)?,
        head_channels: count("x", conv.head_channels())?,
        normalize: match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        },
        has_bias: if filter.addends { 2 } else { conv.has_bias().into() },
        wide: wide(conv.parameters()),
        wide_logits: wide(logits.dtype),
        lanes: lanes as u32,
        groups: groups as u32,
        taps: count("the window", taps)?,
        across: shape.across() as u32,
        heads: heads as u32,
        tap_pitch: shape.tap_pitch() as u32,
        tap_gap: shape.tap_gap() as u32,
        taps_at: taps_at as u32,
        softmax_at: softmax_at as u32,
        load_unit: unit(dtype, channels, read),
        store_unit: unit(dtype, channels, &[places.y]),
        gap: gap(row) as u32,
        of_phase: of_phase(row, &tiles, taps) as u32,
        mirrored: filter.mirrored.into(),
        dropout: filter.dropout,
    };
    let entry = if conv.head_channels().is_multiple_of(2) { "dynamic_conv" } else { "dynamic_conv_split" };
    Launch::new((modules::dynamic_conv(dtype), entry), tiles.groups(), THREADS as u32, &params, limits)?
        .with_shared(end as u64, limits)
}
