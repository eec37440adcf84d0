mod backward;

pub use backward::{SpanConvGradients, span_conv_backward};

use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::{Channels, check};
use crate::problem::{Convolution, SpanConvProblem, same_or_f32};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dropout, Normalize, Result, Sequences, Tensor, Window};

/// What a span-based dynamic convolution must have.
#[derive(Clone, Copy, Debug)]
pub struct SpanConvTensors<'a> {
    /// `[batch, time, C]` or packed `[tokens, C]`.
    pub x: &'a Tensor,
    /// q `[.., A]`.
    pub query: Channels<'a>,
    /// v `[.., A]`.
    pub value: Channels<'a>,
    /// `[C, K]`, with K the width of the window; like all parameters of the type of `weight`.
    pub depthwise: &'a Tensor,
    /// `[A, C]`.
    pub pointwise: &'a Tensor,
    /// W `[H K, A]`.
    pub weight: &'a Tensor,
}

/// What a span-based dynamic convolution may have besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanConvOptions<'a> {
    /// `[A]`, added to the key before it is multiplied by the query.
    pub key_bias: Option<&'a Tensor>,
    /// `[H K]`, added to the generated logits.
    pub weight_bias: Option<&'a Tensor>,
    /// `[A]`, added to every token of a sequence.
    pub bias: Option<&'a Tensor>,
    /// How the weights are normalised; softmax over all taps by default.
    pub normalize: Normalize,
    /// How tokens group into sequences; by default x is `[batch, time, C]` without padding.
    pub sequences: Option<&'a Sequences>,
    /// The last (K - 1) r tokens of each sequence from before this call: of x, `[sequences, (K - 1) r, C]`, and of v,
    /// `[sequences, (K - 1) r, A]`. The window must be causal, and `sequences` must be given: the tokens gone by of
    /// [`Sequences::after`] say how much of the history there is.
    pub history: Option<SpanConvHistory<'a>>,
    /// Dropout of the weights over the values, for training; none by default.
    pub dropout: Option<Dropout>,
}

/// What a span-based dynamic convolution remembers.
#[derive(Clone, Copy, Debug)]
pub struct SpanConvHistory<'a> {
    /// Of x, `[sequences, (K - 1) r, C]`.
    pub x: &'a Tensor,
    /// Of v, `[sequences, (K - 1) r, A]`.
    pub value: &'a Tensor,
}

/// Span-based dynamic convolution: the dynamic convolution of v with kernels generated from
/// z = [`span_key`](crate::ops::span_key), one window for both (Jiang et al. 2020, section 3.2).
///
/// y `[.., A]` as v. The key crosses from one operator to the other in f32.
///
/// # Errors
///
/// For heads that do not divide A, tensors whose shapes, types or devices do not fit, and as the constructors of
/// [`Convolution`] and [`SpanConvProblem`].
pub fn span_conv(
    tensors: &SpanConvTensors<'_>,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
) -> Result<Tensor> {
    let call = describe(tensors, heads, window, options)?;
    planned(tensors.x, call.0)?;
    let mut y = Tensor::zeros(&tensors.value.shape(), tensors.x.dtype(), tensors.x.device())?;
    launch(&call, tensors, options, &mut y)?;
    Ok(y)
}

/// [`span_conv`] into a tensor that is there.
///
/// # Errors
///
/// As [`span_conv`], and where y does not fit.
pub fn span_conv_into(
    y: &mut Tensor,
    tensors: &SpanConvTensors<'_>,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
) -> Result<()> {
    let call = describe(tensors, heads, window, options)?;
    planned(tensors.x, call.0)?;
    check::operand("y", y, tensors.x, tensors.x.dtype(), &tensors.value.shape())?;
    launch(&call, tensors, options, y)
}

type Call = (SpanConvProblem, Sequences);

fn describe(
    tensors: &SpanConvTensors<'_>,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
) -> Result<Call> {
    let SpanConvTensors { x, query, value, depthwise, pointwise, weight } = *tensors;
    let (channels, sequences) = check::convolved("x", x, options.sequences, options.history.is_some())?;
    let (outputs, _) = check::tokens("query", query, Some(&sequences))?;
    same_or_f32("weight", x.dtype(), weight.dtype())?;
    let conv = Convolution::new(sequences.shape(), outputs, heads, window, x.dtype())?
        .with_normalize(options.normalize)
        .with_bias(options.bias.is_some())
        .with_parameters(weight.dtype())?
        .with_history(options.history.is_some())?
        .with_dropout(options.dropout.map(Dropout::rate));
    let problem = SpanConvProblem::new(channels, conv)?
        .with_key_bias(options.key_bias.is_some())
        .with_weight_bias(options.weight_bias.is_some());
    let (dtype, logits) = (conv.parameters(), problem.conv().logits());
    let tokens = sequences.shape().tensor(outputs);
    check::channels("query", query, x, x.dtype(), &tokens)?;
    check::channels("value", value, x, x.dtype(), &tokens)?;
    check::operand("depthwise", depthwise, x, dtype, &[channels, window.width()])?;
    check::operand("pointwise", pointwise, x, dtype, &[outputs, channels])?;
    check::operand("weight", weight, x, dtype, &[logits, outputs])?;
    check::optional("key_bias", options.key_bias, x, dtype, &[outputs])?;
    check::optional("weight_bias", options.weight_bias, x, dtype, &[logits])?;
    check::optional("bias", options.bias, x, dtype, &[outputs])?;
    if let Some(history) = options.history {
        let shape = problem.key().depthwise().history_shape();
        check::operand("history", history.x, x, x.dtype(), &shape)?;
        check::operand("value_history", history.value, x, x.dtype(), &conv.history_shape())?;
    }
    Ok((problem, sequences))
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(x: &Tensor, problem: SpanConvProblem) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::SpanConv::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::SpanConv::new(gpu, problem))?;
    Ok(())
}

fn launch(
    (problem, sequences): &Call,
    tensors: &SpanConvTensors<'_>,
    options: &SpanConvOptions<'_>,
    y: &mut Tensor,
) -> Result<()> {
    match tensors.x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::SpanConv::new(*problem);
            let args = cpu::SpanConvArgs {
                sequences,
                x: Rows::contiguous(tensors.x.cpu()),
                query: tensors.query.cpu(),
                value: tensors.value.cpu(),
                depthwise: tensors.depthwise.cpu(),
                pointwise: tensors.pointwise.cpu(),
                key_bias: options.key_bias.map(Tensor::cpu),
                weight: tensors.weight.cpu(),
                weight_bias: options.weight_bias.map(Tensor::cpu),
                bias: options.bias.map(Tensor::cpu),
                history: options.history.map(|history| history.x.cpu()),
                value_history: options.history.map(|history| history.value.cpu()),
                seed: options.dropout.map(Dropout::seed),
                y: RowsMut::contiguous(y.cpu_mut()),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::SpanConv::new(gpu, *problem)?;
            let args = wgpu::SpanConvArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(tensors.x.buffer()),
                query: tensors.query.wgpu(),
                value: tensors.value.wgpu(),
                depthwise: tensors.depthwise.buffer().into(),
                pointwise: tensors.pointwise.buffer().into(),
                key_bias: options.key_bias.map(|bias| bias.buffer().into()),
                weight: tensors.weight.buffer().into(),
                weight_bias: options.weight_bias.map(|bias| bias.buffer().into()),
                bias: options.bias.map(|bias| bias.buffer().into()),
                history: options.history.map(|history| history.x.buffer().into()),
                value_history: options.history.map(|history| history.value.buffer().into()),
                seed: options.dropout.map(Dropout::seed),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run(operator.scratch_len(), |scratch| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::SpanConv::new(gpu, *problem)?;
            let args = cuda::SpanConvArgs {
                sequences: &gpu.sequences(sequences)?,
                x: cuda::Rows::contiguous(tensors.x.on_cuda()),
                query: tensors.query.cuda(),
                value: tensors.value.cuda(),
                depthwise: tensors.depthwise.on_cuda(),
                pointwise: tensors.pointwise.on_cuda(),
                key_bias: options.key_bias.map(Tensor::on_cuda),
                weight: tensors.weight.on_cuda(),
                weight_bias: options.weight_bias.map(Tensor::on_cuda),
                bias: options.bias.map(Tensor::on_cuda),
                history: options.history.map(|history| history.x.on_cuda()),
                value_history: options.history.map(|history| history.value.on_cuda()),
                seed: options.dropout.map(Dropout::seed),
                y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
            };
            gpu.with_scratch(operator.scratch_len(), |scratch| operator.launch(args, scratch))
        }
    }
}
