//! The plan of `kernels/span_key.cu` (f32) and `kernels/span_key_mma.cu` (f16 and bf16).

use bytemuck::{Pod, Zeroable};

use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, TileParams, WindowParams, count, unit};
use crate::cuda::rows::{gap, of_phase};
use crate::cuda::span_key::SpanKeyPlaces;
use crate::cuda::traffic::{SECTOR, Traffic, list, tiles_of};
use crate::gpu::{Tiles, listed, window};
use crate::problem::{Convolution, SpanKeyProblem};
use crate::{DType, Result, Sequence, Sequences};

/// Tokens of a tile.
const TOKENS: usize = 64;
/// Channels of a slab.
const CHANNELS: usize = 32;
/// Taps that are added at once.
const OCTET: usize = 8;
/// Quads that a slab has for four taps of all channels.
const TAP_PITCH: usize = 37;
/// Threads of a team, which share 128 outputs of a tile; f32 has one team a block.
const THREADS: u32 = 128;
const OUTPUTS: usize = 128;
/// Teams of a block, at most.
const TEAMS: usize = 3;

/// The structure `DepthwiseParams` of `kernels/shared/depthwise.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct DepthwiseParams {
    x_stride: u64,
    tiles: TileParams,
    window: WindowParams,
    channels: u32,
    taps: u32,
    load_unit: u32,
    gap: u32,
    of_phase: u32,
    token_bytes: u32,
}

/// The structure `Params` of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    depthwise: DepthwiseParams,
    query_stride: u64,
    z_stride: u64,
    outputs: u32,
    has_bias: u32,
    wide: u32,
    weight_unit: u32,
    query_unit: u32,
    z_unit: u32,
}

/// Products on tensor cores for each multiply-add.
fn products(conv: &Convolution) -> usize {
    match (conv.dtype(), conv.parameters()) {
        (_, DType::F32) => 6,
        (DType::F16, _) => 5,
        _ => 3,
    }
}

/// How a call is divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tiles: Tiles,
    /// Teams of a block.
    teams: usize,
    /// Taps of a chunk.
    taps: usize,
}

impl Shape {
    /// As many teams as make a call cheap: the more there are, the fewer times x is convolved.
    fn new(problem: &SpanKeyProblem, listed: bool, limits: &Limits) -> Result<Self> {
        let conv = problem.depthwise();
        let mut best = Shape::of(1, problem, listed, limits)?;
        if conv.dtype() == DType::F32 {
            return Ok(best);
        }
        // What a quarter of a multiprocessor issues for a slab: its convolution, and the products of a team.
        let slab = 700 + 32 * conv.window().width().min(1 << 20);
        let cost = |shape: &Shape| shape.tiles.columns * (slab + shape.teams * 200 * products(conv));
        for teams in 2..=TEAMS {
            let shape = Shape::of(teams, problem, listed, limits)?;
            let busy = shape.tiles.groups() >= u64::from(limits.multiprocessors);
            let fits = shape.shared(conv) <= shape.room(conv, limits);
            if busy && fits && cost(&shape) < cost(&best) {
                best = shape;
            }
        }
        Ok(best)
    }

    fn of(teams: usize, problem: &SpanKeyProblem, listed: bool, limits: &Limits) -> Result<Self> {
        let conv = problem.depthwise();
        let columns = problem.outputs().div_ceil(teams * OUTPUTS);
        let teams = problem.outputs().div_ceil(OUTPUTS).div_ceil(columns);
        let tiles = Tiles::new(conv.sequences(), window(conv), listed, TOKENS, columns)?;
        // No memory holds more than 128 octets.
        let most = conv.window().width().div_ceil(OCTET).min(128);
        let mut octets = (1..=most).rev().map(|octets| Shape { tiles, teams, taps: octets * OCTET });
        let fits = |shape: &Shape| shape.shared(conv) <= shape.room(conv, limits);
        Ok(octets.find(fits).unwrap_or(Shape { tiles, teams, taps: OCTET }))
    }

    /// Bytes of a block's memory that it may have. Blocks of one team take as much as lets two or three of them fit where
    /// there are 227 KiB, and one wherever kernels run; those of more are alone.
    fn room(&self, conv: &Convolution, limits: &Limits) -> usize {
        match (self.teams, conv.parameters()) {
            (1, DType::F32) => 96 << 10,
            (1, _) => 72 << 10,
            _ => (limits.shared_memory as usize).saturating_sub(1 << 10),
        }
    }

    fn tap_bytes(&self) -> usize {
        self.taps / 4 * TAP_PITCH * 16
    }

    fn of_phase(&self, conv: &Convolution) -> usize {
        of_phase(CHANNELS * conv.dtype().size(), &self.tiles, self.taps)
    }

    fn token_bytes(&self, conv: &Convolution) -> usize {
        self.tiles.phases * self.of_phase(conv)
    }

    /// Bytes of a block's memory.
    fn shared(&self, conv: &Convolution) -> usize {
        let (size, outputs) = (conv.parameters().size(), self.teams * OUTPUTS);
        // Weights and convolved numbers: in f32 rows are a quad more, in 16 bits they are of three parts, and q and z come in
        // the same place after them.
        let (slabs, after) = match conv.dtype() {
            DType::F32 => ((outputs + TOKENS) * 4 * (CHANNELS + 4), 0),
            _ => (CHANNELS * (outputs * size + TOKENS * 3 * 2), 4 * TOKENS * outputs),
        };
        after.max(2 * (slabs + self.tap_bytes() + self.token_bytes(conv)))
    }

    /// Whether the kernel can do with it.
    fn holds(&self, conv: &Convolution, limits: &Limits) -> bool {
        let Shape { tiles, teams, taps } = *self;
        taps > 0
            && taps.is_multiple_of(OCTET)
            && tiles.outputs() <= TOKENS
            && tiles.steps.is_multiple_of(OCTET)
            && self.token_bytes(conv).is_multiple_of(16)
            && self.shared(conv) <= self.room(conv, limits)
            && (1..=TEAMS).contains(&teams)
            && (teams == 1 || conv.dtype() != DType::F32)
    }
}

/// Sectors that warps read of the taps of a slab: as they lie, an octet of a channel after another.
fn taps_of_slab(conv: &Convolution, slab: usize, first: usize, count: usize) -> u64 {
    let (width, size) = (conv.window().width(), conv.parameters().size());
    let padded = count.next_multiple_of(OCTET);
    let warps = (0..CHANNELS * padded).step_by(32);
    let of_warp = |number: usize| {
        let lanes = (number..number + 32).map(|number| (slab * CHANNELS + number / padded, number % padded));
        let read = lanes.filter(|&(channel, tap)| channel < conv.channels() && tap < count);
        let sectors: std::collections::BTreeSet<_> =
            read.map(|(channel, tap)| (channel * width + first + tap) * size / SECTOR).collect();
        sectors.len() as u64
    };
    warps.map(of_warp).sum()
}

/// What the call reads and writes.
pub(crate) fn traffic(problem: &SpanKeyProblem, sequences: &Sequences, limits: &Limits) -> Result<Traffic> {
    let conv = problem.depthwise();
    let listed = listed(sequences.shape()) || sequences.continues();
    let Shape { tiles, taps, .. } = Shape::new(problem, listed, limits)?;
    let (near, window) = (window(conv), WindowParams::new(conv)?);
    let width = window.width as usize;
    let (channels, outputs) = (conv.channels(), problem.outputs());
    let row = |numbers: usize, dtype: DType| (numbers * dtype.size()).div_ceil(SECTOR) as u64;
    let (across, weight) = (tiles.columns as u64, outputs as u64 * row(channels, conv.parameters()));
    let chunk_of_taps = |first, count| -> u64 {
        (0..channels.div_ceil(CHANNELS)).map(|slab| taps_of_slab(conv, slab, first, count)).sum()
    };
    let all_taps = if width <= taps { chunk_of_taps(0, width) } else { 0 };
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Sequence { length, padding, .. } = tile.sequence;
        all.written += row(outputs, problem.output()) * tile.outputs(&tiles, length + padding) as u64;
        if tile.start >= length {
            continue;
        }
        all.parameters += weight;
        all.read += row(outputs, conv.dtype()) * tile.outputs(&tiles, length) as u64;
        // The taps that read a token for some output.
        let last = tile.start + tiles.phases - 1 + (tiles.steps - 1) * tiles.dilation;
        let past = conv.past(tile.sequence);
        let (begin, end) =
            (near.taps_in_range(last, length, past).start, near.taps_in_range(tile.start, length, past).end);
        if begin >= end {
            continue;
        }
        let some = if width <= taps { 0..width } else { begin / OCTET * OCTET..end };
        for first in some.clone().step_by(taps) {
            let count = taps.min(some.end - first);
            let tokens = tile.tokens(conv, &window, first, first + tiles.steps + count - 1) as u64;
            all.read += across * row(channels, conv.dtype()) * tokens;
            all.parameters += across * if width <= taps { all_taps } else { chunk_of_taps(first, count) };
        }
    }
    Ok(all)
}

/// The one launch, or none where there is no token.
pub(crate) fn plan(
    problem: &SpanKeyProblem,
    places: &SpanKeyPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (conv, outputs) = (problem.depthwise(), problem.outputs());
    if conv.sequences().tokens() == 0 {
        return Ok(None);
    }
    let shape = Shape::new(problem, listed, limits)?;
    debug_assert!(shape.holds(conv, limits), "{shape:?} for {problem:?}");
    let Shape { tiles, teams, taps } = shape;
    let (dtype, parameters, channels) = (conv.dtype(), conv.parameters(), conv.channels());
    let read = [places.x, places.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    let depthwise = DepthwiseParams {
        x_stride: places.x.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", channels)?,
        taps: taps as u32,
        load_unit: unit(dtype, channels, read),
        gap: gap(CHANNELS * dtype.size()) as u32,
        of_phase: shape.of_phase(conv) as u32,
        token_bytes: shape.token_bytes(conv) as u32,
    };
    let params = Params {
        depthwise,
        query_stride: places.query.stride as u64,
        z_stride: places.z.stride as u64,
        outputs: count("query", outputs)?,
        has_bias: problem.has_key_bias().into(),
        wide: (problem.output() == DType::F32).into(),
        weight_unit: unit(parameters, channels, &[places.pointwise]),
        query_unit: unit(dtype, outputs, &[places.query]),
        z_unit: unit(problem.output(), outputs, &[places.z]),
    };
    let module = modules::span_key(dtype, parameters);
    Launch::new((module, "span_key"), tiles.groups(), teams as u32 * THREADS, &params, limits)?
        .with_shared(shape.shared(conv) as u64, limits)
        .map(Some)
}
