use crate::device::Room;
use crate::ops::check;
use crate::ops::dynamic_conv::{DynamicConvOptions, Taps, describe, describe_given};
use crate::ops::light_conv::ConvOptions;
use crate::problem::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted};
use crate::{Result, Sequences, Tensor, Window};

/// The gradients of a [`dynamic_conv`](crate::ops::dynamic_conv) or
/// [`dynamic_conv_given`](crate::ops::dynamic_conv_given): those that are wanted, of the inputs that there are.
#[derive(Debug, Default)]
pub struct DynamicConvGradients {
    /// As x: of both its uses where x is its own query.
    pub x: Option<Tensor>,
    /// Of given logits, as they are.
    pub logits: Option<Tensor>,
    /// Of the generator, `[H K, Cq]`.
    pub weight: Option<Tensor>,
    /// Of the generator bias, `[H K]`.
    pub weight_bias: Option<Tensor>,
    /// Of a separate query, as it is.
    pub query: Option<Tensor>,
    /// `[C]`.
    pub bias: Option<Tensor>,
}

/// The gradients of [`dynamic_conv`](crate::ops::dynamic_conv) from dy, that of its output, of the shape and type of x.
///
/// With w = normalize(logits) and g\[t, h, j\] = sum_c dy\[t, c\] x\[t + j r - P, c\] over the channels c of head h:
/// dlogits\[t, h, j\] = w\[t, h, j\] (g\[t, h, j\] - sum_i w\[t, h, i\] g\[t, h, i\]); dquery = W^T dlogits, dweight =
/// dlogits q^T summed over tokens; dx\[s, c\] = sum_j w\[s - j r + P, h(c), j\] dy\[s - j r + P, c\], and dquery more where x
/// is its own query ([`DynamicConvBackwardProblem`] has all cases). Only what is `wanted` is computed; the arguments before are
/// those of the forward pass, of which nothing else is kept. The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`dynamic_conv`](crate::ops::dynamic_conv), where dy does not fit, and for a call with history.
pub fn dynamic_conv_backward(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    heads: usize,
    window: Window,
    options: &DynamicConvOptions<'_>,
    wanted: &DynamicConvWanted,
) -> Result<DynamicConvGradients> {
    let call = describe(x, weight, heads, window, options)?;
    backward(call, x, Taps::Generated(weight, options), dy, &options.convolution(), wanted)
}

/// The gradients of [`dynamic_conv_given`](crate::ops::dynamic_conv_given) from dy, that of its output, of the shape and type
/// of x: dlogits and dx as in [`dynamic_conv_backward`].
///
/// # Errors
///
/// As [`dynamic_conv_backward`].
pub fn dynamic_conv_given_backward(
    x: &Tensor,
    logits: &Tensor,
    dy: &Tensor,
    window: Window,
    options: &ConvOptions<'_>,
    wanted: &DynamicConvWanted,
) -> Result<DynamicConvGradients> {
    let call = describe_given(x, logits, window, options)?;
    backward(call, x, Taps::Given(logits), dy, options, wanted)
}

fn backward(
    (forward, sequences): (DynamicConvProblem, Sequences),
    x: &Tensor,
    taps: Taps<'_>,
    dy: &Tensor,
    options: &ConvOptions<'_>,
    wanted: &DynamicConvWanted,
) -> Result<DynamicConvGradients> {
    let problem = DynamicConvBackwardProblem::new(forward, *wanted)?;
    check::operand("dy", dy, x, x.dtype(), x.shape())?;
    let (wanted, dtype) = (problem.wanted(), problem.parameters());
    let (source, query) = match taps {
        Taps::Given(logits) => (logits, None),
        Taps::Generated(weight, options) => (weight, options.query),
    };
    let query = query.filter(|_| wanted.query);
    let mut gradients = DynamicConvGradients {
        x: check::gradient(wanted.x, x.shape(), x.dtype(), x)?,
        logits: check::gradient(wanted.logits, source.shape(), dtype, x)?,
        weight: check::gradient(wanted.weight, source.shape(), dtype, x)?,
        weight_bias: check::gradient(wanted.weight_bias, &[forward.logits()], dtype, x)?,
        query: query.map(|query| Tensor::unwritten(query.shape(), query.dtype(), x.device())).transpose()?,
        bias: check::gradient(wanted.bias, &[forward.convolution().channels()], dtype, x)?,
    };
    launch(&problem, &sequences, x, taps, dy, options, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    _problem: &DynamicConvBackwardProblem,
    _sequences: &Sequences,
    x: &Tensor,
    _taps: Taps<'_>,
    _dy: &Tensor,
    _options: &ConvOptions<'_>,
    _gradients: &mut DynamicConvGradients,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(_) => Err(check::no_backward(x)),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(_) => Err(check::no_backward(x)),
        #[cfg(feature = "cuda")]
        Room::Cuda(_) => Err(check::no_backward(x)),
    }
}
