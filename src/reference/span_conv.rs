mod backward;

pub use backward::{SpanConvGradients, span_conv_backward};

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
    /// Of the dropout, where the problem has one.
    pub seed: Option<u64>,
}

impl<'a> SpanConvInputs<'a> {
    /// Those of the convolution of the values, whose query stands elsewhere.
    fn values(self) -> DynamicConvInputs<'a> {
        let SpanConvInputs { value, weight, weight_bias, bias, value_history, seed, .. } = self;
        let taps = TapInputs::Generated { weight, weight_bias, query: None };
        DynamicConvInputs { x: value, taps, bias, history: value_history, seed }
    }
}

/// The dynamic convolution of v with kernels generated from z = [`span_key`](crate::reference::span_key), for token t
/// of a sequence (Jiang et al. 2020, section 3.2).
pub fn span_conv(
    problem: &SpanConvProblem,
    sequences: &Sequences,
    inputs: SpanConvInputs<'_>,
    at: (usize, usize),
) -> Vec<Estimate> {
    let z = span_key_unrounded(problem.key(), sequences, inputs.key, at);
    let logits = generate(inputs.weight, inputs.weight_bias, &z);
    convolve_with(problem.conv(), sequences, inputs.values(), at, &logits)
}
