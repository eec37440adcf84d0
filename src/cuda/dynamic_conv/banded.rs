//! The plan of `kernels/dynamic_conv_banded.cu`: 16-bit types, heads of 16 channels and more, up to 129 taps.

use bytemuck::{Pod, Zeroable};

use crate::cuda::dynamic_conv::plan::{Logits, logit_sectors};
use crate::cuda::light_conv::Places;
use crate::cuda::limits::Limits;
use crate::cuda::modules::{self, Module};
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count, unit};
use crate::cuda::traffic::{SECTOR, Traffic, list, tiles_of};
use crate::gpu::{Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequence, Sequences};

/// Rows and columns of a band's products, in tokens.
const SIDE: usize = 16;
/// Channels of a group.
const GROUP: usize = 8;
/// Heads narrower than this are cheaper by multiply-adds.
const HEAD_CHANNELS: usize = 16;
/// Groups of a block that has whole heads: rows of 128 bytes, which are what the banks are.
const GROUPS: usize = 8;
/// Groups of a block that has a part of a head.
const MOST_GROUPS: usize = 16;
/// Threads of a block: one at least for each of the smallest units of a row.
const THREADS: usize = 128;
const WARPS: usize = THREADS / 32;
/// Bytes of an output's channels that wait to leave.
const OUTPUT_PITCH: usize = 48;
/// Outputs of a tile, at most and at least.
const STEPS: [usize; 2] = [256, 64];

/// A kernel of the module: one for each number of products, which says how many registers a band takes.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    entry: &'static str,
    /// Products of a tile of outputs: a tile and K - 1 tokens more, by 16.
    products: usize,
}

const KERNELS: [Kernel; 3] = [
    Kernel { entry: "dynamic_conv_3", products: 3 },
    Kernel { entry: "dynamic_conv_5", products: 5 },
    Kernel { entry: "dynamic_conv_9", products: 9 },
];

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
    fn new(kernel: Kernel, conv: &Convolution, listed: bool, limits: &Limits) -> Result<Option<Self>> {
        let (window, sequences) = (window(conv), conv.sequences());
        let each = conv.head_channels().div_ceil(GROUP);
        let all = conv.heads() * each;
        // Whole heads side by side, or a part of one.
        let groups = match GROUPS / each {
            0 => each.div_ceil(each.div_ceil(MOST_GROUPS)),
            heads => (heads * each).min(all),
        };
        let columns = all.div_ceil(groups);
        let logit_pitch = odd_pitch(window.width());
        // A tile of four halos reads little twice, if the block's memory holds it. Where that leaves too few blocks to go
        // round, it is shorter.
        let longest = sequences.longest().div_ceil(window.dilation()).next_multiple_of(SIDE);
        let phases = window.dilation().min(sequences.longest());
        let [most, least] = STEPS;
        let mut steps = if 4 * (window.width() - 1) > most / 2 { most } else { most / 2 };
        loop {
            let within = steps.min(longest);
            let rows = within + (kernel.products - 1) * SIDE;
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
    fn holds(&self, kernel: Kernel, conv: &Convolution) -> bool {
        let Shape { tiles, groups, rows, logit_pitch } = *self;
        groups > 0
            && groups * GROUP <= THREADS
            && tiles.columns * groups >= conv.heads() * conv.head_channels().div_ceil(GROUP)
            && tiles.steps.is_multiple_of(SIDE)
            && rows >= tiles.steps + (kernel.products - 1) * SIDE
            && rows < 4096
            && logit_pitch >= conv.window().width()
            && logit_pitch % 8 == 5
            && tiles.phases == 1
    }
}

/// Numbers from one row of logits to the next: 5 more than a multiple of 8, so that no bank is met twice.
fn odd_pitch(width: usize) -> usize {
    (width + 2) / 8 * 8 + 5
}

/// Bytes of the block's memory: tokens, and a corner for each warp.
fn shared_memory(rows: usize, groups: usize, logit_pitch: usize) -> usize {
    rows * (groups | 1) * 16 + WARPS * SIDE * (4 * logit_pitch + OUTPUT_PITCH)
}

/// The kernel and its shape, if this form is for such a convolution.
fn kernel(
    conv: &Convolution,
    listed: bool,
    limits: &Limits,
) -> Result<Option<(&'static Module, Kernel, Shape)>> {
    let width = conv.window().width();
    let kernel = KERNELS.into_iter().find(|kernel| width <= (kernel.products - 1) * SIDE + 1);
    let (Some(module), Some(kernel)) = (modules::dynamic_conv_banded(conv.dtype()), kernel) else {
        return Ok(None);
    };
    if conv.head_channels() < HEAD_CHANNELS {
        return Ok(None);
    }
    // Where tiles are too far apart to be counted, those of the other form may not be.
    let shape = Shape::new(kernel, conv, listed, limits).ok().flatten();
    Ok(shape.map(|shape| (module, kernel, shape)))
}

/// What the call reads and writes, if this form is for such a convolution. The logits are of type `logits`.
pub(crate) fn traffic(
    conv: &Convolution,
    logits: DType,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Option<Traffic>> {
    let listed = listed(sequences.shape()) || sequences.continues();
    let Some((_, _, Shape { tiles, groups, .. })) = kernel(conv, listed, limits)? else {
        return Ok(None);
    };
    let window = WindowParams::new(conv)?;
    let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
    // The heads of each column's groups.
    let each = conv.head_channels().div_ceil(GROUP);
    let columns = (0..tiles.columns).map(|column| {
        let end = ((column + 1) * groups).min(conv.heads() * each);
        column * groups / each..(end - 1) / each + 1
    });
    let heads: Vec<usize> = columns.flatten().collect();
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
    let Some((module, kernel, shape)) = kernel(conv, listed, limits)? else {
        return Ok(None);
    };
    debug_assert!(shape.holds(kernel, conv), "{shape:?} for {conv:?}");
    let Shape { tiles, groups, rows, logit_pitch } = shape;
    let (dtype, head_channels) = (conv.dtype(), conv.head_channels());
    let read = [places.x, places.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    // A unit is of one head: groups begin at every eighth of its channels.
    let whole = if head_channels.is_multiple_of(GROUP) { GROUP } else { head_channels };
    // Units of 8 bytes are so rare that they are two of 4.
    let unit = |places| match unit(dtype, whole, places) {
        8 => 4,
        unit => unit,
    };
    let params = Params {
        x_stride: places.x.stride as u64,
        y_stride: places.y.stride as u64,
        logit_stride: logits.place.stride as u64,
        tiles: TileParams::new(&tiles)?,
        window: WindowParams::new(conv)?,
        channels: count("x", conv.channels())?,
        head_channels: count("x", head_channels)?,
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
        load_unit: unit(read),
        store_unit: unit(&[places.y]),
        unused: 0,
        dropout,
    };
    let shared = shared_memory(rows, groups, logit_pitch) as u64;
    Launch::new((module, kernel.entry), tiles.groups(), THREADS as u32, &params, limits)?
        .with_shared(shared, limits)
        .map(Some)
}
