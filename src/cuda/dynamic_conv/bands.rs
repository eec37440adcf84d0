//! What the kernels have in common that make bands of the taps of tokens: forward, and both gradients.

use crate::cuda::limits::Limits;
use crate::cuda::plan::{self, Place};
use crate::gpu::{Tiles, window};
use crate::problem::Convolution;
use crate::{DType, Result};

/// Rows and columns of a band's products, in tokens.
pub(super) const SIDE: usize = 16;
/// Channels of a group.
pub(super) const GROUP: usize = 8;
/// Threads of a block: one at least for each of the smallest units of a row.
pub(super) const THREADS: usize = 128;
pub(super) const WARPS: usize = THREADS / 32;
/// Groups of a block that has a part of a head.
pub(super) const MOST_GROUPS: usize = 16;
/// Groups of a block that has whole heads: rows of 128 bytes, which are what the banks are.
const GROUPS: usize = 8;
/// Heads narrower than this are cheaper by multiply-adds.
const HEAD_CHANNELS: usize = 16;
/// Matrices of 16 tokens in reach of 16 outputs: a kernel for each.
const PRODUCTS: [usize; 3] = [3, 5, 9];
/// Bytes of shared memory that kernels declare, and that the device keeps of each block, at most.
const DECLARED: usize = 2048;
/// Blocks that keep a multiprocessor busy.
const BUSY: f64 = 3.0;

/// Which of the kernels it is, if such a convolution is for them: types of 16 bits, heads that are wide, and windows that are not.
pub(super) fn products(conv: &Convolution) -> Option<usize> {
    let is_for = conv.dtype() != DType::F32 && conv.head_channels() >= HEAD_CHANNELS;
    let width = conv.window().width();
    PRODUCTS.into_iter().find(|products| is_for && width <= (products - 1) * SIDE + 1)
}

/// Groups of 8 channels of each head.
pub(super) fn groups_each(conv: &Convolution) -> usize {
    conv.head_channels().div_ceil(GROUP)
}

/// Groups of a block: whole heads side by side, or a part of one.
pub(super) fn block_groups(conv: &Convolution) -> usize {
    let each = groups_each(conv);
    match GROUPS / each {
        0 => each.div_ceil(each.div_ceil(MOST_GROUPS)),
        heads => (heads * each).min(conv.heads() * each),
    }
}

/// The heads of each column of blocks that have so many groups, column by column.
pub(super) fn column_heads(conv: &Convolution, tiles: &Tiles, groups: usize) -> Vec<usize> {
    let each = groups_each(conv);
    let columns = (0..tiles.columns).map(|column| {
        let end = ((column + 1) * groups).min(conv.heads() * each);
        column * groups / each..(end - 1) / each + 1
    });
    columns.flatten().collect()
}

/// Bytes of the unit in which tokens that lie at these places can be read or written. It is of one head: groups begin at every
/// eighth of its channels. Units of 8 bytes are so rare that they are two of 4.
pub(super) fn unit(conv: &Convolution, places: &[Place]) -> u32 {
    let channels = conv.head_channels();
    let whole = if channels.is_multiple_of(GROUP) { GROUP } else { channels };
    match plan::unit(conv.dtype(), whole, places) {
        8 => 4,
        unit => unit,
    }
}

/// Numbers from one row of logits to the next: 5 more than a multiple of 8, so that no bank is met twice.
pub(super) fn odd_pitch(width: usize) -> usize {
    (width + 2) / 8 * 8 + 5
}

/// Tiles of one phase, of as many of `steps` as read the least twice and leave a device the most at work: blocks of which some of
/// a multiprocessor's memory hold `memory` of them, and as many as there are multiprocessors. None where no block has room.
pub(super) fn tiles(
    conv: &Convolution,
    listed: bool,
    columns: usize,
    steps: &[usize],
    memory: impl Fn(usize) -> usize,
    limits: &Limits,
) -> Result<Option<Tiles>> {
    let (window, sequences) = (window(conv), conv.sequences());
    let longest = sequences.longest().div_ceil(window.dilation()).next_multiple_of(SIDE);
    let mut best: Option<(f64, Tiles)> = None;
    for &most in steps {
        let within = most.min(longest.max(*steps.last().unwrap_or(&SIDE)));
        let blocks = limits.shared_memory as usize / (memory(within) + DECLARED);
        if blocks == 0 {
            continue;
        }
        let tiles = Tiles::of(sequences, window, listed, [1, within], columns)?;
        let halo = 1.0 + (window.width() - 1) as f64 / within as f64;
        let idle = (BUSY / blocks as f64).max(1.0);
        let few = (2.0 * f64::from(limits.multiprocessors) / tiles.groups().max(1) as f64).max(1.0);
        let cost = halo * idle * few;
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, tiles));
        }
    }
    Ok(best.map(|(_, tiles)| tiles))
}
