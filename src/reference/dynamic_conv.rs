mod backward;

pub(crate) use backward::backward_with;
pub use backward::{DynamicConvGradients, dynamic_conv_backward};

use crate::Sequences;
use crate::problem::DynamicConvProblem;
use crate::reference::Estimate;
use crate::reference::taps::{Tokens, convolve, dropout, weights};

/// Where the taps come from, as the problem's [`Taps`](crate::problem::Taps) say.
#[derive(Clone, Copy, Debug)]
pub enum TapInputs<'a> {
    /// Logits `[tokens, H, K]`.
    Given(&'a [f64]),
    /// A generator.
    Generated {
        /// W `[H K, Cq]`.
        weight: &'a [f64],
        /// `[H K]`.
        weight_bias: Option<&'a [f64]>,
        /// `[tokens, Cq]`; x where there is none.
        query: Option<&'a [f64]>,
    },
}

/// What [`dynamic_conv`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct DynamicConvInputs<'a> {
    /// `[tokens, C]`.
    pub x: &'a [f64],
    /// Logits, or what generates them.
    pub taps: TapInputs<'a>,
    /// `[C]`.
    pub bias: Option<&'a [f64]>,
    /// `[sequences, (K - 1) r, C]`.
    pub history: Option<&'a [f64]>,
    /// Of the dropout, where the problem has one.
    pub seed: Option<u64>,
}

/// y\[c\] = bias\[c\] + sum_j normalize(logits)\[h(c), j\] x\[t + j r - P, c\], logits\[h, j\] =
/// (W q\[t\] + w_bias)\[h K + j\] or given, for token t of a sequence (Wu et al. 2019, equation 5).
pub fn dynamic_conv(
    problem: &DynamicConvProblem,
    sequences: &Sequences,
    inputs: DynamicConvInputs<'_>,
    (sequence, t): (usize, usize),
) -> Vec<Estimate> {
    let row = sequences.as_slice()[sequence].first + t;
    convolve_with(problem, sequences, inputs, (sequence, t), &logits_of(problem, inputs, row))
}

/// The logits `[H, K]` of the token in a row.
fn logits_of(problem: &DynamicConvProblem, inputs: DynamicConvInputs<'_>, row: usize) -> Vec<Estimate> {
    match inputs.taps {
        TapInputs::Given(logits) => {
            let logits = &logits[row * problem.logits()..][..problem.logits()];
            logits.iter().copied().map(Estimate::exact).collect()
        }
        TapInputs::Generated { weight, weight_bias, query } => {
            let channels = weight.len() / problem.logits();
            let query = query.unwrap_or(inputs.x)[row * channels..][..channels].iter().copied();
            generate(weight, weight_bias, &query.map(Estimate::exact).collect::<Vec<_>>())
        }
    }
}

/// The logits of one token from its query, W q + w_bias.
pub(crate) fn generate(weight: &[f64], weight_bias: Option<&[f64]>, query: &[Estimate]) -> Vec<Estimate> {
    weight
        .chunks_exact(query.len())
        .enumerate()
        .map(|(i, row)| {
            let terms = query.iter().copied().zip(row.iter().copied());
            Estimate::sum(weight_bias.map_or(0.0, |bias| bias[i]), terms)
        })
        .collect()
}

/// The convolution of one token with its logits `[H, K]`.
pub(crate) fn convolve_with(
    problem: &DynamicConvProblem,
    sequences: &Sequences,
    inputs: DynamicConvInputs<'_>,
    at: (usize, usize),
    logits: &[Estimate],
) -> Vec<Estimate> {
    let conv = problem.convolution();
    let width = conv.window().width();
    let tokens = Tokens { x: inputs.x, history: inputs.history };
    let (row, dropout) = (sequences.as_slice()[at.0].first + at.1, dropout(conv, inputs.seed));
    let mut y = convolve(conv, sequences, tokens, inputs.bias, at, |h, in_range| {
        weights(conv, dropout, (row, h), &logits[h * width..][..width], in_range)
    });
    y.iter_mut().for_each(|y| *y = y.stored(conv.dtype()));
    y
}
