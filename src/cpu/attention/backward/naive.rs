//! The gradients as they are written down: all weights, and the gradients of all scores.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::attention::all_finite;
use crate::cpu::attention::backward::{Call, mean_gradient, seen_by};
use crate::cpu::product::{Strides, product};
use crate::cpu::rows::Sink;
use crate::cpu::scratch::Division;
use crate::cpu::softmax::softmax_row;
use crate::problem::AttentionBackwardProblem;
use crate::{DType, Sequence, Sequences};

/// Queries or keys that a thread takes at a time.
const ROWS: usize = 64;

/// As much as the sequences that need most.
pub(super) fn scratch(problem: &AttentionBackwardProblem, queries: &Sequences, keys: &Sequences) -> Division {
    let pairs = queries.as_slice().iter().zip(keys.as_slice());
    let sum = |sizes: [usize; 8]| sizes.into_iter().fold(0, usize::saturating_add);
    let shared = pairs.map(|(q, k)| sum(sizes(problem, *q, *k))).max().unwrap_or(0);
    Division { shared, per_worker: 0 }
}

/// Numbers of weights and of the gradients of scores, `[H, Tq, Tk]`, of a gradient, `[H, Tq or Tk, D]`, and of q, k, v, y
/// and dy where they are not f32.
fn sizes(problem: &AttentionBackwardProblem, queries: Sequence, keys: Sequence) -> [usize; 8] {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    let channels = forward.channels();
    let (q, k) = (queries.length, keys.length);
    let copy = if forward.dtype() == DType::F32 { 0 } else { channels };
    // Weights are the one tensor that the problem does not vouch for.
    let weights = forward.heads().saturating_mul(q).saturating_mul(k);
    let (weights, scores) = match (wanted.q || wanted.k, wanted.v) {
        (true, _) => (weights, weights),
        (false, true) => (weights, 0),
        (false, false) => (0, 0),
    };
    [weights, scores, q.max(k) * channels, q * copy, k * copy, k * copy, q * copy, q * copy]
}

pub(super) fn run(problem: &AttentionBackwardProblem, call: &Call<'_>, scratch: &mut [f32]) {
    let channels = call.problem.channels();
    let rows = |sequence: Sequence| sequence.first..sequence.first + sequence.length;
    for (&queries, &keys) in call.queries.as_slice().iter().zip(call.keys.as_slice()) {
        if queries.length == 0 || keys.length == 0 {
            for (out, sequence) in [(&call.dq, queries), (&call.dk, keys), (&call.dv, keys)] {
                let Some(out) = out else { continue };
                // SAFETY: no other thread writes.
                unsafe { out.zero(rows(sequence), 0..channels) };
            }
            continue;
        }
        let [weights, scores, outputs, q, k, v, y, dy] = sizes(problem, queries, keys);
        let (weights, scratch) = scratch.split_at_mut(weights);
        let (scores, scratch) = scratch.split_at_mut(scores);
        let (outputs, scratch) = scratch.split_at_mut(outputs);
        let (q_copy, scratch) = scratch.split_at_mut(q);
        let (k_copy, scratch) = scratch.split_at_mut(k);
        let (v_copy, scratch) = scratch.split_at_mut(v);
        let (y_copy, scratch) = scratch.split_at_mut(y);
        let sequence = OneSequence {
            call,
            queries,
            keys,
            q: call.q.stage(rows(queries), 0, channels, q_copy),
            k: call.k.stage(rows(keys), 0, channels, k_copy),
            v: call.v.stage(rows(keys), 0, channels, v_copy),
            y: call.y.stage(rows(queries), 0, channels, y_copy),
            dy: call.dy.stage(rows(queries), 0, channels, &mut scratch[..dy]),
        };
        sequence.gradients(weights, scores, outputs);
    }
}

/// Rows of tokens and their stride.
type Staged<'a> = (&'a [f32], usize);

/// The tokens of one sequence.
struct OneSequence<'a> {
    call: &'a Call<'a>,
    queries: Sequence,
    keys: Sequence,
    q: Staged<'a>,
    k: Staged<'a>,
    v: Staged<'a>,
    y: Staged<'a>,
    dy: Staged<'a>,
}

impl OneSequence<'_> {
    fn gradients(&self, weights: &mut [f32], scores: &mut [f32], outputs: &mut [f32]) {
        let (d, scale) = (self.call.problem.head_channels(), self.call.problem.scale());
        let (queries, keys) = (self.queries.length, self.keys.length);
        let of_head = |matrix: &[f32], h: usize| h * queries * keys..matrix.len();
        each_block(weights, queries, keys, |h, rows, weights| self.weights(h, rows, weights));
        let weights = &*weights;
        if self.call.needs_scores() {
            each_block(scores, queries, keys, |h, rows, scores| {
                let first = h * queries + rows.start;
                self.scores(h, rows, &weights[first * keys..], scores);
            });
        }
        let scores = &*scores;
        if let Some(dv) = &self.call.dv {
            let outputs = &mut outputs[..self.call.problem.heads() * keys * d];
            each_block(outputs, keys, d, |h, rows, outputs| {
                self.of_keys(h, rows, (&weights[of_head(weights, h)], self.dy), outputs);
            });
            self.store(dv, self.keys, outputs, 1.0);
        }
        if let Some(dk) = &self.call.dk {
            let outputs = &mut outputs[..self.call.problem.heads() * keys * d];
            each_block(outputs, keys, d, |h, rows, outputs| {
                self.of_keys(h, rows, (&scores[of_head(scores, h)], self.q), outputs);
            });
            self.store(dk, self.keys, outputs, scale);
        }
        if let Some(dq) = &self.call.dq {
            let outputs = &mut outputs[..self.call.problem.heads() * queries * d];
            each_block(outputs, queries, d, |h, rows, outputs| {
                self.of_queries(h, rows, &scores[of_head(scores, h)], outputs);
            });
            self.store(dq, self.queries, outputs, scale);
        }
    }

    fn weights(&self, h: usize, rows: Range<usize>, weights: &mut [f32]) {
        self.product_of_channels(h, rows.clone(), (self.q, self.k), weights);
        let scale = self.call.problem.scale();
        for (t, weights) in rows.zip(weights.chunks_exact_mut(self.keys.length)) {
            let seen = self.seen(t);
            weights[..seen.start].fill(0.0);
            weights[seen.end..].fill(0.0);
            let weights = &mut weights[seen];
            weights.iter_mut().for_each(|weight| *weight *= scale);
            softmax_row(weights);
        }
    }

    /// The gradients of scores, from the weights on.
    fn scores(&self, h: usize, rows: Range<usize>, weights: &[f32], scores: &mut [f32]) {
        let (d, keys) = (self.call.problem.head_channels(), self.keys.length);
        self.product_of_channels(h, rows.clone(), (self.dy, self.v), scores);
        for ((t, scores), weights) in rows.zip(scores.chunks_exact_mut(keys)).zip(weights.chunks_exact(keys))
        {
            let of_head = |(data, stride): Staged<'_>| t * stride + h * d..data.len();
            let mean = mean_gradient(&self.dy.0[of_head(self.dy)][..d], &self.y.0[of_head(self.y)][..d]);
            let seen = self.seen(t);
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            for (score, weight) in scores[seen.clone()].iter_mut().zip(&weights[seen]) {
                *score = weight * (*score - mean);
            }
        }
    }

    /// out `[rows, Tk]`: the products of some rows of a tensor of queries and all of one of keys.
    fn product_of_channels(
        &self,
        h: usize,
        rows: Range<usize>,
        ((a, a_stride), (b, b_stride)): (Staged<'_>, Staged<'_>),
        out: &mut [f32],
    ) {
        let (d, keys) = (self.call.problem.head_channels(), self.keys.length);
        product(
            (rows.len(), keys, d),
            (out, Strides::row_major(keys)),
            false,
            (&a[rows.start * a_stride + h * d..], Strides::row_major(a_stride)),
            (&b[h * d..], Strides::column_major(b_stride)),
        );
    }

    /// out\[i\] = sum of scores\[i, n\] k\[n\] over keys, for some queries i.
    fn of_queries(&self, h: usize, rows: Range<usize>, scores: &[f32], out: &mut [f32]) {
        let (d, keys) = (self.call.problem.head_channels(), self.keys.length);
        let (k, k_stride) = self.k;
        let (k, scores) = (&k[h * d..], &scores[rows.start * keys..]);
        if !all_finite(k, k_stride, keys, d) {
            // A product of zero and a NaN that is not seen would be NaN: no key counts but those that are seen.
            out.fill(0.0);
            for ((t, scores), out) in rows.zip(scores.chunks_exact(keys)).zip(out.chunks_exact_mut(d)) {
                for n in self.seen(t) {
                    add(scores[n], &k[n * k_stride..], out);
                }
            }
            return;
        }
        product(
            (rows.len(), d, keys),
            (out, Strides::row_major(d)),
            false,
            (scores, Strides::row_major(keys)),
            (k, Strides::row_major(k_stride)),
        );
    }

    /// out\[n\] = sum of matrix\[i, n\] x\[i\] over queries, for some keys n.
    fn of_keys(
        &self,
        h: usize,
        rows: Range<usize>,
        (matrix, (x, x_stride)): (&[f32], Staged<'_>),
        out: &mut [f32],
    ) {
        let (d, queries, keys) = (self.call.problem.head_channels(), self.queries.length, self.keys.length);
        let x = &x[h * d..];
        if !all_finite(x, x_stride, queries, d) {
            out.fill(0.0);
            for (n, out) in rows.zip(out.chunks_exact_mut(d)) {
                for i in seen_by(self.call.problem, self.queries, self.keys, n) {
                    add(matrix[i * keys + n], &x[i * x_stride..], out);
                }
            }
            return;
        }
        product(
            (rows.len(), d, queries),
            (out, Strides::row_major(d)),
            false,
            (&matrix[rows.start..], Strides::column_major(keys)),
            (x, Strides::row_major(x_stride)),
        );
    }

    /// Stores a gradient `[H, T, D]` times a factor.
    fn store(&self, out: &Sink<'_>, sequence: Sequence, gradient: &mut [f32], factor: f32) {
        let d = self.call.problem.head_channels();
        each_block(gradient, sequence.length, d, |h, rows, gradient| {
            gradient.iter_mut().for_each(|x| *x *= factor);
            for (t, gradient) in rows.zip(gradient.chunks_exact(d)) {
                // SAFETY: blocks are disjoint in rows or heads, and each row of a head is written once.
                unsafe { out.store(sequence.first + t, h * d, gradient) };
            }
        });
    }

    fn seen(&self, t: usize) -> Range<usize> {
        self.call.problem.seen(self.queries, self.keys, t)
    }
}

/// Calls `body` with every head and range of rows, and its part of `data` `[H, length, width]`, on all threads.
fn each_block(
    data: &mut [f32],
    length: usize,
    width: usize,
    body: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
) {
    data.par_chunks_exact_mut(length * width).enumerate().for_each(|(h, data)| {
        data.par_chunks_mut(ROWS * width).enumerate().for_each(|(block, data)| {
            let start = block * ROWS;
            body(h, start..(start + ROWS).min(length), data);
        });
    });
}

/// Adds a factor times `x` to `sum`.
fn add(factor: f32, x: &[f32], sum: &mut [f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}
