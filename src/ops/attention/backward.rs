use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::attention::{AttentionOptions, describe};
use crate::ops::check;
use crate::problem::{AttentionBackwardProblem, AttentionKind, AttentionWanted};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Result, Sequences, Tensor};

/// The gradients of an [`attention`](crate::ops::attention): those that are wanted.
#[derive(Debug, Default)]
pub struct AttentionGradients {
    /// As q.
    pub q: Option<Tensor>,
    /// As k.
    pub k: Option<Tensor>,
    /// As v.
    pub v: Option<Tensor>,
}

/// What [`attention_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackwardTensors<'a> {
    /// `[batch, Tq, H D]`, or packed `[tokens, H D]`.
    pub q: &'a Tensor,
    /// `[batch, Tk, H D]`, or packed `[tokens, H D]`.
    pub k: &'a Tensor,
    /// As k.
    pub v: &'a Tensor,
    /// The output of the forward pass, as q.
    pub y: &'a Tensor,
    /// The gradient of y, as q.
    pub dy: &'a Tensor,
}

/// The gradients of [`attention`](crate::ops::attention) from its output y and dy, that of the output.
///
/// For each head, with p the weights, computed again from q and k: dv = p^T dy, ds\[i, n\] = p\[i, n\] (dy\[i\] v\[n\] - dy\[i\]
/// y\[i\]), dq = scale ds k, dk = scale ds^T q (Dao et al. 2022, appendix B). Only what is `wanted` is computed; fused, no more
/// than three numbers for each query and head are kept in memory. The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`attention`](crate::ops::attention), and where y or dy does not fit.
pub fn attention_backward(
    tensors: &AttentionBackwardTensors<'_>,
    heads: usize,
    options: &AttentionOptions<'_>,
    wanted: &AttentionWanted,
) -> Result<AttentionGradients> {
    let AttentionBackwardTensors { q, k, v, y, dy } = *tensors;
    let (forward, queries, keys) = describe(q.into(), k.into(), v.into(), heads, options)?;
    let problem = AttentionBackwardProblem::new(forward, *wanted);
    check::operand("y", y, q, q.dtype(), q.shape())?;
    check::operand("dy", dy, q, q.dtype(), q.shape())?;
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(q, |gpu| wgpu::AttentionBackward::new(gpu, problem, options.kind))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(q, |gpu| cuda::AttentionBackward::new(gpu, problem, options.kind))?;
    let mut gradients = AttentionGradients {
        q: check::gradient(wanted.q, q.shape(), q.dtype(), q)?,
        k: check::gradient(wanted.k, k.shape(), q.dtype(), q)?,
        v: check::gradient(wanted.v, v.shape(), q.dtype(), q)?,
    };
    launch(&problem, options.kind, [&queries, &keys], tensors, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    problem: &AttentionBackwardProblem,
    kind: AttentionKind,
    [queries, keys]: [&Sequences; 2],
    tensors: &AttentionBackwardTensors<'_>,
    gradients: &mut AttentionGradients,
) -> Result<()> {
    match tensors.q.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::AttentionBackward::new(*problem, kind);
            let args = cpu::AttentionBackwardArgs {
                queries,
                keys,
                q: Rows::contiguous(tensors.q.cpu()),
                k: Rows::contiguous(tensors.k.cpu()),
                v: Rows::contiguous(tensors.v.cpu()),
                y: Rows::contiguous(tensors.y.cpu()),
                dy: Rows::contiguous(tensors.dy.cpu()),
                dq: gradients.q.as_mut().map(|dq| RowsMut::contiguous(dq.cpu_mut())),
                dk: gradients.k.as_mut().map(|dk| RowsMut::contiguous(dk.cpu_mut())),
                dv: gradients.v.as_mut().map(|dv| RowsMut::contiguous(dv.cpu_mut())),
            };
            scratch.with(operator.scratch_len(queries, keys), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::AttentionBackward::new(gpu, *problem, kind)?;
            let (queries, keys) = (gpu.sequences(queries)?, gpu.sequences(keys)?);
            let args = wgpu::AttentionBackwardArgs {
                queries: &queries,
                keys: &keys,
                q: wgpu::Rows::contiguous(tensors.q.buffer()),
                k: wgpu::Rows::contiguous(tensors.k.buffer()),
                v: wgpu::Rows::contiguous(tensors.v.buffer()),
                y: wgpu::Rows::contiguous(tensors.y.buffer()),
                dy: wgpu::Rows::contiguous(tensors.dy.buffer()),
                dq: gradients.q.as_ref().map(|dq| wgpu::Rows::contiguous(dq.buffer())),
                dk: gradients.k.as_ref().map(|dk| wgpu::Rows::contiguous(dk.buffer())),
                dv: gradients.v.as_ref().map(|dv| wgpu::Rows::contiguous(dv.buffer())),
            };
            gpu.run([operator.scratch_len(&keys), 0], |[scratch, _]| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::AttentionBackward::new(gpu, *problem, kind)?;
            let (queries, keys) = (gpu.sequences(queries)?, gpu.sequences(keys)?);
            let args = cuda::AttentionBackwardArgs {
                queries: &queries,
                keys: &keys,
                q: cuda::Rows::contiguous(tensors.q.on_cuda()),
                k: cuda::Rows::contiguous(tensors.k.on_cuda()),
                v: cuda::Rows::contiguous(tensors.v.on_cuda()),
                y: cuda::Rows::contiguous(tensors.y.on_cuda()),
                dy: cuda::Rows::contiguous(tensors.dy.on_cuda()),
                dq: gradients.q.as_mut().map(|dq| cuda::RowsMut::contiguous(dq.on_cuda_mut())),
                dk: gradients.k.as_mut().map(|dk| cuda::RowsMut::contiguous(dk.on_cuda_mut())),
                dv: gradients.v.as_mut().map(|dv| cuda::RowsMut::contiguous(dv.on_cuda_mut())),
            };
            gpu.with_scratch([operator.scratch_len(&keys), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
