//! Attention block by block: scores never leave the cache.

use std::ops::Range;

use crate::cpu::attention::{Call, all_finite};
use crate::cpu::product::{Strides, product};
use crate::cpu::scratch::Division;
use crate::cpu::softmax::{OnlineSoftmax, scale_columns};
use crate::cpu::tiles::Tiles;
use crate::cpu::transpose::transpose;
use crate::problem::AttentionProblem;
use crate::sequences::Piece;

/// Queries of a tile, a multiple of 16: more of them share each block of keys, unless each sees but a few keys of its
/// own.
pub(super) fn tile_queries(problem: &AttentionProblem) -> usize {
    let mask = problem.mask();
    let local = mask.left().zip(mask.right()).is_some_and(|(left, right)| left.saturating_add(right) < KEYS);
    if local { 64 } else { 128 }
}

/// Keys of a block: its scores and its values fit in the second cache together.
pub(super) const KEYS: usize = 256;

/// Scores, sums of values, queries as rows and as columns, and copies of keys and values; then maximum, sum and factor of each query.
pub(super) fn scratch(problem: &AttentionProblem) -> Division {
    let (d, queries) = (problem.head_channels(), tile_queries(problem));
    Division { shared: 0, per_worker: (KEYS + 3 * d + 3) * queries + 2 * KEYS * d }
}

pub(super) fn run(call: &Call<'_>, worker_parts: &mut [f32], worker_len: usize) {
    let problem = call.problem;
    let d = problem.head_channels();
    let tiles = Tiles::new(problem.queries().tokens(), problem.heads(), tile_queries(problem), 1);
    tiles.for_each(worker_parts, worker_len, |rows, heads, scratch| {
        let column = heads.start * d;
        for piece in call.queries.pieces(rows) {
            // SAFETY: tiles are disjoint in rows or heads, and the pieces of one tile in rows.
            unsafe { call.y.zero(piece.padding.clone(), column..column + d) };
            if !piece.tokens.is_empty() {
                attend(call, &piece, column, scratch);
            }
        }
    });
}

/// Attention of the queries of `piece` in the head that begins at `column`.
///
/// Scores and sums are transposed, `[keys, queries]` and `[channels, queries]`, so that softmax runs down columns.
fn attend(call: &Call<'_>, piece: &Piece, column: usize, scratch: &mut [f32]) {
    let (problem, count) = (call.problem, piece.tokens.len());
    // Columns come sixteen at a time: a decoder's single query does not pay for a whole tile of them.
    let (d, stride) = (problem.head_channels(), count.next_multiple_of(16).min(tile_queries(problem)));
    let keys = call.keys.as_slice()[piece.index];
    let seen = |i: usize| problem.seen(piece.sequence, keys, piece.tokens.start + i);

    let (scores, scratch) = scratch.split_at_mut(KEYS * stride);
    let (sums, scratch) = scratch.split_at_mut(d * stride);
    let (rows, scratch) = scratch.split_at_mut(d * stride);
    let (queries, scratch) = scratch.split_at_mut(d * stride);
    let (k_copy, scratch) = scratch.split_at_mut(KEYS * d);
    let (v_copy, statistics) = scratch.split_at_mut(KEYS * d);
    let mut softmax = OnlineSoftmax::begin(statistics, stride);
    sums.fill(0.0);
    for (i, query) in rows.chunks_exact_mut(d).take(count).enumerate() {
        call.q.load(piece.sequence.first + piece.tokens.start + i, column, query);
        query.iter_mut().for_each(|q| *q *= problem.scale());
    }
    transpose((rows, d), (queries, stride), count, d);

    // What a query sees moves forward with it, so the first and the last query bound what any of them sees.
    let (first, last) = (seen(0), seen(count - 1));
    for start in (first.start..last.end).step_by(KEYS) {
        let block = start..(start + KEYS).min(last.end);
        let key_rows = keys.first + block.start..keys.first + block.end;
        let (k, k_stride) = call.k.stage(key_rows.clone(), column, d, k_copy);
        product(
            (block.len(), count, d),
            (scores, Strides::row_major(stride)),
            false,
            (k, Strides::row_major(k_stride)),
            (queries, Strides::row_major(stride)),
        );
        let all_seen = |seen: &Range<usize>| seen.start <= block.start && block.end <= seen.end;
        let masked = !(all_seen(&first) && all_seen(&last));
        if masked {
            for i in 0..count {
                let seen = seen(i);
                for key in block.clone().filter(|key| !seen.contains(key)) {
                    scores[(key - block.start) * stride + i] = f32::NEG_INFINITY;
                }
            }
        }
        let scale = softmax.add(scores, block.len());
        scale_columns(sums, d, stride, scale);
        let (v, v_stride) = call.v.stage(key_rows, column, d, v_copy);
        if masked && !all_finite(v, v_stride, block.len(), d) {
            add_seen((sums, scores, stride), (v, v_stride), count, block, seen);
            continue;
        }
        product(
            (d, count, block.len()),
            (sums, Strides::row_major(stride)),
            true,
            (v, Strides::column_major(v_stride)),
            (scores, Strides::row_major(stride)),
        );
    }

    let scale = softmax.finish();
    scale_columns(sums, d, stride, scale);
    transpose((sums, stride), (rows, d), d, count);
    for (i, out) in rows.chunks_exact_mut(d).take(count).enumerate() {
        if seen(i).is_empty() {
            out.fill(0.0);
        }
        // SAFETY: tiles are disjoint in rows or heads, and each row of a head is written once.
        unsafe { call.y.store(piece.sequence.first + piece.tokens.start + i, column, out) };
    }
}

/// The product with values, one query at a time, over no key but those it sees: a product of zero and a NaN that it
/// does not see would be NaN.
pub(super) fn add_seen(
    (sums, weights, stride): (&mut [f32], &[f32], usize),
    (v, v_stride): (&[f32], usize),
    count: usize,
    block: Range<usize>,
    seen: impl Fn(usize) -> Range<usize>,
) {
    for i in 0..count {
        let seen = seen(i);
        for key in seen.start.max(block.start)..seen.end.min(block.end) {
            let row = key - block.start;
            let weight = weights[row * stride + i];
            for (sums, v) in sums.chunks_exact_mut(stride).zip(&v[row * v_stride..]) {
                sums[i] += weight * v;
            }
        }
    }
}
