use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::{NormKind, NormProblem, NormResidual, same_or_f32};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dims, Error, Result, Tensor};

/// Where a residual of the shape and type of x is added.
#[derive(Clone, Copy, Debug, Default)]
pub enum Residual<'a> {
    /// There is none.
    #[default]
    None,
    /// Before: norm(x + residual), the sum in f32.
    Before(&'a Tensor),
    /// After: residual + norm(x), as the pre-trained convolutions of Tay et al. 2021 have it.
    After(&'a Tensor),
}

impl<'a> Residual<'a> {
    fn tensor(self) -> Option<&'a Tensor> {
        match self {
            Residual::None => None,
            Residual::Before(tensor) | Residual::After(tensor) => Some(tensor),
        }
    }
}

/// What a norm may have besides its weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct NormOptions<'a> {
    /// What is added to the mean of squares: positive; 1e-5 for layer norm and 1e-6 for RMS norm by default.
    pub eps: Option<f32>,
    /// `[C]`.
    pub bias: Option<&'a Tensor>,
    /// Of the shape of x.
    pub residual: Residual<'a>,
}

/// Layer norm of each row of x (Ba et al. 2016): y = (s - m) / sqrt(v + eps) weight + bias, with s = x or x + residual, m
/// the mean of s over the last size, and v the mean of (s - m)^2.
///
/// x `[.., C]` with any sizes before the last; weight `[C]` in the type of x or f32; y of the shape of x. All is formed in
/// f32 and rounded once. A row whose sum, or sum of squares, passes the largest number of f32 has no norm: its outputs are zero
/// (plus bias and residual) or not numbers. From numbers of about 1e19 on that may be so.
///
/// ```
/// use lightspan::{Device, Tensor, ops};
///
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&[1.0f32, 3.0, 10.0, 10.0], &[2, 2], &device)?;
/// let weight = Tensor::from_slice(&[1.0f32, 2.0], &[2], &device)?;
/// let options = ops::NormOptions { residual: ops::Residual::After(&x), ..Default::default() };
/// let y = ops::layer_norm(&x, &weight, &options)?.to_f32()?;
/// for (y, expected) in y.iter().zip([0.0f32, 5.0, 10.0, 10.0]) {
///     assert!((y - expected).abs() < 1e-4);
/// }
/// # Ok::<(), lightspan::Error>(())
/// ```
///
/// # Errors
///
/// For tensors whose shapes, types or devices do not fit, and as [`NormProblem`]'s constructors.
pub fn layer_norm(x: &Tensor, weight: &Tensor, options: &NormOptions<'_>) -> Result<Tensor> {
    norm(NormKind::Layer, x, weight, options)
}

/// [`layer_norm`] with its residual before, and x + residual itself: what the next residual of a pre-norm layer is. It is
/// rounded to the type of x only there; the norm is of the sum as it was.
///
/// # Errors
///
/// As [`layer_norm`], and [`Error::Missing`] where no residual comes before.
pub fn layer_norm_with_sum(
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
) -> Result<(Tensor, Tensor)> {
    norm_with_sum(NormKind::Layer, x, weight, options)
}

/// [`layer_norm`] into a tensor that is there, and x + residual into another where that is given.
///
/// # Errors
///
/// As [`layer_norm`] and [`layer_norm_with_sum`], and where y or the sum does not fit.
pub fn layer_norm_into(
    y: &mut Tensor,
    sum: Option<&mut Tensor>,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
) -> Result<()> {
    norm_into(NormKind::Layer, y, sum, x, weight, options)
}

/// RMS norm of each row of x (Zhang and Sennrich 2019): y = s / sqrt(mean(s^2) + eps) weight + bias, with s = x or
/// x + residual. (T5's layer norm is this one without a bias.) Shapes and types are those of [`layer_norm`].
///
/// # Errors
///
/// As [`layer_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, options: &NormOptions<'_>) -> Result<Tensor> {
    norm(NormKind::Rms, x, weight, options)
}

/// [`rms_norm`] with its residual before, and x + residual itself, as [`layer_norm_with_sum`].
///
/// # Errors
///
/// As [`layer_norm_with_sum`].
pub fn rms_norm_with_sum(x: &Tensor, weight: &Tensor, options: &NormOptions<'_>) -> Result<(Tensor, Tensor)> {
    norm_with_sum(NormKind::Rms, x, weight, options)
}

/// [`rms_norm`] into a tensor that is there, and x + residual into another where that is given.
///
/// # Errors
///
/// As [`layer_norm_into`].
pub fn rms_norm_into(
    y: &mut Tensor,
    sum: Option<&mut Tensor>,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
) -> Result<()> {
    norm_into(NormKind::Rms, y, sum, x, weight, options)
}

fn norm(kind: NormKind, x: &Tensor, weight: &Tensor, options: &NormOptions<'_>) -> Result<Tensor> {
    let problem = describe(kind, x, weight, options, false)?;
    planned(x, problem)?;
    let mut y = Tensor::unwritten(x.shape(), x.dtype(), x.device())?;
    launch(&problem, x, weight, options, &mut y, None)?;
    Ok(y)
}

fn norm_with_sum(
    kind: NormKind,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
) -> Result<(Tensor, Tensor)> {
    let problem = describe(kind, x, weight, options, true)?;
    planned(x, problem)?;
    let mut y = Tensor::unwritten(x.shape(), x.dtype(), x.device())?;
    let mut sum = Tensor::unwritten(x.shape(), x.dtype(), x.device())?;
    launch(&problem, x, weight, options, &mut y, Some(&mut sum))?;
    Ok((y, sum))
}

fn norm_into(
    kind: NormKind,
    y: &mut Tensor,
    sum: Option<&mut Tensor>,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
) -> Result<()> {
    let problem = describe(kind, x, weight, options, sum.is_some())?;
    planned(x, problem)?;
    check::operand("y", y, x, x.dtype(), x.shape())?;
    check::optional("sum", sum.as_deref(), x, x.dtype(), x.shape())?;
    launch(&problem, x, weight, options, y, sum)
}

fn describe(
    kind: NormKind,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
    sum: bool,
) -> Result<NormProblem> {
    let Some((&channels, rows)) = x.shape().split_last() else {
        return Err(Error::Shape { tensor: "x", expected: Dims(vec![None]), got: x.shape().into() });
    };
    same_or_f32("weight", x.dtype(), weight.dtype())?;
    let residual = match options.residual {
        Residual::Before(_) => NormResidual::Before { sum },
        _ if sum => return Err(Error::Missing { tensor: "residual before" }),
        Residual::After(_) => NormResidual::After,
        Residual::None => NormResidual::None,
    };
    let problem = NormProblem::new(kind, rows.iter().product(), channels, x.dtype())?
        .with_residual(residual)
        .with_bias(options.bias.is_some())
        .with_parameters(weight.dtype())?;
    let problem = options.eps.map_or(Ok(problem), |eps| problem.with_eps(eps))?;
    check::operand("weight", weight, x, problem.parameters(), &[channels])?;
    check::optional("bias", options.bias, x, problem.parameters(), &[channels])?;
    check::optional("residual", options.residual.tensor(), x, x.dtype(), x.shape())?;
    Ok(problem)
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(x: &Tensor, problem: NormProblem) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::Norm::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::Norm::new(gpu, problem))?;
    Ok(())
}

fn launch(
    problem: &NormProblem,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
    y: &mut Tensor,
    sum: Option<&mut Tensor>,
) -> Result<()> {
    let residual = options.residual.tensor();
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::Norm::new(*problem);
            let args = cpu::NormArgs {
                x: Rows::contiguous(x.cpu()),
                residual: residual.map(|residual| Rows::contiguous(residual.cpu())),
                weight: weight.cpu(),
                bias: options.bias.map(Tensor::cpu),
                y: RowsMut::contiguous(y.cpu_mut()),
                sum: sum.map(|sum| RowsMut::contiguous(sum.cpu_mut())),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::Norm::new(gpu, *problem)?;
            let args = wgpu::NormArgs {
                x: wgpu::Rows::contiguous(x.buffer()),
                residual: residual.map(|residual| wgpu::Rows::contiguous(residual.buffer())),
                weight: weight.buffer().into(),
                bias: options.bias.map(|bias| bias.buffer().into()),
                y: wgpu::Rows::contiguous(y.buffer()),
                sum: sum.map(|sum| wgpu::Rows::contiguous(sum.buffer())),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::Norm::new(gpu, *problem)?.launch(cuda::NormArgs {
            x: cuda::Rows::contiguous(x.on_cuda()),
            residual: residual.map(|residual| cuda::Rows::contiguous(residual.on_cuda())),
            weight: weight.on_cuda(),
            bias: options.bias.map(Tensor::on_cuda),
            y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
            sum: sum.map(|sum| cuda::RowsMut::contiguous(sum.on_cuda_mut())),
        }),
    }
}
