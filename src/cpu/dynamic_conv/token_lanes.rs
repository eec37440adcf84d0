//! Convolution with tokens in the lanes of a vector, for heads of few channels: taps lie `[heads, K, tokens]` as the
//! product made them, and tokens are transposed to `[channels, tokens]` to match.

use std::ops::Range;

use crate::cpu::arch;
use crate::cpu::dynamic_conv::plan::Tile;
use crate::cpu::phase::Staged;
use crate::cpu::taps::TokenTaps;
use crate::cpu::transpose::transpose;
use crate::sequences::Piece;

/// Convolves the tokens of `piece` with the taps `[heads, K, tokens]` of the tile, and gives each row (its number, first column, values) to `sink`.
pub(super) fn convolve(
    tile: &Tile<'_>,
    taps: &[f32],
    piece: &Piece,
    scratch: &mut [f32],
    mut sink: impl FnMut(usize, usize, &[f32]),
) {
    let (conv, plan) = (tile.conv, tile.plan);
    let (window, r, block) = (conv.window(), conv.head_channels(), plan.staged.block);
    let (x_stride, out_stride, count) = (plan.channel_stride(), plan.tap_stride, piece.tokens.len());
    let (x, scratch) = scratch.split_at_mut(block * x_stride);
    let (out, rows) = scratch.split_at_mut(block * out_stride);
    let first = piece.sequence.first + piece.tokens.start;
    for columns in tile.groups().flat_map(|group| tile.blocks(group)) {
        stage(tile, piece, columns.clone(), x, rows);
        for column in columns.clone().step_by(r) {
            let at = column - columns.start;
            arch().dispatch(TokenTaps {
                out: &mut out[at * out_stride..],
                out_stride,
                bias: &tile.bias[column..],
                x: &x[at * x_stride..],
                x_stride,
                weights: tile.taps_from(taps, column, 0, first),
                weight_stride: plan.tap_stride,
                taps: window.width(),
                dilation: window.dilation(),
                channels: r,
                tokens: count,
            });
        }
        transpose((out, out_stride), (rows, columns.len()), columns.len(), count);
        for (i, row) in rows.chunks_exact(columns.len()).take(count).enumerate() {
            sink(first + i, columns.start, row);
        }
    }
}

/// All tokens that the taps of `piece` read, as `[channels, tokens]`; those out of range are zero, and so are their
/// taps.
fn stage(tile: &Tile<'_>, piece: &Piece, columns: Range<usize>, x: &mut [f32], rows: &mut [f32]) {
    let (window, stride) = (tile.conv.window(), tile.plan.channel_stride());
    let past = tile.conv.past(piece.sequence);
    let start = window.token(piece.tokens.start, 0);
    let count = piece.tokens.len() + window.reach();
    let offset = |position: isize| (position - start).clamp(0, count as isize) as usize;
    let (before, after) = (offset(-(past as isize)), offset(piece.sequence.length as isize));
    for x in x.chunks_exact_mut(stride).take(columns.len()) {
        x[..before].fill(0.0);
        x[after..].fill(0.0);
    }
    let width = columns.len();
    let one_block = Staged { block: width, stride: width, rows: 1 };
    for (i, row) in (before..after).zip(rows.chunks_exact_mut(width)) {
        tile.tokens.load(window, piece, start + i as isize, columns.clone(), one_block, row);
    }
    transpose((rows, width), (&mut x[before..], stride), after - before, width);
}
