use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::ops::span_key::{SpanKeyOptions, SpanKeyTensors, describe};
use crate::problem::{SpanKeyBackwardProblem, SpanKeyWanted};
#[cfg(feature = "wgpu")]
use crate::wgpu;
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
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::SpanKeyBackward::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::SpanKeyBackward::new(gpu, problem))?;
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
    problem: &SpanKeyBackwardProblem,
    sequences: &Sequences,
    tensors: &SpanKeyTensors<'_>,
    dz: &Tensor,
    options: &SpanKeyOptions<'_>,
    gradients: &mut SpanKeyGradients,
) -> Result<()> {
    match tensors.x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::SpanKeyBackward::new(*problem);
            let args = cpu::SpanKeyBackwardArgs {
                sequences,
                x: Rows::contiguous(tensors.x.cpu()),
                query: Rows::contiguous(tensors.query.cpu()),
                depthwise: tensors.depthwise.cpu(),
                pointwise: tensors.pointwise.cpu(),
                key_bias: options.key_bias.map(Tensor::cpu),
                dz: Rows::contiguous(dz.cpu()),
                dx: gradients.x.as_mut().map(|dx| RowsMut::contiguous(dx.cpu_mut())),
                dquery: gradients.query.as_mut().map(|dquery| RowsMut::contiguous(dquery.cpu_mut())),
                ddepthwise: gradients.depthwise.as_mut().map(Tensor::cpu_mut),
                dpointwise: gradients.pointwise.as_mut().map(Tensor::cpu_mut),
                dkey_bias: gradients.key_bias.as_mut().map(Tensor::cpu_mut),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::SpanKeyBackward::new(gpu, *problem)?;
            let args = wgpu::SpanKeyBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(tensors.x.buffer()),
                query: wgpu::Rows::contiguous(tensors.query.buffer()),
                depthwise: tensors.depthwise.buffer().into(),
                pointwise: tensors.pointwise.buffer().into(),
                key_bias: options.key_bias.map(|bias| bias.buffer().into()),
                dz: wgpu::Rows::contiguous(dz.buffer()),
                dx: gradients.x.as_ref().map(|dx| wgpu::Rows::contiguous(dx.buffer())),
                dquery: gradients.query.as_ref().map(|dquery| wgpu::Rows::contiguous(dquery.buffer())),
                ddepthwise: gradients.depthwise.as_ref().map(|ddepthwise| ddepthwise.buffer().into()),
                dpointwise: gradients.pointwise.as_ref().map(|dpointwise| dpointwise.buffer().into()),
                dkey_bias: gradients.key_bias.as_ref().map(|dkey_bias| dkey_bias.buffer().into()),
            };
            gpu.run(operator.scratch_len(), |scratch| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::SpanKeyBackward::new(gpu, *problem)?;
            let sequences = gpu.sequences(sequences)?;
            let args = cuda::SpanKeyBackwardArgs {
                sequences: &sequences,
                x: cuda::Rows::contiguous(tensors.x.on_cuda()),
                query: cuda::Rows::contiguous(tensors.query.on_cuda()),
                depthwise: tensors.depthwise.on_cuda(),
                pointwise: tensors.pointwise.on_cuda(),
                key_bias: options.key_bias.map(Tensor::on_cuda),
                dz: cuda::Rows::contiguous(dz.on_cuda()),
                dx: gradients.x.as_mut().map(|dx| cuda::RowsMut::contiguous(dx.on_cuda_mut())),
                dquery: gradients
                    .query
                    .as_mut()
                    .map(|dquery| cuda::RowsMut::contiguous(dquery.on_cuda_mut())),
                ddepthwise: gradients.depthwise.as_mut().map(Tensor::on_cuda_mut),
                dpointwise: gradients.pointwise.as_mut().map(Tensor::on_cuda_mut),
                dkey_bias: gradients.key_bias.as_mut().map(Tensor::on_cuda_mut),
            };
            gpu.with_scratch([operator.scratch_len(), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
