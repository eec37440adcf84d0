//! The gradients block by block (Dao et al. 2022, algorithm 4): neither weights nor gradients of scores leave the cache.
//!
//! A first pass goes by tiles of queries: it finds the largest score, the sum of exponentials and the mean gradient of
//! each, which is all that is kept, and then dq. A second goes by tiles of keys, over the queries that see them, for
//! dk and dv. So every sum is formed by one thread, in the order of its terms. With every gradient wanted, a query and
//! a key that it sees cost 8 products of D, of which the floor is 5: scores are made three times, and dy v twice.
//! (Where a tile of queries sees no more than a block of keys, as it does through a local mask, scores are made
//! twice.)

use std::ops::Range;

use crate::cpu::arch;
use crate::cpu::attention::all_finite;
use crate::cpu::attention::backward::{Call, mean_gradient, seen_by};
use crate::cpu::attention::fused::{KEYS as BLOCK, add_seen, tile_queries as tile_tokens};
use crate::cpu::product::{Strides, product};
use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::softmax::{Along, OnlineSoftmax, scale_columns, weigh};
use crate::cpu::tiles::Tiles;
use crate::cpu::transpose::transpose;
use crate::problem::{AttentionBackwardProblem, AttentionProblem};
use crate::sequences::Piece;

/// What is kept of each query and head: the largest score, one over the sum of exponentials, the mean gradient.
const STATISTICS: usize = 3;

/// The statistics `[3, H, queries]`. For each worker, weights and gradients of scores of a block, two tiles of tokens as
/// columns, two of sums, one of rows, copies of two blocks of tokens; maximum, sum, factor and mean gradient of each
/// query.
pub(super) fn scratch(problem: &AttentionBackwardProblem) -> Division {
    let problem = problem.forward();
    let (d, tile) = (problem.head_channels(), tile_tokens(problem));
    let statistics = STATISTICS * problem.heads() * problem.queries().tokens();
    Division { shared: statistics, per_worker: 2 * BLOCK * (tile + d) + (5 * d + 4) * tile }
}

pub(super) fn run(call: &Call<'_>, shared: &mut [f32], (worker_parts, worker_len): (&mut [f32], usize)) {
    let problem = call.problem;
    let (query_rows, key_rows) = (problem.queries().tokens(), problem.keys().tokens());
    let kept = Sink::of(shared, query_rows);
    let tiles = Tiles::new(query_rows, problem.heads(), tile_tokens(problem), 1);
    tiles.for_each(worker_parts, worker_len, |rows, heads, scratch| {
        for piece in call.queries.pieces(rows).filter(|piece| !piece.tokens.is_empty()) {
            of_queries(call, &piece, heads.start, &kept, &mut Memory::of(problem, scratch));
        }
    });
    if call.dk.is_none() && call.dv.is_none() {
        return;
    }
    let kept = &*shared;
    let tiles = Tiles::new(key_rows, problem.heads(), tile_tokens(problem), 1);
    tiles.for_each(worker_parts, worker_len, |rows, heads, scratch| {
        for piece in call.keys.pieces(rows).filter(|piece| !piece.tokens.is_empty()) {
            of_keys(call, &piece, heads.start, kept, &mut Memory::of(problem, scratch));
        }
    });
}

/// The scratch memory of a worker.
///
/// The tokens of a tile are columns, those of a block, which they see or are seen by, rows: of weights and gradients
/// `[block, tile]`, with the tile in the lanes.
struct Memory<'a> {
    stride: usize,
    d: usize,
    weights: &'a mut [f32],
    scores: &'a mut [f32],
    /// Tokens of the tile, `[d, tile]`.
    columns: [&'a mut [f32]; 2],
    /// Their gradients, `[d, tile]`.
    sums: [&'a mut [f32]; 2],
    rows: &'a mut [f32],
    /// Tokens of the block, where they are not f32.
    copies: [&'a mut [f32]; 2],
    statistics: &'a mut [f32],
}

impl<'a> Memory<'a> {
    fn of(problem: &AttentionProblem, scratch: &'a mut [f32]) -> Self {
        let (d, stride) = (problem.head_channels(), tile_tokens(problem));
        let (weights, scratch) = scratch.split_at_mut(BLOCK * stride);
        let (scores, scratch) = scratch.split_at_mut(BLOCK * stride);
        let (first, scratch) = scratch.split_at_mut(d * stride);
        let (second, scratch) = scratch.split_at_mut(d * stride);
        let (first_sums, scratch) = scratch.split_at_mut(d * stride);
        let (second_sums, scratch) = scratch.split_at_mut(d * stride);
        let (rows, scratch) = scratch.split_at_mut(d * stride);
        let (first_copy, scratch) = scratch.split_at_mut(BLOCK * d);
        let (second_copy, statistics) = scratch.split_at_mut(BLOCK * d);
        let (columns, sums) = ([first, second], [first_sums, second_sums]);
        Memory {
            stride,
            d,
            weights,
            scores,
            columns,
            sums,
            rows,
            copies: [first_copy, second_copy],
            statistics,
        }
    }

    /// Loads `count` tokens of a tile as columns, times a factor; the rows they were are left in `rows`.
    fn load(
        &mut self,
        at: usize,
        tokens: Source<'_>,
        first: usize,
        count: usize,
        column: usize,
        factor: f32,
    ) {
        for (i, row) in self.rows.chunks_exact_mut(self.d).take(count).enumerate() {
            tokens.load(first + i, column, row);
            row.iter_mut().for_each(|x| *x *= factor);
        }
        transpose((self.rows, self.d), (self.columns[at], self.stride), count, self.d);
    }

    /// Stores sums, times a factor, as `count` rows.
    fn store(&mut self, at: usize, out: &Sink<'_>, first: usize, count: usize, column: usize, factor: f32) {
        transpose((self.sums[at], self.stride), (self.rows, self.d), self.d, count);
        for (i, row) in self.rows.chunks_exact_mut(self.d).take(count).enumerate() {
            row.iter_mut().for_each(|x| *x *= factor);
            // SAFETY: tiles are disjoint in rows or heads, and each row of a head is written once.
            unsafe { out.store(first + i, column, row) };
        }
    }
}

/// The gradients of the queries of `piece`, and what is kept of them.
fn of_queries(call: &Call<'_>, piece: &Piece, head: usize, kept: &Sink<'_>, memory: &mut Memory<'_>) {
    let (problem, count) = (call.problem, piece.tokens.len());
    let (d, stride) = (memory.d, memory.stride);
    let (first, column) = (piece.sequence.first + piece.tokens.start, head * d);
    let keys = call.keys.as_slice()[piece.index];
    let sees = |i: usize| problem.seen(piece.sequence, keys, piece.tokens.start + i);
    let tile = Tile { d, stride, count, first_other: keys.first, sees: &sees };

    memory.load(0, call.q, first, count, column, problem.scale());
    if call.needs_scores() {
        memory.load(1, call.dy, first, count, column, 1.0);
        let means = &mut memory.statistics[3 * stride..];
        let y = &mut memory.copies[0][..d];
        for (i, (mean, dy)) in means.iter_mut().zip(memory.rows.chunks_exact(d)).take(count).enumerate() {
            call.y.load(first + i, column, y);
            *mean = mean_gradient(dy, y);
        }
    }
    let (statistics, means) = memory.statistics.split_at_mut(3 * stride);
    let mut softmax = OnlineSoftmax::begin(statistics, stride);
    for block in tile.blocks() {
        let k = call.k.stage(block.rows.clone(), column, d, memory.copies[0]);
        tile.products(&block, k, memory.columns[0], memory.weights);
        tile.mask(&block, memory.weights, f32::NEG_INFINITY);
        softmax.add(memory.weights, block.len());
    }
    let (base, scale) = softmax.statistics();
    let all = [base, scale, means];
    let kept_of = if call.needs_scores() { &all[..] } else { &all[..2] };
    for (which, values) in kept_of.iter().enumerate() {
        // SAFETY: tiles are disjoint in rows or heads.
        unsafe { kept.store(which * problem.heads() + head, first, &values[..count]) };
    }

    let Some(dq) = &call.dq else { return };
    let one_block = tile.blocks().count() == 1;
    memory.sums[0].fill(0.0);
    for block in tile.blocks() {
        let [k_copy, v_copy] = &mut memory.copies;
        let k = call.k.stage(block.rows.clone(), column, d, k_copy);
        let v = call.v.stage(block.rows.clone(), column, d, v_copy);
        if one_block {
            // The exponentials are still there.
            scale_columns(memory.weights, block.len(), stride, scale);
        } else {
            tile.products(&block, k, memory.columns[0], memory.weights);
            weigh(memory.weights, block.len(), stride, Along::Columns, base, scale);
        }
        tile.products(&block, v, memory.columns[1], memory.scores);
        score_gradients(memory.scores, memory.weights, block.len(), stride, Along::Columns, means);
        tile.mask(&block, memory.scores, 0.0);
        tile.add(&block, memory.scores, k, memory.sums[0]);
    }
    memory.store(0, dq, first, count, column, problem.scale());
}

/// The gradients of the keys and values of `piece`, from what was `kept` of the queries.
fn of_keys(call: &Call<'_>, piece: &Piece, head: usize, kept: &[f32], memory: &mut Memory<'_>) {
    let (problem, count) = (call.problem, piece.tokens.len());
    let (d, stride) = (memory.d, memory.stride);
    let (first, column) = (piece.sequence.first + piece.tokens.start, head * d);
    let queries = call.queries.as_slice()[piece.index];
    let sees = |i: usize| seen_by(problem, queries, piece.sequence, piece.tokens.start + i);
    let tile = Tile { d, stride, count, first_other: queries.first, sees: &sees };

    memory.load(0, call.k, first, count, column, problem.scale());
    if call.dk.is_some() {
        memory.load(1, call.v, first, count, column, 1.0);
    }
    memory.sums.iter_mut().for_each(|sums| sums.fill(0.0));
    for block in tile.blocks() {
        let kept = |which: usize| {
            let row = which * problem.heads() + head;
            &kept[row * problem.queries().tokens() + block.rows.start..][..block.len()]
        };
        let [q_copy, dy_copy] = &mut memory.copies;
        let q = call.q.stage(block.rows.clone(), column, d, q_copy);
        let dy = call.dy.stage(block.rows.clone(), column, d, dy_copy);
        tile.products(&block, q, memory.columns[0], memory.weights);
        weigh(memory.weights, block.len(), stride, Along::Rows, kept(0), kept(1));
        tile.mask(&block, memory.weights, 0.0);
        if call.dv.is_some() {
            tile.add(&block, memory.weights, dy, memory.sums[1]);
        }
        if call.dk.is_some() {
            tile.products(&block, dy, memory.columns[1], memory.scores);
            score_gradients(memory.scores, memory.weights, block.len(), stride, Along::Rows, kept(2));
            tile.mask(&block, memory.scores, 0.0);
            tile.add(&block, memory.scores, q, memory.sums[0]);
        }
    }
    if let Some(dk) = &call.dk {
        memory.store(0, dk, first, count, column, problem.scale());
    }
    if let Some(dv) = &call.dv {
        memory.store(1, dv, first, count, column, 1.0);
    }
}

/// A tile of queries and the keys that they see, or of keys and the queries that see them.
struct Tile<'a> {
    d: usize,
    stride: usize,
    count: usize,
    /// Row of the first token of the other sequence.
    first_other: usize,
    /// The tokens of the other sequence that token i of the tile sees, or is seen by. They move forward with it.
    sees: &'a dyn Fn(usize) -> Range<usize>,
}

/// Some tokens of the other sequence.
struct Block {
    tokens: Range<usize>,
    rows: Range<usize>,
    /// Whether some token of the tile does not see all of them.
    masked: bool,
}

impl Block {
    fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl Tile<'_> {
    /// All that any token of the tile sees.
    fn blocks(&self) -> impl Iterator<Item = Block> {
        // What a token sees moves forward with it, so the first and the last bound what any of them sees.
        let (first, last) = ((self.sees)(0), (self.sees)(self.count - 1));
        (first.start..last.end).step_by(BLOCK).map(move |start| {
            let tokens = start..(start + BLOCK).min(last.end);
            let all_seen = |seen: &Range<usize>| seen.start <= tokens.start && tokens.end <= seen.end;
            Block {
                masked: !(all_seen(&first) && all_seen(&last)),
                rows: self.first_other + tokens.start..self.first_other + tokens.end,
                tokens,
            }
        })
    }

    /// out `[block, tile]` = the products of the tokens of a block and of the tile.
    fn products(
        &self,
        block: &Block,
        (others, other_stride): (&[f32], usize),
        tokens: &[f32],
        out: &mut [f32],
    ) {
        product(
            (block.len(), self.count, self.d),
            (out, Strides::row_major(self.stride)),
            false,
            (others, Strides::row_major(other_stride)),
            (tokens, Strides::row_major(self.stride)),
        );
    }

    /// Replaces what is of tokens that do not see one another.
    fn mask(&self, block: &Block, matrix: &mut [f32], by: f32) {
        if !block.masked {
            return;
        }
        for i in 0..self.count {
            let seen = (self.sees)(i);
            for other in block.tokens.clone().filter(|other| !seen.contains(other)) {
                matrix[(other - block.tokens.start) * self.stride + i] = by;
            }
        }
    }

    /// Adds the sum of the tokens of a block, times `matrix` `[block, tile]`, to `sums` `[d, tile]`.
    fn add(&self, block: &Block, matrix: &[f32], (others, other_stride): (&[f32], usize), sums: &mut [f32]) {
        if block.masked && !all_finite(others, other_stride, block.len(), self.d) {
            let (others, tokens) = ((others, other_stride), block.tokens.clone());
            return add_seen((sums, matrix, self.stride), others, self.count, tokens, self.sees);
        }
        product(
            (self.d, self.count, block.len()),
            (sums, Strides::row_major(self.stride)),
            true,
            (others, Strides::column_major(other_stride)),
            (matrix, Strides::row_major(self.stride)),
        );
    }
}

/// Replaces dy v by weight (dy v - mean), the gradient of a score: `rows` rows of `stride` numbers, and a mean for each
/// row or column.
fn score_gradients(
    products: &mut [f32],
    weights: &[f32],
    rows: usize,
    stride: usize,
    along: Along,
    means: &[f32],
) {
    arch().dispatch(
        #[inline(always)]
        || {
            let matrices = products.chunks_exact_mut(stride).zip(weights.chunks_exact(stride));
            for (i, (products, weights)) in matrices.take(rows).enumerate() {
                match along {
                    Along::Rows => {
                        let mean = means[i];
                        for (x, weight) in products.iter_mut().zip(weights) {
                            *x = weight * (*x - mean);
                        }
                    }
                    Along::Columns => {
                        for ((x, weight), mean) in products.iter_mut().zip(weights).zip(means) {
                            *x = weight * (*x - mean);
                        }
                    }
                }
            }
        },
    );
}
