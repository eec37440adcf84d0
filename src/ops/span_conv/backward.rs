use crate::device::Room;
use crate::ops::check;
use crate::ops::span_conv::{SpanConvOptions, SpanConvTensors, describe};
use crate::problem::{SpanConvBackwardProblem, SpanConvWanted};
use crate::{Result, Sequences, Tensor, Window};

/// The gradients of a [`span_conv`](crate::ops::span_conv): those that are wanted, of the inputs that there are.
#[derive(Debug, Default)]
pub struct SpanConvGradients {
    /// As x.
    pub x: Option<Tensor>,
    /// As the query.
    pub query: Option<Tensor>,
    /// `[C, K]`.
    pub depthwise: Option<Tensor>,
    /// `[A, C]`.
    pub pointwise: Option<Tensor>,
    /// `[A]`.
    pub key_bias: Option<Tensor>,
    /// As the values.
    pub value: Option<Tensor>,
    /// Of the generator, `[H K, A]`.
    pub weight: Option<Tensor>,
    /// Of the generator bias, `[H K]`.
    pub weight_bias: Option<Tensor>,
    /// `[A]`.
    pub bias: Option<Tensor>,
}

/// The gradients of [`span_conv`](crate::ops::span_conv) from dy, that of its output, of the shape and type of the values.
///
/// Those of the dynamic convolution of the values, whose query z is computed again
/// ([`dynamic_conv_backward`](crate::ops::dynamic_conv_backward)); the gradient of z goes, in f32, into those of the key
/// ([`span_key_backward`](crate::ops::span_key_backward)). Only what is `wanted` is computed; the arguments before are those of
/// the forward pass, of which nothing else is kept. The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`span_conv`](crate::ops::span_conv), where dy does not fit, and for a call with history.
pub fn span_conv_backward(
    tensors: &SpanConvTensors<'_>,
    dy: &Tensor,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
    wanted: &SpanConvWanted,
) -> Result<SpanConvGradients> {
    let (forward, sequences) = describe(tensors, heads, window, options)?;
    let problem = SpanConvBackwardProblem::new(forward, *wanted)?;
    let SpanConvTensors { x, query, value, depthwise, pointwise, weight } = *tensors;
    check::operand("dy", dy, x, x.dtype(), value.shape())?;
    let (key, conv, dtype) = (problem.key().wanted(), problem.conv().wanted(), problem.key().parameters());
    let outputs = forward.key().outputs();
    let mut gradients = SpanConvGradients {
        x: check::gradient(key.x, x.shape(), x.dtype(), x)?,
        query: check::gradient(key.query, query.shape(), x.dtype(), x)?,
        depthwise: check::gradient(key.depthwise, depthwise.shape(), dtype, x)?,
        pointwise: check::gradient(key.pointwise, pointwise.shape(), dtype, x)?,
        key_bias: check::gradient(key.key_bias, &[outputs], dtype, x)?,
        value: check::gradient(conv.x, value.shape(), x.dtype(), x)?,
        weight: check::gradient(conv.weight, weight.shape(), dtype, x)?,
        weight_bias: check::gradient(conv.weight_bias, &[forward.conv().logits()], dtype, x)?,
        bias: check::gradient(conv.bias, &[outputs], dtype, x)?,
    };
    launch(&problem, &sequences, tensors, dy, options, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    _problem: &SpanConvBackwardProblem,
    _sequences: &Sequences,
    tensors: &SpanConvTensors<'_>,
    _dy: &Tensor,
    _options: &SpanConvOptions<'_>,
    _gradients: &mut SpanConvGradients,
) -> Result<()> {
    match tensors.x.device().room() {
        Room::Cpu(_) => Err(check::no_backward(tensors.x)),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(_) => Err(check::no_backward(tensors.x)),
        #[cfg(feature = "cuda")]
        Room::Cuda(_) => Err(check::no_backward(tensors.x)),
    }
}
