mod backward;

pub use backward::{LightConvGradients, light_conv_backward};

use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::{Convolution, LightConvProblem, same_or_f32};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dropout, Normalize, Result, Sequences, Tensor, Window};

/// What a convolution may have besides its tokens and weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvOptions<'a> {
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

/// Light convolution: one filter for each head.
///
/// y\[b, t, c\] = bias\[c\] + sum_j w\[h(c), j\] x\[b, t + j r - P, c\], w = normalize(weight), h(c) = c / (C / H)
/// (Wu et al. 2019, equations 3 and 4). Depthwise convolution is H = C with [`Normalize::None`].
///
/// x `[batch, time, C]` or packed `[tokens, C]`; weight `[H, K]`, with K the width of the window; y as x.
///
/// ```
/// use lightspan::{Device, Tensor, Window, ops};
///
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 4, 1], &device)?;
/// let weight = Tensor::from_slice(&[0.0f32, 0.0], &[1, 2], &device)?;
/// let y = ops::light_conv(&x, &weight, Window::causal(2)?, &Default::default())?;
/// assert_eq!(y.to_f32()?, [0.5, 1.5, 2.5, 3.5]);
/// # Ok::<(), lightspan::Error>(())
/// ```
///
/// # Errors
///
/// For heads that do not divide the channels, tensors whose shapes, types or devices do not fit, and as
/// [`Convolution`]'s constructors.
pub fn light_conv(x: &Tensor, weight: &Tensor, window: Window, options: &ConvOptions<'_>) -> Result<Tensor> {
    let call = describe(x, weight, window, options)?;
    planned(x, call.0)?;
    let mut y = Tensor::unwritten(x.shape(), x.dtype(), x.device())?;
    launch(&call, x, weight, options, &mut y)?;
    Ok(y)
}

/// [`light_conv`] into a tensor that is there, of the shape and type of x.
///
/// # Errors
///
/// As [`light_conv`], and where y does not fit.
pub fn light_conv_into(
    y: &mut Tensor,
    x: &Tensor,
    weight: &Tensor,
    window: Window,
    options: &ConvOptions<'_>,
) -> Result<()> {
    let call = describe(x, weight, window, options)?;
    planned(x, call.0)?;
    check::operand("y", y, x, x.dtype(), x.shape())?;
    launch(&call, x, weight, options, y)
}

type Call = (LightConvProblem, Sequences);

fn describe(x: &Tensor, weight: &Tensor, window: Window, options: &ConvOptions<'_>) -> Result<Call> {
    let [heads, _] = check::matrix("weight", weight)?;
    let (conv, sequences) = convolution(x, heads, window, ("weight", weight), options)?;
    let problem = LightConvProblem::new(conv);
    check::operand("weight", weight, x, conv.parameters(), &problem.weight_shape())?;
    Ok((problem, sequences))
}

/// The convolution of x with parameters of the type of one of them, its options checked.
pub(crate) fn convolution(
    x: &Tensor,
    heads: usize,
    window: Window,
    (name, parameter): (&'static str, &Tensor),
    options: &ConvOptions<'_>,
) -> Result<(Convolution, Sequences)> {
    same_or_f32(name, x.dtype(), parameter.dtype())?;
    let (channels, sequences) = check::convolved("x", x, options.sequences, options.history.is_some())?;
    let conv = Convolution::new(sequences.shape(), channels, heads, window, x.dtype())?
        .with_normalize(options.normalize)
        .with_bias(options.bias.is_some())
        .with_parameters(parameter.dtype())?
        .with_history(options.history.is_some())?
        .with_dropout(options.dropout.map(Dropout::rate));
    check::optional("bias", options.bias, x, conv.parameters(), &[channels])?;
    check::optional("history", options.history, x, conv.dtype(), &conv.history_shape())?;
    Ok((conv, sequences))
}

/// An error where the device cannot do what the problem asks of it.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(unused_variables))]
fn planned(x: &Tensor, problem: LightConvProblem) -> Result<()> {
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::LightConv::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::LightConv::new(gpu, problem))?;
    Ok(())
}

fn launch(
    (problem, sequences): &Call,
    x: &Tensor,
    weight: &Tensor,
    options: &ConvOptions<'_>,
    y: &mut Tensor,
) -> Result<()> {
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::LightConv::new(*problem);
            let args = cpu::LightConvArgs {
                sequences,
                x: Rows::contiguous(x.cpu()),
                weight: weight.cpu(),
                bias: options.bias.map(Tensor::cpu),
                history: options.history.map(Tensor::cpu),
                seed: options.dropout.map(Dropout::seed),
                y: RowsMut::contiguous(y.cpu_mut()),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::LightConv::new(gpu, *problem)?;
            let args = wgpu::LightConvArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(x.buffer()),
                weight: weight.buffer().into(),
                bias: options.bias.map(|bias| bias.buffer().into()),
                history: options.history.map(|history| history.buffer().into()),
                seed: options.dropout.map(Dropout::seed),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::LightConv::new(gpu, *problem)?.launch(cuda::LightConvArgs {
            sequences: &gpu.sequences(sequences)?,
            x: cuda::Rows::contiguous(x.on_cuda()),
            weight: weight.on_cuda(),
            bias: options.bias.map(Tensor::on_cuda),
            history: options.history.map(Tensor::on_cuda),
            seed: options.dropout.map(Dropout::seed),
            y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
        }),
    }
}
