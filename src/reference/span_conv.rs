use crate::Sequences;
use crate::problem::SpanConvProblem;
use crate::reference::dynamic_conv::{convolve_with, generate};
use crate::reference::span_key::span_key_unrounded;
use crate::reference::{DynamicConvInputs, Estimate, SpanKeyInputs, TapInputs};

/// What [`span_conv`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct SpanConvInputs<'a> {
    /// What generates the kernels.
    pub key: SpanKeyInputs<'a>,
    /// v `[tokens, A]`.
    pub value: &'a [f64],
    /// W `[H K, A]`.
    pub weight: &'a [f64],
    /// `[H K]`.
    pub weight_bias: Option<&'a [f64]>,
    /// `[A]`.
    pub bias: Option<&'a [f64]>,
    /// `[sequences, (K - 1) r, A]`.
    pub value_history: Option<&'a [f64]>,
}

/// The dynamic convolution of v with kernels generated from z = [`span_key`](crate::reference::span_key), for token t
/// of a sequence (Jiang et al. 2020, section 3.2).
pub fn span_conv(
    problem: &SpanConvProblem,
    sequences: &Sequences,
    inputs: SpanConvInputs<'_>,
    at: (usize, usize),
) -> Vec<Estimate> {
    let SpanConvInputs { key, value, weight, weight_bias, bias, value_history } = inputs;
    let z = span_key_unrounded(problem.key(), sequences, key, at);
    let logits = generate(weight, weight_bias, &z);
    let taps = TapInputs::Generated { weight, weight_bias, query: None };
    let values = DynamicConvInputs { x: value, taps, bias, history: value_history };
    convolve_with(problem.conv(), sequences, values, at, &logits)
}
