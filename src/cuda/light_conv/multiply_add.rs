//! The plan of `kernels/light_conv.cu`: for every number of heads, and every type.

use bytemuck::{Pod, Zeroable};

use crate::cuda::light_conv::Places;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, TileParams, WindowParams, count, unit};
use crate::gpu::{STEPS, Tiles, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result};

/// Threads of a block.
const THREADS: usize = 256;
/// The block's memory: bytes of tokens, quads of taps.
const TOKEN_BYTES: usize = 38912;
const TAP_QUADS: usize = 576;
/// Bytes of a row of the block's memory, at most.
const ROW_BYTES: usize = 128;
/// Taps that are added at once.
const OCTET: usize = 8;
/// Rounds of a tile, at most. More of them read the halo for more outputs, and leave fewer blocks to go round.
const ROUNDS: usize = 8;

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
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
    unused: u32,
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
    fn new(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Self> {
        let size = conv.dtype().size();
        let words = conv.channels().div_ceil(2);
        let columns = words.div_ceil(ROW_BYTES / (2 * size));
        // Rows are a multiple of 16 bytes.
        let lanes = words.div_ceil(columns).next_multiple_of(16 / (2 * size));
        let columns = words.div_ceil(lanes);
        let groups = THREADS / lanes;
        // As many heads as so many channels can touch.
        let (channels, head_channels) = (2 * lanes, conv.head_channels());
        let heads = ((channels + head_channels - 2) / head_channels + 1).min(conv.heads());
        let most_rows = TOKEN_BYTES / (channels * size);
        let most_taps = TAP_QUADS / (heads | 1) / 2 * OCTET;
        let window = window(conv);
        let all = window.width().next_multiple_of(OCTET);
        let mut rounds = ROUNDS;
        loop {
            let outputs = rounds * groups * STEPS;
            let tiles = Tiles::new(conv.sequences(), window, listed, outputs, columns)?;
            let fits = all <= most_taps && tiles.phases * (tiles.steps + all - 1) <= most_rows;
            let busy = tiles.groups() >= 2 * u64::from(limits.multiprocessors);
            if rounds == 1 || fits && busy {
                // What the block's memory does not hold goes chunk by chunk, in one round.
                let room = most_rows / tiles.phases - tiles.steps + 1;
                let taps = if fits { all } else { most_taps.min(room / OCTET * OCTET) };
                let rounds = tiles.outputs().div_ceil(groups * STEPS);
                return Ok(Shape { lanes, groups, tiles, rounds, taps });
            }
            rounds -= 1;
        }
    }
}

pub(crate) fn plan(conv: &Convolution, places: &Places, listed: bool, limits: &Limits) -> Result<Launch> {
    let Shape { lanes, groups, tiles, rounds, taps } = Shape::new(conv, listed, limits)?;
    let (dtype, channels) = (conv.dtype(), conv.channels());
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
        unused: 0,
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
