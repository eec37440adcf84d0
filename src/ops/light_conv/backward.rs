use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::ops::light_conv::{ConvOptions, describe};
use crate::problem::{LightConvBackwardProblem, LightConvWanted};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dropout, Result, Sequences, Tensor, Window};

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
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::LightConvBackward::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::LightConvBackward::new(gpu, problem))?;
    let mut gradients = LightConvGradients {
        x: check::gradient(wanted.x, x.shape(), x.dtype(), x)?,
        weight: check::gradient(wanted.weight, weight.shape(), dtype, x)?,
        bias: check::gradient(wanted.bias, &[forward.convolution().channels()], dtype, x)?,
    };
    launch(&problem, &sequences, x, weight, dy, options, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    problem: &LightConvBackwardProblem,
    sequences: &Sequences,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    options: &ConvOptions<'_>,
    gradients: &mut LightConvGradients,
) -> Result<()> {
    let seed = options.dropout.map(Dropout::seed);
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::LightConvBackward::new(*problem);
            let args = cpu::LightConvBackwardArgs {
                sequences,
                x: Rows::contiguous(x.cpu()),
                weight: weight.cpu(),
                seed,
                dy: Rows::contiguous(dy.cpu()),
                dx: gradients.x.as_mut().map(|dx| RowsMut::contiguous(dx.cpu_mut())),
                dweight: gradients.weight.as_mut().map(Tensor::cpu_mut),
                dbias: gradients.bias.as_mut().map(Tensor::cpu_mut),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::LightConvBackward::new(gpu, *problem)?;
            let LightConvGradients { x: dx, weight: dweight, bias: dbias } = gradients;
            let args = wgpu::LightConvBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(x.buffer()),
                weight: weight.buffer().into(),
                seed,
                dy: wgpu::Rows::contiguous(dy.buffer()),
                dx: dx.as_ref().map(|dx| wgpu::Rows::contiguous(dx.buffer())),
                dweight: dweight.as_ref().map(|dweight| dweight.buffer().into()),
                dbias: dbias.as_ref().map(|dbias| dbias.buffer().into()),
            };
            gpu.run(operator.scratch_len(), |scratch| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::LightConvBackward::new(gpu, *problem)?;
            let args = cuda::LightConvBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: cuda::Rows::contiguous(x.on_cuda()),
                weight: weight.on_cuda(),
                seed,
                dy: cuda::Rows::contiguous(dy.on_cuda()),
                dx: gradients.x.as_mut().map(|dx| cuda::RowsMut::contiguous(dx.on_cuda_mut())),
                dweight: gradients.weight.as_mut().map(Tensor::on_cuda_mut),
                dbias: gradients.bias.as_mut().map(Tensor::on_cuda_mut),
            };
            gpu.with_scratch([operator.scratch_len(), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
