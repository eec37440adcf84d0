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
#[derive(Clone, Copy, Debug)]
pub struct LinearOptions<'a> {
    /// A number for each row of the weight.
    pub bias: Option<&'a Tensor>,
    /// What is done to each output; nothing by default.
    pub activation: Activation,
    /// What is added last, of the shape and type of y.
    pub residual: Option<&'a Tensor>,
    /// Groups of inputs and of outputs; one by default.
    pub groups: usize,
}

impl Default for LinearOptions<'_> {
    fn default() -> Self {
        LinearOptions { bias: None, activation: Activation::Identity, residual: None, groups: 1 }
    }
}

/// A linear layer: y = residual + act(x W^T + bias), by the formulas of [`LinearProblem`].
///
/// x `[.., in]` with any sizes before the last; weight W `[out, in]` in the type of x or f32; y `[.., out]`. The weight of a
/// GLU is `[2 out, in]` and that of g groups `[out, in / g]`. All is formed in f32 and rounded once.
///
/// ```
/// use lightspan::problem::Activation;
/// use lightspan::{Device, Tensor, ops};
///
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&[1.0f32, 2.0], &[1, 2], &device)?;
/// // The first row makes a, the second its gate.
/// let weight = Tensor::from_slice(&[3.0f32, 1.0, 2.0, -1.0], &[2, 2], &device)?;
/// let residual = Tensor::from_slice(&[10.0f32], &[1, 1], &device)?;
/// let options = ops::LinearOptions {
///     activation: Activation::Glu,
///     residual: Some(&residual),
///     ..Default::default()
/// };
/// // 10 + 5 sigmoid(0)
/// assert_eq!(ops::linear(&x, &weight, &options)?.to_f32()?, [12.5]);
/// # Ok::<(), lightspan::Error>(())
/// ```
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
    let [weight_rows, width] = check::matrix("weight", weight)?;
    let halves = options.activation.halves();
    if !weight_rows.is_multiple_of(halves) {
        return Err(Error::Halves { tensor: "weight", rows: weight_rows });
    }
    // No sizes of memory that is there make more inputs than a number holds; a count of groups that is nonsense may.
    let inputs = width.saturating_mul(options.groups);
    let Some((&channels, rows)) = x.shape().split_last() else {
        return Err(Error::Shape { tensor: "x", expected: [inputs].into(), got: x.shape().into() });
    };
    // Groups that make no sense have an error of their own.
    if channels != inputs && options.groups > 0 {
        let expected = Dims(rows.iter().copied().chain([inputs]).map(Some).collect());
        return Err(Error::Shape { tensor: "x", expected, got: x.shape().into() });
    }
    same_or_f32("weight", x.dtype(), weight.dtype())?;
    let problem = LinearProblem::new(rows.iter().product(), channels, weight_rows / halves, x.dtype())?
        .with_groups(options.groups)?
        .with_activation(options.activation)?
        .with_bias(options.bias.is_some())
        .with_residual(options.residual.is_some())
        .with_parameters(weight.dtype())?;
    check::operand("weight", weight, x, problem.parameters(), &[weight_rows, width])?;
    check::optional("bias", options.bias, x, problem.parameters(), &[weight_rows])?;
    check::optional("residual", options.residual, x, x.dtype(), &output_shape(x, &problem))?;
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
                residual: options.residual.map(|residual| Rows::contiguous(residual.cpu())),
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
                residual: options.residual.map(|residual| wgpu::Rows::contiguous(residual.buffer())),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::Linear::new(gpu, *problem)?.launch(cuda::LinearArgs {
            x: cuda::Rows::contiguous(x.on_cuda()),
            weight: weight.on_cuda(),
            bias: options.bias.map(Tensor::on_cuda),
            residual: options.residual.map(|residual| cuda::Rows::contiguous(residual.on_cuda())),
            y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
        }),
    }
}
