mod backward;

pub use backward::{AttentionGradients, attention_backward};

use std::ops::Range;

use crate::Sequences;
use crate::problem::AttentionProblem;
use crate::reference::Estimate;
use crate::reference::estimate::softmax;

/// What [`attention`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// `[queries, H D]`.
    pub q: &'a [f64],
    /// `[keys, H D]`.
    pub k: &'a [f64],
    /// `[keys, H D]`.
    pub v: &'a [f64],
}

/// y\[h\] = sum_i softmax_i(q\[h\] k_i\[h\] scale + mask) v_i\[h\], for query t of a sequence (Vaswani et al. 2017,
/// equation 1).
pub fn attention(
    problem: &AttentionProblem,
    queries: &Sequences,
    keys: &Sequences,
    inputs: AttentionInputs<'_>,
    (sequence, t): (usize, usize),
) -> Vec<Estimate> {
    let (channels, width) = (problem.channels(), problem.head_channels());
    let mut y = Vec::with_capacity(channels);
    for h in 0..problem.heads() {
        let (seen, weights) = weights(problem, queries, keys, inputs, (sequence, t, h));
        for d in 0..width {
            let v = |i| inputs.v[i * channels + h * width + d];
            let terms = weights.iter().copied().zip(seen.clone().map(v));
            y.push(Estimate::sum(0.0, terms).stored(problem.dtype()));
        }
    }
    y
}

/// The rows of the keys that query t of a sequence sees, and their weights in head h.
fn weights(
    problem: &AttentionProblem,
    queries: &Sequences,
    keys: &Sequences,
    inputs: AttentionInputs<'_>,
    (sequence, t, h): (usize, usize, usize),
) -> (Range<usize>, Vec<Estimate>) {
    let (channels, width) = (problem.channels(), problem.head_channels());
    let (queries, keys) = (queries.as_slice()[sequence], keys.as_slice()[sequence]);
    let seen = problem.seen(queries, keys, t);
    let seen = keys.first + seen.start..keys.first + seen.end;
    let head = |tensor: &[f64], row: usize| tensor[row * channels + h * width..][..width].to_vec();
    let q: Vec<_> = head(inputs.q, queries.first + t).into_iter().map(Estimate::exact).collect();
    let score =
        |row| Estimate::sum(0.0, q.iter().copied().zip(head(inputs.k, row))) * f64::from(problem.scale());
    let scores: Vec<Estimate> = seen.clone().map(score).collect();
    (seen, softmax(&scores))
}
