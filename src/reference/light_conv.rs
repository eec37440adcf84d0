use crate::Sequences;
use crate::problem::LightConvProblem;
use crate::reference::Estimate;
use crate::reference::taps::{Tokens, convolve};

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
    let LightConvInputs { x, weight, bias, history } = inputs;
    let mut y = convolve(conv, sequences, Tokens { x, history }, bias, (sequence, t), |h| {
        weight[h * width..][..width].iter().copied().map(Estimate::exact).collect()
    });
    y.iter_mut().for_each(|y| *y = y.stored(conv.dtype()));
    y
}
