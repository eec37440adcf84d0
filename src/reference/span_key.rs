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
    let conv = problem.depthwise();
    let (width, channels, outputs) = (conv.window().width(), conv.channels(), problem.outputs());
    let SpanKeyInputs { x, query, depthwise, pointwise, key_bias, history } = inputs;
    let convolved = convolve(conv, sequences, Tokens { x, history }, None, (sequence, t), |c| {
        depthwise[c * width..][..width].iter().copied().map(Estimate::exact).collect()
    });
    let row = sequences.as_slice()[sequence].first + t;
    (0..outputs)
        .map(|a| {
            let terms = convolved.iter().copied().zip(pointwise[a * channels..][..channels].iter().copied());
            let key = Estimate::sum(key_bias.map_or(0.0, |bias| bias[a]), terms);
            key * query[row * outputs + a]
        })
        .collect()
}
