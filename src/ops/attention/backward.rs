use crate::device::Room;
use crate::ops::attention::{AttentionOptions, describe};
use crate::ops::check;
use crate::problem::{AttentionBackwardProblem, AttentionKind, AttentionWanted};
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
/// than two numbers for each query and head are kept in memory. The same call gives the same bits each time on one device.
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
    let (forward, queries, keys) = describe(q, k, v, heads, options)?;
    let problem = AttentionBackwardProblem::new(forward, *wanted);
    check::operand("y", y, q, q.dtype(), q.shape())?;
    check::operand("dy", dy, q, q.dtype(), q.shape())?;
    let mut gradients = AttentionGradients {
        q: check::gradient(wanted.q, q.shape(), q.dtype(), q)?,
        k: check::gradient(wanted.k, k.shape(), q.dtype(), q)?,
        v: check::gradient(wanted.v, v.shape(), q.dtype(), q)?,
    };
    launch(&problem, options.kind, [&queries, &keys], tensors, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    _problem: &AttentionBackwardProblem,
    _kind: AttentionKind,
    [_queries, _keys]: [&Sequences; 2],
    tensors: &AttentionBackwardTensors<'_>,
    _gradients: &mut AttentionGradients,
) -> Result<()> {
    match tensors.q.device().room() {
        Room::Cpu(_) => Err(check::no_backward(tensors.q)),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(_) => Err(check::no_backward(tensors.q)),
        #[cfg(feature = "cuda")]
        Room::Cuda(_) => Err(check::no_backward(tensors.q)),
    }
}
