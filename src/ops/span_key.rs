mod backward;

pub use backward::{SpanKeyGradients, span_key_backward};

use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::{SpanKeyProblem, same_or_f32};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{DType, Result, Sequences, Tensor, Window};

/// What a span-aware key must have.
#[derive(Clone, Copy, Debug)]
pub struct SpanKeyTensors<'a> {
    /// `[batch, time, C]` or packed `[tokens, C]`.
    pub x: &'a Tensor,
    /// q `[.., A]`.
    pub query: &'a Tensor,
    /// `[C, K]`, with K the width of the window; the other parameters are of its type.
    pub depthwise: &'a Tensor,
    /// `[A, C]`.
    pub pointwise: &'a Tensor,
}

/// What a span-aware key may have besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanKeyOptions<'a> {
    /// `[A]`.
    pub key_bias: Option<&'a Tensor>,
    /// How tokens group into sequences; by default x is `[batch, time, C]` without padding.
    pub sequences: Option<&'a Sequences>,
    /// The last (K - 1) r tokens of each sequence of x from before this call, `[sequences, (K - 1) r, C]`. The window
    /// must be causal, and `sequences` must be given: the tokens gone by of [`Sequences::after`] say how much of the
    /// history there is.
    pub history: Option<&'a Tensor>,
    /// The type of z: that of x (the default), or f32.
    pub output: Option<DType>,
}

/// The span-aware key of ConvBERT times the query: z = (pointwise(depthwise_K(x)) + key_bias) q, `[.., A]` (Jiang et
/// al. 2020, section 3.2).
///
/// # Errors
///
/// For tensors whose shapes, types or devices do not fit, and as [`SpanKeyProblem`]'s constructors.
pub fn span_key(
    tensors: &SpanKeyTensors<'_>,
    window: Window,
    options: &SpanKeyOptions<'_>,
) -> Result<Tensor> {
    let call = describe(tensors, window, options)?;
    planned(tensors.x, call.0)?;
    let mut z = Tensor::zeros(tensors.query.shape(), call.0.output(), tensors.x.device())?;
    launch(&call, tensors, options, &mut z)?;
    Ok(z)
}

/// [`span_key`] into a tensor that is there.
///
/// # Errors
///
/// As [`span_key`], and where z does not fit.
pub fn span_key_into(
    z: &mut Tensor,
    tensors: &SpanKeyTensors<'_>,
    window: Window,
    options: &SpanKeyOptions<'_>,
) -> Result<()> {
    let call = describe(tensors, window, options)?;
    planned(tensors.x, call.0)?;
    check::operand("z", z, tensors.x, call.0.output(), tensors.query.shape())?;
    launch(&call, tensors, options, z)
}

type Call = (SpanKeyProblem, Sequences);

fn describe(tensors: &SpanKeyTensors<'_>, window: Window, options: &SpanKeyOptions<'_>) -> Result<Call> {
    let SpanKeyTensors { x, query, depthwise, pointwise } = *tensors;
    let (channels, sequences) = check::convolved("x", x, options.sequences, options.history.is_some())?;
    let (outputs, _) = check::tokens("query", query, Some(&sequences))?;
    same_or_f32("depthwise", x.dtype(), depthwise.dtype())?;
    let problem = SpanKeyProblem::new(sequences.shape(), channels, outputs, window, x.dtype())?
        .with_parameters(depthwise.dtype())?
        .with_key_bias(options.key_bias.is_some())
        .with_history(options.history.is_some())?
        .with_output(options.output.unwrap_or(x.dtype()))?;
    let conv = problem.depthwise();
    let dtype = conv.parameters();
    check::operand("query", query, x, x.dtype(), &sequences.shape().tensor(outputs))?;
    check::operand("depthwise", depthwise, x, dtype, &[channels, window.width()])?;
    check::operand("pointwise", pointwise, x, dtype, &[outputs, channels])?;
    check::optional("key_bias", options.key_bias, x, dtype, &[outputs])?;
    check::optional("history", options.history, x, x.dtype(), &conv.history_shape())?;
    Ok((problem, sequences))
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(x: &Tensor, problem: SpanKeyProblem) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::SpanKey::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::SpanKey::new(gpu, problem))?;
    Ok(())
}

fn launch(
    (problem, sequences): &Call,
    tensors: &SpanKeyTensors<'_>,
    options: &SpanKeyOptions<'_>,
    z: &mut Tensor,
) -> Result<()> {
    match tensors.x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::SpanKey::new(*problem);
            let args = cpu::SpanKeyArgs {
                sequences,
                x: Rows::contiguous(tensors.x.cpu()),
                query: Rows::contiguous(tensors.query.cpu()),
                depthwise: tensors.depthwise.cpu(),
                pointwise: tensors.pointwise.cpu(),
                key_bias: options.key_bias.map(Tensor::cpu),
                history: options.history.map(Tensor::cpu),
                z: RowsMut::contiguous(z.cpu_mut()),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::SpanKey::new(gpu, *problem)?;
            let args = wgpu::SpanKeyArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(tensors.x.buffer()),
                query: wgpu::Rows::contiguous(tensors.query.buffer()),
                depthwise: tensors.depthwise.buffer().into(),
                pointwise: tensors.pointwise.buffer().into(),
                key_bias: options.key_bias.map(|bias| bias.buffer().into()),
                history: options.history.map(|history| history.buffer().into()),
                z: wgpu::Rows::contiguous(z.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::SpanKey::new(gpu, *problem)?;
            operator.launch(cuda::SpanKeyArgs {
                sequences: &gpu.sequences(sequences)?,
                x: cuda::Rows::contiguous(tensors.x.on_cuda()),
                query: cuda::Rows::contiguous(tensors.query.on_cuda()),
                depthwise: tensors.depthwise.on_cuda(),
                pointwise: tensors.pointwise.on_cuda(),
                key_bias: options.key_bias.map(Tensor::on_cuda),
                history: options.history.map(Tensor::on_cuda),
                z: cuda::RowsMut::contiguous(z.on_cuda_mut()),
            })
        }
    }
}
