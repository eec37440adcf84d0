use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::ops::dynamic_conv::{DynamicConvOptions, Taps, describe, describe_given};
use crate::ops::light_conv::ConvOptions;
use crate::problem::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dropout, Result, Sequences, Tensor, Window};

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
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::DynamicConvBackward::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::DynamicConvBackward::new(gpu, problem))?;
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
    problem: &DynamicConvBackwardProblem,
    sequences: &Sequences,
    x: &Tensor,
    taps: Taps<'_>,
    dy: &Tensor,
    options: &ConvOptions<'_>,
    gradients: &mut DynamicConvGradients,
) -> Result<()> {
    let seed = options.dropout.map(Dropout::seed);
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::DynamicConvBackward::new(*problem);
            let args = cpu::DynamicConvBackwardArgs {
                sequences,
                x: Rows::contiguous(x.cpu()),
                taps: taps.on_cpu(),
                seed,
                dy: Rows::contiguous(dy.cpu()),
                dx: gradients.x.as_mut().map(|dx| RowsMut::contiguous(dx.cpu_mut())),
                dlogits: gradients.logits.as_mut().map(|dlogits| RowsMut::contiguous(dlogits.cpu_mut())),
                dweight: gradients.weight.as_mut().map(Tensor::cpu_mut),
                dweight_bias: gradients.weight_bias.as_mut().map(Tensor::cpu_mut),
                dquery: gradients.query.as_mut().map(|dquery| RowsMut::contiguous(dquery.cpu_mut())),
                dbias: gradients.bias.as_mut().map(Tensor::cpu_mut),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::DynamicConvBackward::new(gpu, *problem)?;
            let DynamicConvGradients { x: dx, logits, weight, weight_bias, query, bias } = gradients;
            let args = wgpu::DynamicConvBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(x.buffer()),
                taps: taps.on_wgpu(),
                seed,
                dy: wgpu::Rows::contiguous(dy.buffer()),
                dx: dx.as_ref().map(|dx| wgpu::Rows::contiguous(dx.buffer())),
                dlogits: logits.as_ref().map(|logits| wgpu::Rows::contiguous(logits.buffer())),
                dweight: weight.as_ref().map(|weight| weight.buffer().into()),
                dweight_bias: weight_bias.as_ref().map(|bias| bias.buffer().into()),
                dquery: query.as_ref().map(|query| wgpu::Rows::contiguous(query.buffer())),
                dbias: bias.as_ref().map(|bias| bias.buffer().into()),
            };
            gpu.run(operator.scratch_len(), |scratch| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::DynamicConvBackward::new(gpu, *problem)?;
            let DynamicConvGradients { x: dx, logits, weight, weight_bias, query, bias } = gradients;
            let args = cuda::DynamicConvBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: cuda::Rows::contiguous(x.on_cuda()),
                taps: taps.on_cuda(),
                seed,
                dy: cuda::Rows::contiguous(dy.on_cuda()),
                dx: dx.as_mut().map(|dx| cuda::RowsMut::contiguous(dx.on_cuda_mut())),
                dlogits: logits.as_mut().map(|logits| cuda::RowsMut::contiguous(logits.on_cuda_mut())),
                dweight: weight.as_mut().map(Tensor::on_cuda_mut),
                dweight_bias: weight_bias.as_mut().map(Tensor::on_cuda_mut),
                dquery: query.as_mut().map(|query| cuda::RowsMut::contiguous(query.on_cuda_mut())),
                dbias: bias.as_mut().map(Tensor::on_cuda_mut),
            };
            gpu.with_scratch([operator.scratch_len(), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
