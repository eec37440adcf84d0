//! Convolution with channels in the lanes of a vector: one weight for all channels of a head.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

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
    let stride = tile.plan.row_stride();
    let (rows, out) = scratch.split_at_mut(tile.plan.rows * stride);
    for phase in Phase::all(tile.conv, piece) {
        for columns in tile.blocks() {
            phase.stage(tile.tokens, columns.clone(), stride, rows);
            Arch::new().dispatch(Block { tile, phase: &phase, columns, rows, out, sink: &mut sink });
        }
    }
}

/// The convolution of the tokens of one phase for a block of channels.
struct Block<'a, F> {
    tile: &'a Tile<'a>,
    phase: &'a Phase,
    columns: Range<usize>,
    /// `[rows, row_stride]`.
    rows: &'a [f32],
    /// One output row.
    out: &'a mut [f32],
    sink: F,
}

impl<F: FnMut(usize, usize, &[f32])> WithSimd for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Block { tile, phase, columns, rows, out, mut sink } = self;
        let stride = tile.plan.row_stride();
        // Channels of one head in this block: all of them, or what a block holds of a large head.
        let width = tile.conv.head_channels().min(columns.len());
        for i in 0..phase.count() {
            let (row, taps) = (phase.token_row(i), phase.taps(i));
            for column in columns.clone().step_by(width) {
                let start = column - columns.start;
                // The last vector runs over into the next head, which is written after this one.
                let out = &mut out[start..start + padded(width)];
                out.copy_from_slice(&tile.bias[column..column + padded(width)]);
                if taps.is_empty() {
                    continue;
                }
                OwnTaps {
                    out,
                    rows: &rows[phase.row(i, taps.start) * stride + start..],
                    row_stride: stride,
                    weights: tile.taps_from(column, taps.start, row),
                    weight_stride: tile.plan.tap_stride,
                    taps: taps.len(),
                    width: padded(width),
                }
                .run(simd);
            }
            sink(row, columns.start, &out[..columns.len()]);
        }
    }
}
