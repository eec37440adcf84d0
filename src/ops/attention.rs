mod backward;

pub use backward::{AttentionBackwardTensors, AttentionGradients, attention_backward};

use crate::cpu::{self, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::{Channels, check};
use crate::problem::{Alignment, AttentionKind, AttentionProblem, Mask};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Error, Result, Sequences, Tensor};

/// What attention may have besides queries, keys and values.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// What scores are multiplied by; 1 / sqrt(D) by default.
    pub scale: Option<f32>,
    /// Which keys a query sees; all of them by default.
    pub mask: Mask,
    /// Where queries stand among the keys; by default the last one at the last key.
    pub alignment: Alignment,
    /// How q groups into sequences; by default it is `[batch, Tq, H D]` without padding.
    pub queries: Option<&'a Sequences>,
    /// How k and v group into sequences; by default they are `[batch, Tk, H D]` without padding.
    pub keys: Option<&'a Sequences>,
    /// Fused by default.
    pub kind: AttentionKind,
}

/// Attention: softmax(q k^T scale + mask) v for each head (Vaswani et al. 2017, equation 1).
///
/// q `[batch, Tq, H D]`, k and v `[batch, Tk, H D]`, or packed `[tokens, H D]`; y as q. Query i stands at key position
/// i + Tk - Tq, unless the options say otherwise. A query that sees no key gets zeros, and so does one in the padding.
///
/// # Errors
///
/// For heads that do not divide the channels, tensors whose shapes, types or devices do not fit, and as
/// [`AttentionProblem`]'s constructors.
pub fn attention<'a>(
    q: impl Into<Channels<'a>>,
    k: impl Into<Channels<'a>>,
    v: impl Into<Channels<'a>>,
    heads: usize,
    options: &AttentionOptions<'_>,
) -> Result<Tensor> {
    let (q, k, v) = (q.into(), k.into(), v.into());
    let call = describe(q, k, v, heads, options)?;
    planned(q.tensor(), call.0, options.kind)?;
    let mut y = Tensor::zeros(&q.shape(), q.dtype(), q.device())?;
    launch(&call, q, k, v, options.kind, &mut y)?;
    Ok(y)
}

/// [`attention`] into a tensor that is there, of the shape and type of q.
///
/// # Errors
///
/// As [`attention`], and where y does not fit.
pub fn attention_into<'a>(
    y: &mut Tensor,
    q: impl Into<Channels<'a>>,
    k: impl Into<Channels<'a>>,
    v: impl Into<Channels<'a>>,
    heads: usize,
    options: &AttentionOptions<'_>,
) -> Result<()> {
    let (q, k, v) = (q.into(), k.into(), v.into());
    let call = describe(q, k, v, heads, options)?;
    planned(q.tensor(), call.0, options.kind)?;
    check::operand("y", y, q.tensor(), q.dtype(), &q.shape())?;
    launch(&call, q, k, v, options.kind, y)
}

type Call = (AttentionProblem, Sequences, Sequences);

fn describe(
    q: Channels<'_>,
    k: Channels<'_>,
    v: Channels<'_>,
    heads: usize,
    options: &AttentionOptions<'_>,
) -> Result<Call> {
    let (channels, queries) = check::tokens("q", q, options.queries)?;
    let (_, keys) = check::tokens("k", k, options.keys)?;
    if heads == 0 {
        return Err(Error::ZeroSize { what: "heads" });
    }
    if !channels.is_multiple_of(heads) {
        return Err(Error::Heads { heads, channels });
    }
    let mut problem =
        AttentionProblem::new(queries.shape(), keys.shape(), heads, channels / heads, q.dtype())?
            .with_mask(options.mask)
            .with_alignment(options.alignment);
    if let Some(scale) = options.scale {
        problem = problem.with_scale(scale)?;
    }
    let shape = keys.shape().tensor(channels);
    check::channels("k", k, q.tensor(), q.dtype(), &shape)?;
    check::channels("v", v, q.tensor(), q.dtype(), &shape)?;
    Ok((problem, queries, keys))
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(q: &Tensor, problem: AttentionProblem, kind: AttentionKind) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(q, |gpu| wgpu::Attention::new(gpu, problem, kind))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(q, |gpu| cuda::Attention::new(gpu, problem, kind))?;
    Ok(())
}

fn launch(
    (problem, queries, keys): &Call,
    q: Channels<'_>,
    k: Channels<'_>,
    v: Channels<'_>,
    kind: AttentionKind,
    y: &mut Tensor,
) -> Result<()> {
    match q.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::Attention::new(*problem, kind);
            let args = cpu::AttentionArgs {
                queries,
                keys,
                q: q.cpu(),
                k: k.cpu(),
                v: v.cpu(),
                y: RowsMut::contiguous(y.cpu_mut()),
            };
            scratch.with(operator.scratch_len(queries, keys), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::Attention::new(gpu, *problem, kind)?;
            let (queries, keys) = (gpu.sequences(queries)?, gpu.sequences(keys)?);
            let args = wgpu::AttentionArgs {
                queries: &queries,
                keys: &keys,
                q: q.wgpu(),
                k: k.wgpu(),
                v: v.wgpu(),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run([operator.scratch_len(&keys), 0], |[scratch, _]| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::Attention::new(gpu, *problem, kind)?;
            let (queries, keys) = (gpu.sequences(queries)?, gpu.sequences(keys)?);
            let args = cuda::AttentionArgs {
                queries: &queries,
                keys: &keys,
                q: q.cuda(),
                k: k.cuda(),
                v: v.cuda(),
                y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
            };
            gpu.with_scratch([operator.scratch_len(&keys), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
