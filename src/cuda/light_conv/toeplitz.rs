//! The plan of `kernels/light_conv_toeplitz.cu`: 16-bit types, heads of 16 channels and more, up to 129 taps.

use bytemuck::{Pod, Zeroable};

use crate::cuda::light_conv::{Filter, Places};
use crate::cuda::limits::Limits;
use crate::cuda::modules::{self, Module};
use crate::cuda::plan::{DropoutParams, Launch, TileParams, WindowParams, count, unit};
use crate::cuda::traffic::{SECTOR, Traffic, filter, list, tiles_of};
use crate::gpu::{Tiles, listed, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequence, Sequences};

/// Rows and columns of a band's products, in tokens.
const SIDE: usize = 16;
/// Channels of a group, which a warp has for itself.
const GROUP: usize = 8;
/// Heads narrower than this are cheaper by multiply-adds.
const HEAD_CHANNELS: usize = 16;

/// A kernel of the module: one for each number of products, which says how many registers a band takes.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    entry: &'static str,
    /// Products of a tile of outputs: a tile and K - 1 tokens more, by 16.
    products: usize,
    /// Groups of channels, and warps, of a block.
    groups: usize,
    /// Bytes of tokens in the block's memory.
    ring: usize,
}

const KERNELS: [Kernel; 4] = [
    Kernel { entry: "light_conv_2", products: 2, groups: 8, ring: 41472 },
    Kernel { entry: "light_conv_3", products: 3, groups: 8, ring: 41472 },
    Kernel { entry: "light_conv_5", products: 5, groups: 8, ring: 41472 },
    Kernel { entry: "light_conv_9", products: 9, groups: 4, ring: 36864 },
];

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
    groups: u32,
    rows: u32,
    chunk: u32,
    load_unit: u32,
    store_unit: u32,
    mirrored: u32,
    unused: u32,
    dropout: DropoutParams,
}

/// How channels and time are divided.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tiles: Tiles,
    groups: usize,
    /// Rows of the ring, and of a chunk.
    rows: usize,
    chunk: usize,
}

impl Shape {
    fn new(kernel: Kernel, conv: &Convolution, listed: bool, limits: &Limits) -> Result<Self> {
        let (window, sequences) = (window(conv), conv.sequences());
        // Groups are of one head. An even number of them is rows of whole sectors.
        let all = conv.heads() * conv.head_channels().div_ceil(GROUP);
        let groups = all.div_ceil(all.div_ceil(kernel.groups)).next_multiple_of(2).min(kernel.groups);
        let columns = all.div_ceil(groups);

        // The ring holds what the products of a chunk read, in whole chunks, and a chunk on its way in. Its rows are an odd
        // number of 16 bytes apart.
        let steps = sequences.longest().div_ceil(window.dilation()).next_multiple_of(SIDE);
        let halo = (kernel.products - 1) * SIDE;
        let room = kernel.ring / ((groups | 1) * 16);
        let chunks = |chunk: usize| halo.div_ceil(chunk) + 2;
        let sizes = (1..=room.min(steps) / SIDE).rev().map(|sides| sides * SIDE);
        let chunk = sizes.into_iter().find(|&chunk| chunks(chunk) * chunk <= room).unwrap_or(SIDE);

        // A walk along time of 16 halos reads little twice, and one of 4 chunks is long beside its beginning. Where that
        // leaves too few blocks to go round, it is shorter, but no less than 4 halos.
        let phases = window.dilation().min(sequences.longest());
        let blocks = |walk: usize| {
            let stretches = sequences.tokens().div_ceil(window.dilation().saturating_mul(walk));
            (stretches * phases * columns) as u64
        };
        let halo = window.width() - 1;
        let (least, mut walk) = ((4 * halo).max(chunk), (16 * halo).max(4 * chunk));
        while walk > least && blocks(walk) < 8 * u64::from(limits.multiprocessors) {
            walk = (walk / 2).max(least);
        }
        let walk = walk.next_multiple_of(chunk).min(steps);
        let tiles = Tiles::of(sequences, window, listed, [1, walk], columns)?;
        Ok(Shape { tiles, groups, rows: chunks(chunk) * chunk, chunk })
    }

    /// Whether the kernel can do with it.
    fn holds(&self, kernel: Kernel, conv: &Convolution) -> bool {
        let Shape { tiles, groups, rows, chunk } = *self;
        groups > 0
            && groups <= kernel.groups
            && tiles.columns * groups >= conv.heads() * conv.head_channels().div_ceil(GROUP)
            && chunk > 0
            && chunk.is_multiple_of(SIDE)
            && rows.is_multiple_of(chunk)
            && rows >= chunk + (kernel.products - 1) * SIDE
            && rows * (groups | 1) * 16 <= kernel.ring
            && (tiles.steps.is_multiple_of(chunk) || tiles.span >= conv.sequences().longest())
            && tiles.phases == 1
    }
}

/// The kernel, if this form is for such a convolution.
fn kernel(conv: &Convolution) -> Option<(&'static Module, Kernel)> {
    let module = modules::light_conv_toeplitz(conv.dtype())?;
    let width = conv.window().width();
    let kernel = KERNELS.into_iter().find(|kernel| width <= (kernel.products - 1) * SIDE + 1)?;
    (conv.head_channels() >= HEAD_CHANNELS).then_some((module, kernel))
}

/// What the call reads and writes, if this form is for such a convolution.
pub(crate) fn traffic(
    conv: &Convolution,
    mirrored: bool,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Option<Traffic>> {
    let Some((_, kernel)) = kernel(conv) else {
        return Ok(None);
    };
    let listed = listed(sequences.shape()) || sequences.continues();
    let Shape { tiles, groups, .. } = Shape::new(kernel, conv, listed, limits)?;
    let window = WindowParams::new(conv)?;
    let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
    // The heads of each column's groups.
    let each = conv.head_channels().div_ceil(GROUP);
    let columns = (0..tiles.columns).map(|column| {
        let end = ((column + 1) * groups).min(conv.heads() * each);
        column * groups / each..(end - 1) / each + 1
    });
    let filters: u64 =
        columns.flatten().map(|head| filter(conv, mirrored, head, 0, conv.window().width())).sum();
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Sequence { length, padding, .. } = tile.sequence;
        let computed = tile.outputs(&tiles, length);
        all.written += row * tile.outputs(&tiles, length + padding) as u64;
        all.parameters += filters;
        if computed > 0 {
            all.read += row * tile.tokens(conv, &window, 0, computed + conv.window().width() - 1) as u64;
        }
    }
    Ok(Some(all))
}

/// The launch, if this form is for such a convolution.
pub(crate) fn plan(
    conv: &Convolution,
    filter: Filter,
    places: &Places,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let Some((module, kernel)) = kernel(conv) else {
        return Ok(None);
    };
    let shape = Shape::new(kernel, conv, listed, limits)?;
    debug_assert!(shape.holds(kernel, conv), "{shape:?} for {conv:?}");
    let Shape { tiles, groups, rows, chunk } = shape;
    let (dtype, head_channels) = (conv.dtype(), conv.head_channels());
    let read = [places.x, places.history];
    let read = if conv.has_history() { &read[..] } else { &read[..1] };
    // A unit is of one head: groups begin at every eighth of its channels.
    let whole = if head_channels.is_multiple_of(GROUP) { GROUP } else { head_channels };
    let params = Params {
        x_stride: places.x.stride as u64,
        y_stride: places.y.stride as u64,
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
        groups: groups as u32,
        rows: rows as u32,
        chunk: chunk as u32,
        load_unit: unit(dtype, whole, read),
        store_unit: unit(dtype, whole, &[places.y]),
        mirrored: filter.mirrored.into(),
        unused: 0,
        dropout: filter.dropout,
    };
    let threads = 32 * kernel.groups as u32;
    Launch::new((module, kernel.entry), tiles.groups(), threads, &params, limits).map(Some)
}
