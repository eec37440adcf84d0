//! The plan of `kernels/dynamic_conv_banded.cu`: 16-bit types, heads of 16 channels and more, up to 129 taps.

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::bands::{self, SIDE, THREADS, WARPS, block_groups, groups_each, odd_pitch};
use crate::cuda::dynamic_conv::plan::{Logits, logit_sectors};
use crate::cuda::light_conv::Places;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count};
use crate::cuda::traffic::{SECTOR, Traffic, list, tiles_of};
use crate::gpu::{Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequence, Sequences};

/// Bytes of an output's channels that wait to leave.
const OUTPUT_PITCH: usize = 48;
/// Outputs of a tile, at most and at least.
const STEPS: [usize; 2] = [256, 64];

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
    groups: u32,
    rows: u32,
    logit_pitch: u32,
    load_unit: u32,
    store_unit: u32,
    unused: u32,
    dropout: DropoutParams,
}

/// How channels and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tiles: Tiles,
    groups: usize,
    /// Rows of tokens in the block's memory.
    rows: usize,
    /// Numbers from the logits of an output to those of the next.
    logit_pitch: usize,
}

impl Shape {
    /// None where the device has too little shared memory.
    fn new(products: usize, conv: &Convolution, listed: bool, limits: &Limits) -> Result<Option<Self>> {
        let (window, sequences) = (window(conv), conv.sequences());
        let groups = block_groups(conv);
        let columns = (conv.heads() * groups_each(conv)).div_ceil(groups);
        let logit_pitch = odd_pitch(window.width());
        // A tile of four halos reads little twice, if the block's memory holds it. Where that leaves too few blocks to go
        // round, it is shorter.
        let longest = sequences.longest().div_ceil(window.dilation()).next_multiple_of(SIDE);
        let phases = window.dilation().min(sequences.longest());
        let [most, least] = STEPS;
        let mut steps = if 4 * (window.width() - 1) > most / 2 { most } else { most / 2 };
        loop {
            let within = steps.min(longest);
            let rows = within + (products - 1) * SIDE;
            let blocks =
                sequences.tokens().div_ceil(window.dilation().saturating_mul(within)) * phases * columns;
            let busy = steps == least || blocks as u64 >= 2 * u64::from(limits.multiprocessors);
            let shared = shared_memory(rows, groups, logit_pitch);
            // What the kernel declares is beside that.
            let fits = shared + 2048 <= limits.shared_memory as usize;
            if fits && busy {
                let tiles = Tiles::of(sequences, window, listed, [1, within], columns)?;
                return Ok(Some(Shape { tiles, groups, rows, logit_pitch }));
            }
            if steps == least {
                return Ok(None);
            }
            steps /= 2;
        }
    }

    /// Whether the kernel can do with it.
    fn holds(&self, products: usize, conv: &Convolution) -> bool {
        let Shape { tiles, groups, rows, logit_pitch } = *self;
        groups > 0
            && groups * bands::GROUP <= THREADS
            && tiles.columns * groups >= conv.heads() * groups_each(conv)
            && tiles.steps.is_multiple_of(SIDE)
            && rows >= tiles.steps + (products - 1) * SIDE
            && rows < 4096
            && logit_pitch >= conv.window().width()
            && logit_pitch % 8 == 5
            && tiles.phases == 1
    }
}

/// Bytes of the block's memory: tokens, and a corner for each warp.
fn shared_memory(rows: usize, groups: usize, logit_pitch: usize) -> usize {
    rows * (groups | 1) * 16 + WARPS * SIDE * (4 * logit_pitch + OUTPUT_PITCH)
}

/// The kernel, by its products, and its shape, if this form is for such a convolution.
fn kernel(conv: &Convolution, listed: bool, limits: &Limits) -> Result<Option<(usize, Shape)>> {
    let Some(products) = bands::products(conv) else {
        return Ok(None);
    };
    // Where tiles are too far apart to be counted, those of the other form may not be.
    let shape = Shape::new(products, conv, listed, limits).ok().flatten();
    Ok(shape.map(|shape| (products, shape)))
}

/// What the call reads and writes, if this form is for such a convolution. The logits are of type `logits`.
pub(crate) fn traffic(
    conv: &Convolution,
    logits: DType,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Option<Traffic>> {
    let listed = listed(sequences.shape()) || sequences.continues();
    let Some((_, Shape { tiles, groups, .. })) = kernel(conv, listed, limits)? else {
        return Ok(None);
    };
    let window = WindowParams::new(conv)?;
    let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
    let heads = bands::column_heads(conv, &tiles, groups);
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Sequence { first, length, padding, .. } = tile.sequence;
        let computed = tile.outputs(&tiles, length);
        all.written += row * tile.outputs(&tiles, length + padding) as u64;
        if computed > 0 {
            all.read += row * tile.tokens(conv, &window, 0, computed + conv.window().width() - 1) as u64;
        }
        for output in 0..computed {
            let token = first + tile.start + output * tiles.dilation;
            all.read += heads.iter().map(|&head| logit_sectors(conv, logits, token, head)).sum::<u64>();
        }
    }
    Ok(Some(all))
}

/// The launch, if this form is for such a convolution.
pub(crate) fn plan(
    conv: &Convolution,
    dropout: DropoutParams,
    places: &Places,
    logits: Logits,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (Some(module), Some((products, shape))) =
        (modules::dynamic_conv_banded(conv.dtype()), kernel(conv, listed, limits)?)
    else {
        return Ok(None);
    };
    debug_assert!(shape.holds(products, conv), "{shape:?} for {conv:?}");
    let Shape { tiles, groups, rows, logit_pitch } = shape;
    let read = [places.x, places.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    let params = Params {
        x_stride: places.x.stride as u64,
        y_stride: places.y.stride as u64,
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
        has_bias: conv.has_bias().into(),
        wide: (conv.parameters() == DType::F32).into(),
        wide_logits: (logits.dtype == DType::F32).into(),
        groups: groups as u32,
        rows: rows as u32,
        logit_pitch: logit_pitch as u32,
        load_unit: bands::unit(conv, read),
        store_unit: bands::unit(conv, &[places.y]),
        unused: 0,
        dropout,
    };
    let shared = shared_memory(rows, groups, logit_pitch) as u64;
    let entry = match products {
        3 => "dynamic_conv_3",
        5 => "dynamic_conv_5",
        _ => "dynamic_conv_9",
    };
    Launch::new((module, entry), tiles.groups(), THREADS as u32, &params, limits)?
        .with_shared(shared, limits)
        .map(Some)
}
