mod backward;

pub(crate) use backward::backward_with;
pub use backward::{SpanKeyGradients, span_key_backward};

use crate::Sequences;
use crate::problem::SpanKeyProblem;
use crate::reference::Estimate;
use crate::reference::taps::{Tokens, convolve};

/// What [`span_key`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct SpanKeyInputs<'a> {
    /// `[tokens, C]`.
    pub x: &'a [f64],
    /// q `[tokens, A]`.
    pub query: &'a [f64],
    /// `[C, K]`.
    pub depthwise: &'a [f64],
    /// `[A, C]`.
    pub pointwise: &'a [f64],
    /// `[A]`.
    pub key_bias: Option<&'a [f64]>,
    /// `[sequences, (K - 1) r, C]`.
    pub history: Option<&'a [f64]>,
}

/// z = (pointwise (depthwise_K(x)) + key_bias) q, for token t of a sequence (Jiang et al. 2020, section 3.2).
pub fn span_key(
    problem: &SpanKeyProblem,
    sequences: &Sequences,
    inputs: SpanKeyInputs<'_>,
    at: (usize, usize),
) -> Vec<Estimate> {
    let mut z = span_key_unrounded(problem, sequences, inputs, at);
    z.iter_mut().for_each(|z| *z = z.stored(problem.output()));
    z
}

/// z as it is before it is stored.
pub(crate) fn span_key_unrounded(
    problem: &SpanKeyProblem,
    sequences: &Sequences,
    inputs: SpanKeyInputs<'_>,
    (sequence, t): (usize, usize),
) -> Vec<Estimate> {
    let (channels, outputs) = (problem.depthwise().channels(), problem.outputs());
    let SpanKeyInputs { query, pointwise, key_bias, .. } = inputs;
    let convolved = convolved(problem, sequences, inputs, (sequence, t));
    let row = sequences.as_slice()[sequence].first + t;
    (0..outputs)
        .map(|a| {
            let terms = convolved.iter().copied().zip(pointwise[a * channels..][..channels].iter().copied());
            let key = Estimate::sum(key_bias.map_or(0.0, |bias| bias[a]), terms);
            key * query[row * outputs + a]
        })
        .collect()
}

/// depthwise_K(x) of one token.
fn convolved(
    problem: &SpanKeyProblem,
    sequences: &Sequences,
    inputs: SpanKeyInputs<'_>,
    at: (usize, usize),
) -> Vec<Estimate> {
    let (conv, SpanKeyInputs { x, depthwise, history, .. }) = (problem.depthwise(), inputs);
    let filter = |c: usize| &depthwise[c * conv.window().width()..];
    convolve(conv, sequences, Tokens { x, history }, None, at, |c, in_range| {
        filter(c)[in_range].iter().copied().map(Estimate::exact).collect()
    })
}
