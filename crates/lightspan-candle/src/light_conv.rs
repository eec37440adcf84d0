use candle_core::{Result, Shape, Tensor};
use lightspan::problem::{Convolution, LightConvBackwardProblem, LightConvProblem, LightConvWanted};
use lightspan::{DType, Dropout, Normalize, Sequences, Window, cpu};

use crate::check::{self, Named};
use crate::error::carry;
use crate::operation::{Operator, Role, RunsOn, apply};
#[cfg(feature = "cuda")]
use crate::room::Cuda;
use crate::room::{Cpu, Input, there, with_scratch};

/// What a convolution may have besides its tokens and weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvOptions<'a> {
    /// `[C]`, added to every token of a sequence; of the type of the weight.
    pub bias: Option<&'a Tensor>,
    /// How the weights are normalised; softmax over all taps by default.
    pub normalize: Normalize,
    /// How tokens group into sequences; by default x is `[batch, time, C]` without padding.
    pub sequences: Option<&'a Sequences>,
    /// Weight dropout, for training; none by default. Another seed drops other weights: take a new one for each step.
    pub dropout: Option<Dropout>,
}

/// Light convolution: one filter for each head.
///
/// y\[b, t, c\] = bias\[c\] + sum_j w\[h(c), j\] x\[b, t + j r - P, c\], w = normalize(weight), h(c) = c / (C / H)
/// (Wu et al. 2019, equations 3 and 4). Depthwise convolution is H = C with [`Normalize::None`].
///
/// x `[batch, time, C]` or packed `[tokens, C]`; weight `[H, K]`, with K the width of the window, in the type of x or f32; y as
/// x. Gradients of x, weight and bias, each in its own type.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use lightspan_candle::{Window, light_conv};
///
/// let x = Tensor::new(&[[[1f32], [2.], [3.], [4.]]], &Device::Cpu)?;
/// let weight = Var::zeros((1, 2), x.dtype(), &Device::Cpu)?;
/// let y = light_conv(&x, &weight, Window::causal(2)?, &Default::default())?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0.5, 1.5, 2.5, 3.5]);
///
/// let gradients = y.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&weight).map(|dweight| dweight.dims().to_vec()), Some(vec![1, 2]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// For heads that do not divide the channels, tensors whose shapes, types or devices do not fit, sequences that continue others
/// (there is no place for their history), and as [`Convolution`]'s constructors: [`lightspan_error`](crate::lightspan_error)
/// gives the error of lightspan that it carries.
pub fn light_conv(x: &Tensor, weight: &Tensor, window: Window, options: &ConvOptions<'_>) -> Result<Tensor> {
    let named = |name, tensor| Named::new(LightConv::NAME, name, tensor);
    let (x, weight) = (named("x", x)?, named("weight", weight)?);
    let bias = Named::optional(LightConv::NAME, "bias", options.bias)?;
    let operator = describe(x, weight, bias, window, options).map_err(carry(LightConv::NAME))?;
    let inputs = [
        Some((Role::Tokens(1), x)),
        Some((Role::Parameter, weight)),
        bias.map(|bias| (Role::Parameter, bias)),
    ];
    apply(operator, inputs)
}

struct LightConv {
    problem: LightConvProblem,
    sequences: Sequences,
    seed: Option<u64>,
    shape: Shape,
}

fn describe(
    x: Named<'_>,
    weight: Named<'_>,
    bias: Option<Named<'_>>,
    window: Window,
    options: &ConvOptions<'_>,
) -> lightspan::Result<LightConv> {
    let [heads, _] = weight.matrix()?;
    let (conv, sequences) = convolution(x, heads, window, weight, bias, options)?;
    let problem = LightConvProblem::new(conv);
    weight.operand(&x, conv.parameters(), &problem.weight_shape())?;
    let seed = options.dropout.map(Dropout::seed);
    Ok(LightConv { problem, sequences, seed, shape: x.tensor.shape().clone() })
}

/// The convolution of x with parameters of the type of one of them, its options checked.
pub(crate) fn convolution(
    x: Named<'_>,
    heads: usize,
    window: Window,
    parameter: Named<'_>,
    bias: Option<Named<'_>>,
    options: &ConvOptions<'_>,
) -> lightspan::Result<(Convolution, Sequences)> {
    check::device(x.tensor.device())?;
    parameter.same_or_f32(x.dtype)?;
    let (channels, sequences) = x.convolved(options.sequences)?;
    let conv = Convolution::new(sequences.shape(), channels, heads, window, x.dtype)?
        .with_normalize(options.normalize)
        .with_bias(bias.is_some())
        .with_parameters(parameter.dtype)?
        .with_dropout(options.dropout.map(Dropout::rate));
    check::optional(bias, &x, conv.parameters(), &[channels])?;
    Ok((conv, sequences))
}

/// x, weight and bias.
impl Operator<3> for LightConv {
    const NAME: &'static str = "light_conv";

    fn output(&self) -> (&Shape, DType) {
        (&self.shape, self.problem.convolution().dtype())
    }
}

impl LightConv {
    fn backward_problem<T>(
        &self,
        [x, weight, bias]: &[Option<T>; 3],
    ) -> lightspan::Result<LightConvBackwardProblem> {
        let (x, weight, bias) = (x.is_some(), weight.is_some(), bias.is_some());
        let wanted = LightConvWanted { x, weight, bias, ..LightConvWanted::NONE };
        LightConvBackwardProblem::new(self.problem, wanted)
    }
}

impl RunsOn<Cpu, 3> for LightConv {
    fn forward(
        &self,
        _: &Cpu,
        [x, weight, bias]: [Option<Input<cpu::Elements<'_>>>; 3],
        y: cpu::ElementsMut<'_>,
    ) -> lightspan::Result<()> {
        let operator = cpu::LightConv::new(self.problem);
        let args = cpu::LightConvArgs {
            sequences: &self.sequences,
            x: there(x, "x")?.rows(),
            weight: there(weight, "weight")?.elements,
            bias: bias.map(|bias| bias.elements),
            history: None,
            seed: self.seed,
            y: cpu::RowsMut::contiguous(y),
        };
        with_scratch(operator.scratch_len(), |scratch| operator.run(args, scratch))
    }

    fn backward(
        &self,
        _: &Cpu,
        [x, weight, _]: [Option<Input<cpu::Elements<'_>>>; 3],
        dy: Input<cpu::Elements<'_>>,
        gradients: [Option<cpu::ElementsMut<'_>>; 3],
    ) -> lightspan::Result<()> {
        let operator = cpu::LightConvBackward::new(self.backward_problem(&gradients)?);
        let [dx, dweight, dbias] = gradients;
        let args = cpu::LightConvBackwardArgs {
            sequences: &self.sequences,
            x: there(x, "x")?.rows(),
            weight: there(weight, "weight")?.elements,
            seed: self.seed,
            dy: dy.rows(),
            dx: dx.map(cpu::RowsMut::contiguous),
            dweight,
            dbias,
        };
        with_scratch(operator.scratch_len(), |scratch| operator.run(args, scratch))
    }
}

#[cfg(feature = "cuda")]
mod on_cuda {
    use lightspan::cuda;

    use super::*;

    impl RunsOn<Cuda, 3> for LightConv {
        fn forward(
            &self,
            room: &Cuda,
            [x, weight, bias]: [Option<Input<cuda::Elements<'_>>>; 3],
            mut y: cuda::ElementsMut<'_>,
        ) -> lightspan::Result<()> {
            cuda::LightConv::new(room.gpu(), self.problem)?.launch(cuda::LightConvArgs {
                sequences: &room.sequences(&self.sequences)?,
                x: there(x, "x")?.rows(),
                weight: there(weight, "weight")?.elements,
                bias: bias.map(|bias| bias.elements),
                history: None,
                seed: self.seed,
                y: cuda::RowsMut::contiguous(y.reborrow()),
            })
        }

        fn backward(
            &self,
            room: &Cuda,
            [x, weight, _]: [Option<Input<cuda::Elements<'_>>>; 3],
            dy: Input<cuda::Elements<'_>>,
            mut gradients: [Option<cuda::ElementsMut<'_>>; 3],
        ) -> lightspan::Result<()> {
            let operator = cuda::LightConvBackward::new(room.gpu(), self.backward_problem(&gradients)?)?;
            let [dx, dweight, dbias] =
                gradients.each_mut().map(|gradient| gradient.as_mut().map(cuda::ElementsMut::reborrow));
            let args = cuda::LightConvBackwardArgs {
                sequences: &room.sequences(&self.sequences)?,
                x: there(x, "x")?.rows(),
                weight: there(weight, "weight")?.elements,
                seed: self.seed,
                dy: dy.rows(),
                dx: dx.map(cuda::RowsMut::contiguous),
                dweight,
                dbias,
            };
            room.with_scratch(operator.scratch_len(), |scratch| operator.launch(args, scratch))
        }
    }
}
