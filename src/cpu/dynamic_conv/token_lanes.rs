//! Convolution with tokens in the lanes of a vector, for heads of few channels: taps lie `[heads, K, tokens]` as the
//! product made them, and tokens are transposed to `[channels, tokens]` to match.

use std::ops::Range;

use pulp::Arch;

use crate::cpu::dynamic_conv::plan::Tile;
use crate::cpu::taps::TokenTaps;
use crate::sequences::Piece;

/// Convolves the tokens of `piece`, and gives each row (its number, first column, values) to `sink`.
pub(super) fn convolve(
    tile: &Tile<'_>,
    piece: &Piece,
    scratch: &mut [f32],
    mut sink: impl FnMut(usize, usize, &[f32]),
) {
    let (conv, plan) = (tile.conv, tile.plan);
    let (window, r) = (conv.window(), conv.head_channels());
    let (x_stride, out_stride, count) = (plan.channel_stride(), plan.tap_stride, piece.tokens.len());
    let (x, scratch) = scratch.split_at_mut(plan.block * x_stride);
    let (out, row) = scratch.split_at_mut(plan.block * out_stride);
    for columns in tile.blocks() {
        stage(tile, piece, columns.clone(), x, &mut row[..columns.len()]);
        let first = piece.sequence.first + piece.tokens.start;
        for column in columns.clone().step_by(r) {
            let at = column - columns.start;
            for (out, bias) in
                out[at * out_stride..].chunks_exact_mut(out_stride).zip(&tile.bias[column..]).take(r)
            {
                out.fill(*bias);
            }
            Arch::new().dispatch(TokenTaps {
                out: &mut out[at * out_stride..],
                out_stride,
                x: &x[at * x_stride..],
                x_stride,
                weights: tile.taps_from(column, 0, first),
                weight_stride: plan.tap_stride,
                taps: window.width(),
                dilation: window.dilation(),
                channels: r,
                tokens: count,
            });
        }
        for i in 0..count {
            let row = &mut row[..columns.len()];
            for (value, out) in row.iter_mut().zip(out.chunks_exact(out_stride)) {
                *value = out[i];
            }
            sink(first + i, columns.start, row);
        }
    }
}

/// All tokens that the taps of `piece` read, as `[channels, tokens]`; those out of range are zero, and so are their
/// taps.
fn stage(tile: &Tile<'_>, piece: &Piece, columns: Range<usize>, x: &mut [f32], row: &mut [f32]) {
    let (window, stride) = (tile.conv.window(), tile.plan.channel_stride());
    let past = if tile.conv.has_history() { piece.sequence.past.min(window.reach()) } else { 0 };
    let start = window.token(piece.tokens.start, 0);
    let end = start + (piece.tokens.len() + window.reach()) as isize;
    let in_range = start.max(-(past as isize))..end.min(piece.sequence.length as isize);
    let count = (end - start) as usize;
    let (before, after) = if in_range.is_empty() {
        (count, count)
    } else {
        ((in_range.start - start) as usize, (in_range.end - start) as usize)
    };
    for x in x.chunks_exact_mut(stride).take(columns.len()) {
        x[..before].fill(0.0);
        x[after..].fill(0.0);
    }
    for i in before..after {
        tile.tokens.load(window, piece, start + i as isize, columns.start, row);
        for (x, &value) in x.chunks_exact_mut(stride).zip(&*row) {
            x[i] = value;
        }
    }
}
