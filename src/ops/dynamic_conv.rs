mod backward;

pub use backward::{DynamicConvGradients, dynamic_conv_backward, dynamic_conv_given_backward};

use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::ops::light_conv::{ConvOptions, convolution};
use crate::problem::DynamicConvProblem;
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dims, Dropout, Error, Normalize, Result, Sequences, Tensor, Window};

/// What a dynamic convolution may have besides its tokens and generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct DynamicConvOptions<'a> {
    /// q `[.., Cq]`, which generates the kernels; x by default. In the type of x, or f32.
    pub query: Option<&'a Tensor>,
    /// `[H K]`, added to the generated logits; of the type of the weight.
    pub weight_bias: Option<&'a Tensor>,
    /// `[C]`, added to every token of a sequence; of the type of the weight.
    pub bias: Option<&'a Tensor>,
    /// How the weights are normalised; softmax over all taps by default.
    pub normalize: Normalize,
    /// How tokens group into sequences; by default x is `[batch, time, C]` without padding.
    pub sequences: Option<&'a Sequences>,
    /// The last (K - 1) r tokens of each sequence from before this call, `[sequences, (K - 1) r, C]`, as
    /// [`history`](crate::ops::history) makes them. The window must be causal, and `sequences` must be given: the
    /// tokens gone by of [`Sequences::after`] say how much of the history there is.
    pub history: Option<&'a Tensor>,
    /// Weight dropout, for training; none by default.
    pub dropout: Option<Dropout>,
}

impl<'a> DynamicConvOptions<'a> {
    fn convolution(&self) -> ConvOptions<'a> {
        let Self { bias, normalize, sequences, history, dropout, .. } = *self;
        ConvOptions { bias, normalize, sequences, history, dropout }
    }
}

/// Dynamic convolution: each token generates a filter for each head.
///
/// y\[b, t, c\] = bias\[c\] + sum_j normalize(logits)\[b, t, h(c), j\] x\[b, t + j r - P, c\], logits\[b, t, h, j\] =
/// (W q\[b, t\] + w_bias)\[h K + j\] (Wu et al. 2019, equation 5).
///
/// x `[batch, time, C]` or packed `[tokens, C]`; weight W `[H K, Cq]`, with K the width of the window; y as x.
///
/// # Errors
///
/// For heads that do not divide the channels, tensors whose shapes, types or devices do not fit, and as the
/// constructors of [`Convolution`](crate::problem::Convolution) and [`DynamicConvProblem`].
pub fn dynamic_conv(
    x: &Tensor,
    weight: &Tensor,
    heads: usize,
    window: Window,
    options: &DynamicConvOptions<'_>,
) -> Result<Tensor> {
    let call = describe(x, weight, heads, window, options)?;
    planned(x, call.0)?;
    let mut y = Tensor::zeros(x.shape(), x.dtype(), x.device())?;
    launch(&call, x, Taps::Generated(weight, options), &options.convolution(), &mut y)?;
    Ok(y)
}

/// [`dynamic_conv`] into a tensor that is there, of the shape and type of x.
///
/// # Errors
///
/// As [`dynamic_conv`], and where y does not fit.
pub fn dynamic_conv_into(
    y: &mut Tensor,
    x: &Tensor,
    weight: &Tensor,
    heads: usize,
    window: Window,
    options: &DynamicConvOptions<'_>,
) -> Result<()> {
    let call = describe(x, weight, heads, window, options)?;
    planned(x, call.0)?;
    check::operand("y", y, x, x.dtype(), x.shape())?;
    launch(&call, x, Taps::Generated(weight, options), &options.convolution(), y)
}

/// Dynamic convolution with logits that are given.
///
/// x `[batch, time, C]` or packed `[tokens, C]`; logits `[batch, time, H, K]` or `[tokens, H, K]` in the type of x or
/// f32, with K the width of the window; y as x.
///
/// # Errors
///
/// As [`dynamic_conv`].
pub fn dynamic_conv_given(
    x: &Tensor,
    logits: &Tensor,
    window: Window,
    options: &ConvOptions<'_>,
) -> Result<Tensor> {
    let call = describe_given(x, logits, window, options)?;
    planned(x, call.0)?;
    let mut y = Tensor::zeros(x.shape(), x.dtype(), x.device())?;
    launch(&call, x, Taps::Given(logits), options, &mut y)?;
    Ok(y)
}

/// [`dynamic_conv_given`] into a tensor that is there, of the shape and type of x.
///
/// # Errors
///
/// As [`dynamic_conv`], and where y does not fit.
pub fn dynamic_conv_given_into(
    y: &mut Tensor,
    x: &Tensor,
    logits: &Tensor,
    window: Window,
    options: &ConvOptions<'_>,
) -> Result<()> {
    let call = describe_given(x, logits, window, options)?;
    planned(x, call.0)?;
    check::operand("y", y, x, x.dtype(), x.shape())?;
    launch(&call, x, Taps::Given(logits), options, y)
}

type Call = (DynamicConvProblem, Sequences);

fn describe(
    x: &Tensor,
    weight: &Tensor,
    heads: usize,
    window: Window,
    options: &DynamicConvOptions<'_>,
) -> Result<Call> {
    let (conv, sequences) = convolution(x, heads, window, ("weight", weight), &options.convolution())?;
    let mut problem = DynamicConvProblem::generated(conv)?;
    let mut query_channels = conv.channels();
    if let Some(query) = options.query {
        query_channels = query.shape().last().copied().unwrap_or(0);
        problem = problem.with_query(query_channels, query.dtype())?;
        let shape = sequences.shape().tensor(query_channels);
        check::operand("query", query, x, query.dtype(), &shape)?;
    }
    let problem = problem.with_weight_bias(options.weight_bias.is_some())?;
    let dtype = conv.parameters();
    check::operand("weight", weight, x, dtype, &[problem.logits(), query_channels])?;
    check::optional("weight_bias", options.weight_bias, x, dtype, &[problem.logits()])?;
    Ok((problem, sequences))
}

fn describe_given(x: &Tensor, logits: &Tensor, window: Window, options: &ConvOptions<'_>) -> Result<Call> {
    // The tokens' own sizes, then H and K.
    let tokens = x.shape().len().saturating_sub(1);
    let mut expected = x.shape()[..tokens].to_vec();
    let heads = match logits.shape() {
        [.., heads, _] if logits.shape().len() == tokens + 2 => *heads,
        got => {
            let mut expected: Vec<_> = expected.into_iter().map(Some).collect();
            expected.extend([None, Some(window.width())]);
            return Err(Error::Shape { tensor: "logits", expected: Dims(expected), got: got.into() });
        }
    };
    let (conv, sequences) = convolution(x, heads, window, ("logits", logits), options)?;
    expected.extend([heads, window.width()]);
    check::operand("logits", logits, x, conv.parameters(), &expected)?;
    let problem = DynamicConvProblem::given(conv)?;
    Ok((problem, sequences))
}

/// Where the taps come from.
#[derive(Clone, Copy)]
enum Taps<'a> {
    Given(&'a Tensor),
    Generated(&'a Tensor, &'a DynamicConvOptions<'a>),
}

impl<'a> Taps<'a> {
    fn on_cpu(self) -> cpu::TapArgs<'a> {
        match self {
            Taps::Given(logits) => cpu::TapArgs::Given { logits: Rows::contiguous(logits.cpu()) },
            Taps::Generated(weight, options) => cpu::TapArgs::Generated {
                weight: weight.cpu(),
                weight_bias: options.weight_bias.map(Tensor::cpu),
                query: options.query.map(|query| Rows::contiguous(query.cpu())),
            },
        }
    }

    #[cfg(feature = "wgpu")]
    fn on_wgpu(self) -> wgpu::TapArgs<'a> {
        match self {
            Taps::Given(logits) => wgpu::TapArgs::Given { logits: wgpu::Rows::contiguous(logits.buffer()) },
            Taps::Generated(weight, options) => wgpu::TapArgs::Generated {
                weight: weight.buffer().into(),
                weight_bias: options.weight_bias.map(|bias| bias.buffer().into()),
                query: options.query.map(|query| wgpu::Rows::contiguous(query.buffer())),
            },
        }
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(self) -> cuda::TapArgs<'a> {
        match self {
            Taps::Given(logits) => cuda::TapArgs::Given { logits: cuda::Rows::contiguous(logits.on_cuda()) },
            Taps::Generated(weight, options) => cuda::TapArgs::Generated {
                weight: weight.on_cuda(),
                weight_bias: options.weight_bias.map(Tensor::on_cuda),
                query: options.query.map(|query| cuda::Rows::contiguous(query.on_cuda())),
            },
        }
    }
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(x: &Tensor, problem: DynamicConvProblem) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::DynamicConv::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::DynamicConv::new(gpu, problem))?;
    Ok(())
}

fn launch(
    (problem, sequences): &Call,
    x: &Tensor,
    taps: Taps<'_>,
    options: &ConvOptions<'_>,
    y: &mut Tensor,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::DynamicConv::new(*problem);
            let args = cpu::DynamicConvArgs {
                sequences,
                x: Rows::contiguous(x.cpu()),
                taps: taps.on_cpu(),
                bias: options.bias.map(Tensor::cpu),
                history: options.history.map(Tensor::cpu),
                seed: options.dropout.map(Dropout::seed),
                y: RowsMut::contiguous(y.cpu_mut()),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::DynamicConv::new(gpu, *problem)?;
            let args = wgpu::DynamicConvArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(x.buffer()),
                taps: taps.on_wgpu(),
                bias: options.bias.map(|bias| bias.buffer().into()),
                history: options.history.map(|history| history.buffer().into()),
                seed: options.dropout.map(Dropout::seed),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run([operator.scratch_len(), 0], |[scratch, _]| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::DynamicConv::new(gpu, *problem)?;
            let args = cuda::DynamicConvArgs {
                sequences: &gpu.sequences(sequences)?,
                x: cuda::Rows::contiguous(x.on_cuda()),
                taps: taps.on_cuda(),
                bias: options.bias.map(Tensor::on_cuda),
                history: options.history.map(Tensor::on_cuda),
                seed: options.dropout.map(Dropout::seed),
                y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
            };
            gpu.with_scratch([operator.scratch_len(), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
