//! About how long calls take, to choose among plans: in the time that a byte of the device's memory takes to move. Not
//! measured on a GPU yet.

use crate::DType;
use crate::cuda::dynamic_conv::fused::{DEPTH, Generator, PART, Shape, WARPS, banded, entry};
use crate::cuda::limits::Limits;
use crate::problem::Convolution;

/// What a byte from the cache takes, beside one of the device's memory; and a stage of W beside the multiply-adds.
const CACHED: f64 = 0.55;
const STAGE: f64 = 2000.0;

/// What a multiply-add of the generating product takes.
fn product_time(conv: &Convolution, query: DType) -> f64 {
    match (query, conv.parameters()) {
        (DType::F32, _) => 0.15,
        (DType::F16, DType::F32) => 0.05,
        (DType::BF16, DType::F32) => 0.03,
        _ => 0.01,
    }
}

/// What the convolution of a number takes.
fn convolution_time(conv: &Convolution) -> f64 {
    let width = conv.window().width() as f64;
    if banded(conv) { 2.0 + 0.02 * width } else { 0.25 * width }
}

/// About how long two launches take, as [`Shape::time`] says it: the logits are written and read again, the tokens are read
/// with hardly a halo, and W comes by once for 128 tokens.
pub(crate) fn time_apart(conv: &Convolution, generator: Generator, limits: &Limits) -> f64 {
    /// The time between two launches, 3 us.
    const LAUNCH: f64 = 9e6;
    let (tokens, channels, logits) =
        (conv.sequences().tokens(), conv.channels(), conv.heads() * conv.window().width());
    let query = generator.separate.unwrap_or(conv.dtype());
    let row = generator.channels * query.size();
    let cached = logits.div_ceil(128) * row + logits * generator.channels * conv.parameters().size() / 128;
    let product = (logits * generator.channels) as f64 * product_time(conv, query);
    let generate = ((row + 4 * logits) as f64).max(CACHED * cached as f64).max(product);
    let moves = 2.1 * (channels * conv.dtype().size()) as f64 + (4 * logits) as f64;
    let convolve = moves.max(channels as f64 * convolution_time(conv));
    (tokens as f64 * (generate + convolve) + LAUNCH) / f64::from(limits.multiprocessors)
}

impl Shape {
    /// About how long a call takes.
    ///
    /// A block brings its tokens, then multiplies while W comes by, then convolves; two blocks on a multiprocessor hide
    /// behind each other.
    pub(crate) fn time(&self, conv: &Convolution, generator: Generator, limits: &Limits) -> f64 {
        let (steps, width) = (self.tiles.steps, conv.window().width());
        let (size, channels) = (conv.dtype().size(), self.block_heads * conv.head_channels());
        let query = generator.separate.unwrap_or(conv.dtype());
        let tokens = (2 * steps + width - 1) * channels * size;
        let queries = if self.own_row.is_some() { 0 } else { steps * generator.channels * query.size() };
        let tokens = (tokens + queries) as f64;
        let weight =
            CACHED * (self.block_heads * width * generator.channels * conv.parameters().size()) as f64;
        // Each block takes 1 KiB besides its own. Few warps hide little of what each waits for, and at every stage all wait
        // for all.
        let pair = 2 * (self.bytes + 1024) <= limits.shared_memory as usize + 1024;
        let (blocks, multiprocessors) = (self.tiles.groups(), u64::from(limits.multiprocessors));
        let pair = pair && self.warps == WARPS && entry(conv).pair && blocks > multiprocessors;
        let slow = if pair || self.warps > WARPS { 1.0 } else { 1.5 };
        // Warps without a part of the product wait for the others.
        let parts = steps.div_ceil(PART) * (self.slab_rows / PART);
        let groups = self.block_heads.div_ceil(self.group_heads);
        let product =
            (groups * WARPS.max(parts) * PART * PART * generator.channels) as f64 * product_time(conv, query);
        let stages = (groups * generator.channels.div_ceil(DEPTH * self.stage_slabs)) as f64;
        let product = slow * (product + stages * STAGE);
        let convolution = slow * (steps * channels) as f64 * convolution_time(conv);
        if pair {
            let (moves, works) = (tokens + weight, product + convolution);
            let time = 2.0 * moves.max(works) + 0.5 * moves.min(works);
            blocks.div_ceil(2 * multiprocessors) as f64 * time
        } else {
            blocks.div_ceil(multiprocessors) as f64 * (tokens + weight.max(product) + convolution)
        }
    }
}
