use crate::Sequences;
use crate::problem::SpanConvBackwardProblem;
use crate::reference::dynamic_conv::{self, generate};
use crate::reference::span_key::{self, span_key_unrounded};
use crate::reference::{DynamicConvGradients, Estimate, SpanConvInputs, SpanKeyGradients, every_token};

/// The gradients of a [`span_conv`](crate::reference::span_conv).
#[derive(Clone, Debug)]
pub struct SpanConvGradients {
    /// Those of what generates the kernels.
    pub key: SpanKeyGradients,
    /// Those of the convolution of the values: x is v, and the query is z.
    pub conv: DynamicConvGradients,
}

/// All gradients of [`span_conv`](crate::reference::span_conv) from dy `[tokens, A]`, wanted or not: those of the convolution
/// of the values, whose gradient of z goes into those of the key.
pub fn span_conv_backward(
    problem: &SpanConvBackwardProblem,
    sequences: &Sequences,
    inputs: SpanConvInputs<'_>,
    dy: &[f64],
) -> SpanConvGradients {
    let forward = problem.forward();
    let channels = forward.key().outputs();
    let z: Vec<Estimate> = every_token(sequences, channels, |s, t| {
        span_key_unrounded(forward.key(), sequences, inputs.key, (s, t))
            .into_iter()
            .map(|z| z.stored(forward.key().output()))
            .collect()
    });
    let logits = |row: usize| generate(inputs.weight, inputs.weight_bias, &z[row * channels..][..channels]);
    let conv = dynamic_conv::backward_with(problem.conv(), sequences, inputs.values(), dy, &z, logits);
    let key = span_key::backward_with(problem.key(), sequences, inputs.key, &conv.query);
    SpanConvGradients { key, conv }
}
