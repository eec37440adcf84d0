use crate::device::Room;
use crate::ops::check;
use crate::ops::span_key::{SpanKeyOptions, SpanKeyTensors, describe};
use crate::problem::{SpanKeyBackwardProblem, SpanKeyWanted};
use crate::{Result, Sequences, Tensor, Window};

/// The gradients of a [`span_key`](crate::ops::span_key): those that are wanted, of the inputs that there are.
#[derive(Debug, Default)]
pub struct SpanKeyGradients {
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
}

/// The gradients of [`span_key`](crate::ops::span_key) from dz, that of its output, of the shape and type of z.
///
/// With d = depthwise_K(x), k = pointwise d + key_bias and dk = dz q: dquery = dz k, dkey_bias = sum_t dk\[t\], dpointwise =
/// sum_t dk\[t\] d\[t\]^T, dd = pointwise^T dk, ddepthwise\[c, j\] = sum_t dd\[t, c\] x\[t + j r - P, c\], dx\[s, c\] = sum_j
/// depthwise\[c, j\] dd\[s - j r + P, c\]. Only what is `wanted` is computed; the arguments before are those of the forward
/// pass, of which nothing else is kept. The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`span_key`](crate::ops::span_key), where dz does not fit, and for a call with history.
pub fn span_key_backward(
    tensors: &SpanKeyTensors<'_>,
    dz: &Tensor,
    window: Window,
    options: &SpanKeyOptions<'_>,
    wanted: &SpanKeyWanted,
) -> Result<SpanKeyGradients> {
    let (forward, sequences) = describe(tensors, window, options)?;
    let problem = SpanKeyBackwardProblem::new(forward, *wanted)?;
    let SpanKeyTensors { x, query, depthwise, pointwise } = *tensors;
    check::operand("dz", dz, x, forward.output(), query.shape())?;
    let (wanted, dtype) = (problem.wanted(), problem.parameters());
    let mut gradients = SpanKeyGradients {
        x: check::gradient(wanted.x, x.shape(), x.dtype(), x)?,
        query: check::gradient(wanted.query, query.shape(), x.dtype(), x)?,
        depthwise: check::gradient(wanted.depthwise, depthwise.shape(), dtype, x)?,
        pointwise: check::gradient(wanted.pointwise, pointwise.shape(), dtype, x)?,
        key_bias: check::gradient(wanted.key_bias, &[forward.outputs()], dtype, x)?,
    };
    launch(&problem, &sequences, tensors, dz, options, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    _problem: &SpanKeyBackwardProblem,
    _sequences: &Sequences,
    tensors: &SpanKeyTensors<'_>,
    _dz: &Tensor,
    _options: &SpanKeyOptions<'_>,
    _gradients: &mut SpanKeyGradients,
) -> Result<()> {
    match tensors.x.device().room() {
        Room::Cpu(_) => Err(check::no_backward(tensors.x)),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(_) => Err(check::no_backward(tensors.x)),
        #[cfg(feature = "cuda")]
        Room::Cuda(_) => Err(check::no_backward(tensors.x)),
    }
}
