//! How the sums of a light convolution's weight gradient are divided among blocks and threads.

use crate::cuda::light_conv::backward::plan::{
    BAND_MEMORY, BAND_OUTPUTS, BLOCKS, GROUPS, MEMORY, OCTET, OUTPUTS, SIDE, THREADS, WARP,
};
use crate::cuda::light_conv::multiply_add::{ROW_BYTES, most_heads};
use crate::cuda::limits::Limits;
use crate::cuda::rows::of_phase;
use crate::gpu::{STEPS, Tiles, window};
use crate::problem::{Convolution, LightConvBackwardProblem};
use crate::{DType, Result};

/// A kernel that makes the sums by products of matrices: so many of 16 tokens are in reach of 16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    pub(super) entry: &'static str,
    products: usize,
}

const BANDS: [Band; 4] = [
    Band { entry: "light_conv_sums_2", products: 2 },
    Band { entry: "light_conv_sums_3", products: 3 },
    Band { entry: "light_conv_sums_5", products: 5 },
    Band { entry: "light_conv_sums_9", products: 9 },
];

/// The kernel, where products of matrices are for such a convolution.
fn band(problem: &LightConvBackwardProblem) -> Option<Band> {
    let conv = problem.forward().convolution();
    let width = conv.window().width();
    let fits =
        problem.wanted().weight && conv.dtype() != DType::F32 && conv.head_channels().is_multiple_of(SIDE);
    BANDS.into_iter().find(|band| fits && width <= (band.products - 1) * SIDE + 1)
}

/// How channels, taps and time are divided for the sums.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda::light_conv::backward) struct Shape {
    pub(in crate::cuda::light_conv::backward) lanes: usize,
    pub(super) octets: usize,
    pub(super) groups: usize,
    pub(in crate::cuda::light_conv::backward) chunks: usize,
    pub(in crate::cuda::light_conv::backward) tiles: Tiles,
    /// Blocks that divide the tiles of a column among themselves.
    pub(in crate::cuda::light_conv::backward) blocks: u64,
    /// Of what is wanted: without weights, x is not read.
    pub(super) weight: bool,
    /// Where they are made by products of matrices.
    pub(super) band: Option<Band>,
}

impl Shape {
    /// Rows of the block's memory that are as wide as possible, unless narrower ones, whose blocks have more taps, read less.
    pub(in crate::cuda::light_conv::backward) fn new(
        problem: &LightConvBackwardProblem,
        listed: bool,
        limits: &Limits,
    ) -> Result<Self> {
        if let Some(band) = band(problem) {
            let shape = Shape::with_band(band, problem, listed, limits)?;
            // Or there is too little shared memory for it.
            if let Some(shape) = shape {
                return Ok(shape);
            }
        }
        let mut best = Shape::with_rows(ROW_BYTES[0], problem, listed, limits)?;
        let conv = problem.forward().convolution();
        for row_bytes in &ROW_BYTES[1..] {
            if best.chunks == 1 {
                break;
            }
            let narrower = Shape::with_rows(*row_bytes, problem, listed, limits)?;
            if narrower.reads(conv) < best.reads(conv) {
                best = narrower;
            }
        }
        Ok(best)
    }

    /// By products of matrices: columns of up to four groups of 16 channels, and a tile's time divided among as many warps
    /// as are left.
    fn with_band(
        band: Band,
        problem: &LightConvBackwardProblem,
        listed: bool,
        limits: &Limits,
    ) -> Result<Option<Self>> {
        let conv = problem.forward().convolution();
        let all = conv.channels() / SIDE;
        let across = all.div_ceil(all.div_ceil(GROUPS));
        let columns = all.div_ceil(across);
        let (lanes, groups) = (across * SIDE / 2, THREADS / WARP / across);
        let octets = conv.window().width().div_ceil(OCTET);
        let window = window(conv);
        let longest = conv.sequences().longest().div_ceil(window.dilation());
        let longest = longest.next_multiple_of(SIDE * groups).max(SIDE * groups);
        let most = if band.products > 5 { BAND_MEMORY } else { MEMORY };
        for outputs in BAND_OUTPUTS {
            // Whole matrices for every part.
            let steps = (outputs / (SIDE * groups) * SIDE * groups).min(longest);
            let tiles = Tiles::of(conv.sequences(), window, listed, [1, steps], columns)?;
            let blocks = (BLOCKS * u64::from(limits.multiprocessors)).div_ceil(columns as u64);
            let blocks = blocks.min(tiles.groups() / columns as u64);
            let shape =
                Shape { lanes, octets, groups, chunks: 1, tiles, blocks, weight: true, band: Some(band) };
            let busy = tiles.groups() >= 2 * u64::from(limits.multiprocessors);
            let last = outputs == BAND_OUTPUTS[BAND_OUTPUTS.len() - 1];
            let there = shape.memory(conv) + 256 <= limits.shared_memory as usize;
            if shape.memory(conv) <= most && there && (busy || last) {
                return Ok(Some(shape));
            }
        }
        Ok(None)
    }

    fn with_rows(
        row_bytes: usize,
        problem: &LightConvBackwardProblem,
        listed: bool,
        limits: &Limits,
    ) -> Result<Self> {
        let (conv, weight) = (problem.forward().convolution(), problem.wanted().weight);
        let size = conv.dtype().size();
        let words = conv.channels().div_ceil(2);
        let columns = words.div_ceil(row_bytes / (2 * size));
        // Rows are a multiple of 16 bytes.
        let lanes = words.div_ceil(columns).next_multiple_of(16 / (2 * size));
        let columns = words.div_ceil(lanes);
        let all = if weight { conv.window().width().div_ceil(OCTET) } else { 1 };
        let chunks = all.div_ceil(THREADS / lanes);
        let octets = all.div_ceil(chunks);
        let groups = THREADS / (lanes * octets);
        let mut outputs = OUTPUTS[0];
        loop {
            let tiles = Tiles::new(conv.sequences(), window(conv), listed, outputs, columns)?;
            let columns = tiles.columns as u64 * chunks as u64;
            let all_tiles = tiles.groups() / tiles.columns as u64;
            let blocks = (BLOCKS * u64::from(limits.multiprocessors)).div_ceil(columns);
            let blocks = blocks.min(all_tiles);
            let shape = Shape { lanes, octets, groups, chunks, tiles, blocks, weight, band: None };
            let busy = tiles.groups() * chunks as u64 >= 2 * u64::from(limits.multiprocessors);
            let fits = shape.memory(conv) <= MEMORY;
            if outputs == STEPS || fits && (busy || outputs <= OUTPUTS[1]) {
                return Ok(shape);
            }
            outputs -= STEPS;
        }
    }

    /// Bytes of a row.
    pub(super) fn row(&self, conv: &Convolution) -> usize {
        2 * self.lanes * conv.dtype().size()
    }

    /// Taps of a chunk.
    pub(in crate::cuda::light_conv::backward) fn taps(&self) -> usize {
        self.octets * OCTET
    }

    /// Bytes of a phase of x, and of dy.
    pub(super) fn phases(&self, conv: &Convolution) -> [usize; 2] {
        if let Some(band) = self.band {
            let pitch = self.row(conv) + 16;
            return [self.tiles.steps + (band.products - 1) * SIDE, self.tiles.steps]
                .map(|rows| rows * pitch);
        }
        let of = |taps| of_phase(self.row(conv), &self.tiles, taps);
        [if self.weight { of(self.taps()) } else { 0 }, of(1)]
    }

    /// Bytes of the block's memory.
    pub(super) fn memory(&self, conv: &Convolution) -> usize {
        let tokens = self.tiles.phases * self.phases(conv).iter().sum::<usize>();
        if let Some(band) = self.band {
            // A warp's sums, and those of the heads.
            let row = band.products * SIDE + if band.products.is_multiple_of(2) { 8 } else { 24 };
            let sums = SIDE * row + self.column_heads(conv) * conv.window().width();
            return tokens.max(4 * sums);
        }
        tokens.max(4 * self.groups * self.taps() * (2 * self.lanes + 1))
    }

    /// Tokens that are read for each.
    fn reads(&self, conv: &Convolution) -> f64 {
        let halo = if conv.sequences().longest() <= self.tiles.span { 0 } else { self.taps() - 1 };
        self.chunks as f64 * (2.0 + halo as f64 / self.tiles.steps as f64)
    }

    /// Heads that a column can touch.
    pub(in crate::cuda::light_conv::backward) fn column_heads(&self, conv: &Convolution) -> usize {
        most_heads(conv, self.lanes)
    }

    /// Whether the kernel can do with it.
    pub(super) fn holds(&self, conv: &Convolution) -> bool {
        let Shape { lanes, octets, groups, chunks, tiles, .. } = *self;
        let row = self.row(conv);
        if let Some(band) = self.band {
            return (1..=GROUPS * SIDE / 2).contains(&lanes)
                && lanes.is_multiple_of(SIDE / 2)
                && groups * (2 * lanes / SIDE) <= THREADS / WARP
                && 2 * lanes * tiles.columns >= conv.channels()
                && tiles.phases == 1
                && tiles.steps.is_multiple_of(SIDE * groups)
                && conv.window().width() <= (band.products - 1) * SIDE + 1
                && conv.head_channels().is_multiple_of(SIDE);
        }
        row.is_multiple_of(16)
            && row <= ROW_BYTES[0]
            && groups > 0
            && lanes * octets * groups <= THREADS
            && lanes * tiles.columns * 2 >= conv.channels()
            && (!self.weight || chunks * self.taps() >= conv.window().width())
            && (chunks == 1 || (chunks - 1) * self.taps() < conv.window().width())
            && tiles.steps.is_multiple_of(STEPS)
            && self.memory(conv) <= MEMORY
    }
}
