use crate::device::Room;
use crate::ops::check;
use crate::ops::linear::{LinearOptions, describe, output_shape};
use crate::problem::{LinearBackwardProblem, LinearWanted};
use crate::{Error, Result, Tensor};

/// The gradients of a [`linear`](crate::ops::linear): those that are wanted, of the inputs that there are.
#[derive(Debug, Default)]
pub struct LinearGradients {
    /// As x.
    pub x: Option<Tensor>,
    /// `[out, in]`.
    pub weight: Option<Tensor>,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

/// The gradients of [`linear`](crate::ops::linear) from dy `[.., out]`, that of its output, in the type of x.
///
/// dx = da W, dW = da^T x, dbias = the sum of the rows of da, with da = dy where there is no activation; with a ReLU da is dy
/// where y > 0 and zero elsewhere, and y, the output of the forward pass, must be given. Only what is `wanted` is computed.
/// The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`linear`](crate::ops::linear), where dy or y does not fit, and [`Error::Missing`] for a y that is needed.
pub fn linear_backward(
    x: &Tensor,
    weight: &Tensor,
    y: Option<&Tensor>,
    dy: &Tensor,
    options: &LinearOptions<'_>,
    wanted: &LinearWanted,
) -> Result<LinearGradients> {
    let forward = describe(x, weight, options)?;
    let problem = LinearBackwardProblem::new(forward, *wanted)?;
    let shape = output_shape(x, &forward);
    let y = y.filter(|_| problem.needs_output());
    if problem.needs_output() && y.is_none() {
        return Err(Error::Missing { tensor: "y" });
    }
    check::optional("y", y, x, x.dtype(), &shape)?;
    check::operand("dy", dy, x, x.dtype(), &shape)?;
    let (wanted, dtype) = (problem.wanted(), problem.parameters());
    let mut gradients = LinearGradients {
        x: check::gradient(wanted.x, x.shape(), x.dtype(), x)?,
        weight: check::gradient(wanted.weight, weight.shape(), dtype, x)?,
        bias: check::gradient(wanted.bias, &[forward.outputs()], dtype, x)?,
    };
    launch(&problem, x, weight, y, dy, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    _problem: &LinearBackwardProblem,
    x: &Tensor,
    _weight: &Tensor,
    _y: Option<&Tensor>,
    _dy: &Tensor,
    _gradients: &mut LinearGradients,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(_) => Err(check::no_backward(x)),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(_) => Err(check::no_backward(x)),
        #[cfg(feature = "cuda")]
        Room::Cuda(_) => Err(check::no_backward(x)),
    }
}
