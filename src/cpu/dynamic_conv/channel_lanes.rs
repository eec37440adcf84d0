//! Convolution with channels in the lanes of a vector: one weight for all channels of a head.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::cpu::arch;
use crate::cpu::dynamic_conv::plan::Tile;
use crate::cpu::padded;
use crate::cpu::phase::Phase;
use crate::cpu::taps::OwnTaps;
use crate::sequences::Piece;

/// Convolves the tokens of `piece`, and gives each row (its number, first column, values) to `sink`.
pub(super) fn convolve(
    tile: &Tile<'_>,
    piece: &Piece,
    scratch: &mut [f32],
    mut sink: impl FnMut(usize, usize, &[f32]),
) {
    let (staged, stride) = (tile.plan.staged, tile.plan.out_stride());
    let (weights, scratch) = scratch.split_at_mut(tile.weights_len());
    for phase in Phase::all(tile.conv, piece) {
        for group in tile.groups() {
            let (rows, out) = scratch.split_at_mut(staged.len(group.len()));
            phase.stage(tile.tokens, group.clone(), staged, rows);
            for (columns, rows) in tile.blocks(group.clone()).zip(rows.chunks_exact(staged.block_len())) {
                let out = &mut out[columns.start - group.start..];
                arch().dispatch(Block { tile, phase: &phase, columns, rows, weights, out });
            }
            for (i, out) in out.chunks(stride).take(phase.count()).enumerate() {
                sink(phase.token_row(i), group.start, &out[..group.len()]);
            }
        }
    }
}

/// The convolution of the tokens of one phase for a block of channels.
struct Block<'a> {
    tile: &'a Tile<'a>,
    phase: &'a Phase,
    columns: Range<usize>,
    /// Staged.
    rows: &'a [f32],
    /// Memory for the weights of a token.
    weights: &'a mut [f32],
    /// `[tokens, out_stride]`.
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Block { tile, phase, columns, rows, weights: memory, out } = self;
        let (row_stride, out_stride) = (tile.plan.staged.stride, tile.plan.out_stride());
        // Channels of one head in this block: all of them, or what a block holds of a large head.
        let width = tile.conv.head_channels().min(columns.len());
        for i in 0..phase.count() {
            let taps = phase.taps(i);
            let first = if taps.is_empty() { 0 } else { phase.row(i, taps.start) };
            for column in columns.clone().step_by(width) {
                let start = column - columns.start;
                let (weights, weight_stride) = tile.weights((phase, i), taps.clone(), column, memory);
                OwnTaps {
                    // The last vector runs over into the next head, which is written after this one.
                    out: &mut out[i * out_stride + start..],
                    bias: &tile.bias[column..],
                    rows: &rows[first * row_stride + start..],
                    row_stride,
                    weights,
                    weight_stride,
                    taps: taps.len(),
                    width: padded(width),
                }
                .run(simd);
            }
        }
    }
}
