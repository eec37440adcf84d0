//! Attention as it is written down: all scores, then softmax, then the product with the values.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::attention::{Call, all_finite};
use crate::cpu::product::{Strides, product};
use crate::cpu::scratch::Division;
use crate::cpu::softmax::softmax_row;
use crate::problem::AttentionProblem;
use crate::{DType, Sequence, Sequences};

/// Queries that a thread takes at a time.
const QUERIES: usize = 64;

/// As much as the sequences that need most.
pub(super) fn scratch(problem: &AttentionProblem, queries: &Sequences, keys: &Sequences) -> Division {
    let pairs = queries.as_slice().iter().zip(keys.as_slice());
    let sum = |sizes: [usize; 5]| sizes.into_iter().fold(0, usize::saturating_add);
    let shared = pairs.map(|(q, k)| sum(sizes(problem, *q, *k))).max().unwrap_or(0);
    Division { shared, per_worker: 0 }
}

/// Numbers of scores `[H, Tq, Tk]`, outputs `[H, Tq, D]`, and of q, k and v where they are not f32.
fn sizes(problem: &AttentionProblem, queries: Sequence, keys: Sequence) -> [usize; 5] {
    let channels = problem.channels();
    let (q, k) = (queries.length, keys.length);
    let copy = if problem.dtype() == DType::F32 { 0 } else { channels };
    // Scores are the one tensor that the problem does not vouch for.
    let scores = problem.heads().saturating_mul(q).saturating_mul(k);
    [scores, q * channels, q * copy, k * copy, k * copy]
}

pub(super) fn run(call: &Call<'_>, scratch: &mut [f32]) {
    let problem = call.problem;
    let channels = problem.channels();
    for piece in call.queries.pieces(0..problem.queries().tokens()) {
        // SAFETY: no other thread writes yet.
        unsafe { call.y.zero(piece.padding, 0..channels) };
    }
    for (&queries, &keys) in call.queries.as_slice().iter().zip(call.keys.as_slice()) {
        if queries.length == 0 {
            continue;
        }
        let [scores, outputs, q, k, v] = sizes(problem, queries, keys);
        let (scores, scratch) = scratch.split_at_mut(scores);
        let (outputs, scratch) = scratch.split_at_mut(outputs);
        let (q_copy, scratch) = scratch.split_at_mut(q);
        let (k_copy, scratch) = scratch.split_at_mut(k);
        let rows = |sequence: Sequence| sequence.first..sequence.first + sequence.length;
        let sequence = OneSequence {
            call,
            queries,
            keys,
            q: call.q.stage(rows(queries), 0, channels, q_copy),
            k: call.k.stage(rows(keys), 0, channels, k_copy),
            v: call.v.stage(rows(keys), 0, channels, &mut scratch[..v]),
        };
        sequence.attend(scores, outputs);
    }
}

/// The tokens of one sequence and their strides.
struct OneSequence<'a> {
    call: &'a Call<'a>,
    queries: Sequence,
    keys: Sequence,
    q: (&'a [f32], usize),
    k: (&'a [f32], usize),
    v: (&'a [f32], usize),
}

impl OneSequence<'_> {
    fn attend(&self, scores: &mut [f32], outputs: &mut [f32]) {
        let (d, keys) = (self.call.problem.head_channels(), self.keys.length);
        self.each_block(scores, keys, |h, rows, scores| self.scores(h, rows, scores));
        self.each_block(scores, keys, |_, rows, scores| self.softmax(rows, scores));
        let scores = &*scores;
        self.each_block(outputs, d, |h, rows, outputs| {
            let first = h * self.queries.length + rows.start;
            self.outputs(h, rows, &scores[first * keys..], outputs);
        });
        self.each_block(outputs, d, |h, rows, outputs| {
            for (t, output) in rows.zip(outputs.chunks_exact(d)) {
                // SAFETY: blocks are disjoint in rows or heads, and each row of a head is written once.
                unsafe { self.call.y.store(self.queries.first + t, h * d, output) };
            }
        });
    }

    /// Calls `body` with every head and range of queries, and its part of `data` `[H, Tq, width]`, on all threads.
    fn each_block(
        &self,
        data: &mut [f32],
        width: usize,
        body: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
    ) {
        if width == 0 {
            return;
        }
        let length = self.queries.length;
        data.par_chunks_exact_mut(length * width).enumerate().for_each(|(h, data)| {
            data.par_chunks_mut(QUERIES * width).enumerate().for_each(|(block, data)| {
                let start = block * QUERIES;
                body(h, start..(start + QUERIES).min(length), data);
            });
        });
    }

    fn scores(&self, h: usize, rows: Range<usize>, scores: &mut [f32]) {
        let (d, keys) = (self.call.problem.head_channels(), self.keys.length);
        let ((q, q_stride), (k, k_stride)) = (self.q, self.k);
        product(
            (rows.len(), keys, d),
            (scores, Strides::row_major(keys)),
            false,
            (&q[rows.start * q_stride + h * d..], Strides::row_major(q_stride)),
            (&k[h * d..], Strides::column_major(k_stride)),
        );
        let scale = self.call.problem.scale();
        scores.iter_mut().for_each(|score| *score *= scale);
    }

    fn softmax(&self, rows: Range<usize>, scores: &mut [f32]) {
        for (t, scores) in rows.zip(scores.chunks_exact_mut(self.keys.length)) {
            let seen = self.seen(t);
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            softmax_row(&mut scores[seen]);
        }
    }

    fn outputs(&self, h: usize, rows: Range<usize>, weights: &[f32], outputs: &mut [f32]) {
        let (d, keys) = (self.call.problem.head_channels(), self.keys.length);
        let (v, v_stride) = self.v;
        if keys == 0 {
            return outputs.fill(0.0);
        }
        let v = &v[h * d..];
        if !all_finite(v, v_stride, keys, d) {
            // A product of zero and a NaN that is not seen would be NaN: no key counts but those that are seen.
            outputs.fill(0.0);
            for ((t, weights), output) in
                rows.zip(weights.chunks_exact(keys)).zip(outputs.chunks_exact_mut(d))
            {
                for key in self.seen(t) {
                    for (output, v) in output.iter_mut().zip(&v[key * v_stride..]) {
                        *output += weights[key] * v;
                    }
                }
            }
            return;
        }
        product(
            (rows.len(), d, keys),
            (outputs, Strides::row_major(d)),
            false,
            (weights, Strides::row_major(keys)),
            (v, Strides::row_major(v_stride)),
        );
    }

    fn seen(&self, t: usize) -> Range<usize> {
        self.call.problem.seen(self.queries, self.keys, t)
    }
}
