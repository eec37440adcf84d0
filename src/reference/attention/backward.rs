use crate::Sequences;
use crate::problem::AttentionBackwardProblem;
use crate::reference::attention::weights;
use crate::reference::estimate::Sum;
use crate::reference::{AttentionInputs, Estimate};

/// The gradients of an [`attention`](crate::reference::attention).
#[derive(Clone, Debug)]
pub struct AttentionGradients {
    /// `[queries, H D]`.
    pub q: Vec<Estimate>,
    /// `[keys, H D]`.
    pub k: Vec<Estimate>,
    /// `[keys, H D]`.
    pub v: Vec<Estimate>,
}

/// All gradients of [`attention`](crate::reference::attention) from its output y, as it was stored, and dy, both
/// `[queries, H D]`, wanted or not, by the formulas of [`AttentionBackwardProblem`].
pub fn attention_backward(
    problem: &AttentionBackwardProblem,
    queries: &Sequences,
    keys: &Sequences,
    inputs: AttentionInputs<'_>,
    y: &[f64],
    dy: &[f64],
) -> AttentionGradients {
    let forward = problem.forward();
    let (channels, width) = (forward.channels(), forward.head_channels());
    let dot = |a: &[f64], row_a: usize, b: &[f64], row_b: usize, h: usize| {
        let of = |row: usize| row * channels + h * width..row * channels + (h + 1) * width;
        let terms = a[of(row_a)].iter().zip(&b[of(row_b)]);
        Estimate::sum(0.0, terms.map(|(&a, &b)| (Estimate::exact(a), b)))
    };
    let sums = |tokens: usize| vec![Sum::default(); tokens * channels];
    let mut dq = sums(forward.queries().tokens());
    let (mut dk, mut dv) = (sums(forward.keys().tokens()), sums(forward.keys().tokens()));
    for (s, sequence) in queries.as_slice().iter().enumerate() {
        for t in 0..sequence.length {
            let row = sequence.first + t;
            for h in 0..forward.heads() {
                let (seen, weights) = weights(forward, queries, keys, inputs, (s, t, h));
                let mean = dot(dy, row, y, row, h);
                for (key, weight) in seen.zip(weights) {
                    let ds = Estimate::dot([(weight, dot(dy, row, inputs.v, key, h).minus(mean))]);
                    for c in h * width..(h + 1) * width {
                        let (query_at, key_at) = (row * channels + c, key * channels + c);
                        dv[key_at].add(weight, dy[query_at]);
                        dq[query_at].add(ds, inputs.k[key_at]);
                        dk[key_at].add(ds, inputs.q[query_at]);
                    }
                }
            }
        }
    }
    let scale = f64::from(forward.scale());
    let scaled = |sum: Sum| (sum.estimate() * scale).stored(forward.dtype());
    AttentionGradients {
        q: dq.into_iter().map(scaled).collect(),
        k: dk.into_iter().map(scaled).collect(),
        v: dv.into_iter().map(|sum| sum.estimate().stored(forward.dtype())).collect(),
    }
}
