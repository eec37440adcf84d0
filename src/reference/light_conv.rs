mod backward;

pub use backward::{LightConvGradients, light_conv_backward};

use crate::Sequences;
use crate::problem::LightConvProblem;
use crate::reference::Estimate;
use crate::reference::taps::{Tokens, convolve, dropout, weights};

/// What [`light_conv`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct LightConvInputs<'a> {
    /// `[tokens, C]`.
    pub x: &'a [f64],
    /// `[H, K]`, before normalisation.
    pub weight: &'a [f64],
    /// `[C]`.
    pub bias: Option<&'a [f64]>,
    /// `[sequences, (K - 1) r, C]`.
    pub history: Option<&'a [f64]>,
    /// Of the dropout, where the problem has one.
    pub seed: Option<u64>,
}

/// y\[c\] = bias\[c\] + sum_j w\[h(c), j\] x\[t + j r - P, c\], w = normalize(weight), for token t of a sequence
/// (Wu et al. 2019, equations 3 and 4).
pub fn light_conv(
    problem: &LightConvProblem,
    sequences: &Sequences,
    inputs: LightConvInputs<'_>,
    (sequence, t): (usize, usize),
) -> Vec<Estimate> {
    let conv = problem.convolution();
    let width = conv.window().width();
    let LightConvInputs { x, weight, bias, history, seed } = inputs;
    let dropout = dropout(conv, seed);
    let mut y = convolve(conv, sequences, Tokens { x, history }, bias, (sequence, t), |h, in_range| {
        weights(conv, dropout, (0, h), &logits(&weight[h * width..][..width]), in_range)
    });
    y.iter_mut().for_each(|y| *y = y.stored(conv.dtype()));
    y
}

/// The weight of a head as it is given.
fn logits(weight: &[f64]) -> Vec<Estimate> {
    weight.iter().copied().map(Estimate::exact).collect()
}
