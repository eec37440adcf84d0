mod backward;

pub use backward::{LinearGradients, linear_backward};

use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::{Activation, LinearProblem, same_or_f32};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dims, Error, Result, Tensor};

/// What a linear layer may have besides its weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearOptions<'a> {
    /// `[out]`.
    pub bias: Option<&'a Tensor>,
    /// What is done to each output; nothing by default.
    pub activation: Activation,
}

/// A linear layer: y = act(x W^T + bias).
///
/// x `[.., in]` with any sizes before the last; weight W `[out, in]` in the type of x or f32; y `[.., out]`.
///
/// # Errors
///
/// For tensors whose shapes, types or devices do not fit, and as [`LinearProblem`]'s constructors.
pub fn linear(x: &Tensor, weight: &Tensor, options: &LinearOptions<'_>) -> Result<Tensor> {
    let problem = describe(x, weight, options)?;
    planned(x, problem)?;
    let mut y = Tensor::unwritten(&output_shape(x, &problem), x.dtype(), x.device())?;
    launch(&problem, x, weight, options, &mut y)?;
    Ok(y)
}

/// [`linear`] into a tensor that is there.
///
/// # Errors
///
/// As [`linear`], and where y does not fit.
pub fn linear_into(y: &mut Tensor, x: &Tensor, weight: &Tensor, options: &LinearOptions<'_>) -> Result<()> {
    let problem = describe(x, weight, options)?;
    planned(x, problem)?;
    check::operand("y", y, x, x.dtype(), &output_shape(x, &problem))?;
    launch(&problem, x, weight, options, y)
}

fn output_shape(x: &Tensor, problem: &LinearProblem) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = problem.outputs();
    }
    shape
}

fn describe(x: &Tensor, weight: &Tensor, options: &LinearOptions<'_>) -> Result<LinearProblem> {
    let [outputs, inputs] = check::matrix("weight", weight)?;
    let Some((&channels, rows)) = x.shape().split_last() else {
        return Err(Error::Shape { tensor: "x", expected: [inputs].into(), got: x.shape().into() });
    };
    if channels != inputs {
        let expected = Dims(rows.iter().copied().chain([inputs]).map(Some).collect());
        return Err(Error::Shape { tensor: "x", expected, got: x.shape().into() });
    }
    same_or_f32("weight", x.dtype(), weight.dtype())?;
    let problem = LinearProblem::new(rows.iter().product(), inputs, outputs, x.dtype())?
        .with_activation(options.activation)
        .with_bias(options.bias.is_some())
        .with_parameters(weight.dtype())?;
    check::operand("weight", weight, x, problem.parameters(), &[outputs, inputs])?;
    check::optional("bias", options.bias, x, problem.parameters(), &[outputs])?;
    Ok(problem)
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(x: &Tensor, problem: LinearProblem) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::Linear::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::Linear::new(gpu, problem))?;
    Ok(())
}

fn launch(
    problem: &LinearProblem,
    x: &Tensor,
    weight: &Tensor,
    options: &LinearOptions<'_>,
    y: &mut Tensor,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::Linear::new(*problem);
            let args = cpu::LinearArgs {
                x: Rows::contiguous(x.cpu()),
                weight: weight.cpu(),
                bias: options.bias.map(Tensor::cpu),
                y: RowsMut::contiguous(y.cpu_mut()),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::Linear::new(gpu, *problem)?;
            let args = wgpu::LinearArgs {
                x: wgpu::Rows::contiguous(x.buffer()),
                weight: weight.buffer().into(),
                bias: options.bias.map(|bias| bias.buffer().into()),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::Linear::new(gpu, *problem)?.launch(cuda::LinearArgs {
            x: cuda::Rows::contiguous(x.on_cuda()),
            weight: weight.on_cuda(),
            bias: options.bias.map(Tensor::on_cuda),
            y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
        }),
    }
}
