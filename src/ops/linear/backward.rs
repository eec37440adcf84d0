use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::ops::linear::{LinearOptions, describe, output_shape};
use crate::problem::{LinearBackwardProblem, LinearWanted};
#[cfg(feature = "wgpu")]
use crate::wgpu;
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
/// where y > 0 and zero elsewhere, and y, the output of the forward pass, must be given. The gradient of a residual is dy
/// itself. Only what is `wanted` is computed. The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`linear`](crate::ops::linear), where dy or y does not fit, [`Error::Missing`] for a y that is needed, and
/// [`Error::NoBackward`] for what has no gradients here: see [`LinearBackwardProblem`].
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
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::LinearBackward::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::LinearBackward::new(gpu, problem))?;
    let mut gradients = LinearGradients {
        x: check::gradient(wanted.x, x.shape(), x.dtype(), x)?,
        weight: check::gradient(wanted.weight, weight.shape(), dtype, x)?,
        bias: check::gradient(wanted.bias, &[forward.outputs()], dtype, x)?,
    };
    launch(&problem, x, weight, y, dy, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    problem: &LinearBackwardProblem,
    x: &Tensor,
    weight: &Tensor,
    y: Option<&Tensor>,
    dy: &Tensor,
    gradients: &mut LinearGradients,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::LinearBackward::new(*problem);
            let args = cpu::LinearBackwardArgs {
                x: Rows::contiguous(x.cpu()),
                weight: weight.cpu(),
                y: y.map(|y| Rows::contiguous(y.cpu())),
                dy: Rows::contiguous(dy.cpu()),
                dx: gradients.x.as_mut().map(|dx| RowsMut::contiguous(dx.cpu_mut())),
                dweight: gradients.weight.as_mut().map(Tensor::cpu_mut),
                dbias: gradients.bias.as_mut().map(Tensor::cpu_mut),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::LinearBackward::new(gpu, *problem)?;
            let args = wgpu::LinearBackwardArgs {
                x: wgpu::Rows::contiguous(x.buffer()),
                weight: weight.buffer().into(),
                y: y.map(|y| wgpu::Rows::contiguous(y.buffer())),
                dy: wgpu::Rows::contiguous(dy.buffer()),
                dx: gradients.x.as_ref().map(|dx| wgpu::Rows::contiguous(dx.buffer())),
                dweight: gradients.weight.as_ref().map(|dweight| dweight.buffer().into()),
                dbias: gradients.bias.as_ref().map(|dbias| dbias.buffer().into()),
            };
            gpu.run([operator.scratch_len(), 0], |[scratch, _]| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::LinearBackward::new(gpu, *problem)?;
            let args = cuda::LinearBackwardArgs {
                x: cuda::Rows::contiguous(x.on_cuda()),
                weight: weight.on_cuda(),
                y: y.map(|y| cuda::Rows::contiguous(y.on_cuda())),
                dy: cuda::Rows::contiguous(dy.on_cuda()),
                dx: gradients.x.as_mut().map(|dx| cuda::RowsMut::contiguous(dx.on_cuda_mut())),
                dweight: gradients.weight.as_mut().map(Tensor::on_cuda_mut),
                dbias: gradients.bias.as_mut().map(Tensor::on_cuda_mut),
            };
            gpu.with_scratch([operator.scratch_len(), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
