mod describe;

use candle_core::{Result, Shape, Tensor};
use lightspan::problem::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, Taps};
use lightspan::{DType, Dropout, Normalize, Sequences, Window, cpu};

use crate::check::Named;
use crate::error::carry;
use crate::light_conv::ConvOptions;
use crate::operation::{Operator, Role, RunsOn, apply};
#[cfg(feature = "cuda")]
use crate::room::Cuda;
use crate::room::{Cpu, Input, there, with_scratch};

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
    /// Weight dropout, for training; none by default. Another seed drops other weights: take a new one for each step.
    pub dropout: Option<Dropout>,
}

impl<'a> DynamicConvOptions<'a> {
    fn convolution(&self) -> ConvOptions<'a> {
        let Self { bias, normalize, sequences, dropout, .. } = *self;
        ConvOptions { bias, normalize, sequences, dropout }
    }
}

/// Dynamic convolution: each token generates a filter for each head.
///
/// y\[b, t, c\] = bias\[c\] + sum_j normalize(logits)\[b, t, h(c), j\] x\[b, t + j r - P, c\], logits\[b, t, h, j\] =
/// (W q\[b, t\] + w_bias)\[h K + j\] (Wu et al. 2019, equation 5).
///
/// x `[batch, time, C]` or packed `[tokens, C]`; weight W `[H K, Cq]`, with K the width of the window, in the type of x or f32;
/// y as x. Gradients of x, weight, query, weight_bias and bias, each in its own type.
///
/// # Errors
///
/// For heads that do not divide the channels, tensors whose shapes, types or devices do not fit, sequences that continue others
/// (there is no place for their history), and as the constructors of [`Convolution`](lightspan::problem::Convolution) and
/// [`DynamicConvProblem`].
pub fn dynamic_conv(
    x: &Tensor,
    weight: &Tensor,
    heads: usize,
    window: Window,
    options: &DynamicConvOptions<'_>,
) -> Result<Tensor> {
    const NAME: &str = DynamicConv::NAME;
    let (x, weight) = (Named::new(NAME, "x", x)?, Named::new(NAME, "weight", weight)?);
    let query = Named::optional(NAME, "query", options.query)?;
    let weight_bias = Named::optional(NAME, "weight_bias", options.weight_bias)?;
    let bias = Named::optional(NAME, "bias", options.bias)?;
    let generator = describe::Generator { weight, weight_bias, query };
    let described = describe::generated(x, generator, bias, heads, window, &options.convolution());
    let (problem, sequences) = described.map_err(carry(NAME))?;
    let operator = DynamicConv::new(problem, sequences, options.dropout, x.tensor);
    operator.apply(x, query, weight, weight_bias, bias)
}

/// Dynamic convolution with logits that are given.
///
/// x `[batch, time, C]` or packed `[tokens, C]`; logits `[batch, time, H, K]` or `[tokens, H, K]` in the type of x or
/// f32, with K the width of the window; y as x. Gradients of x, logits and bias, each in its own type.
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
    const NAME: &str = DynamicConv::NAME;
    let (x, logits) = (Named::new(NAME, "x", x)?, Named::new(NAME, "logits", logits)?);
    let bias = Named::optional(NAME, "bias", options.bias)?;
    let (problem, sequences) = describe::given(x, logits, bias, window, options).map_err(carry(NAME))?;
    let operator = DynamicConv::new(problem, sequences, options.dropout, x.tensor);
    let inputs = [
        Some((Role::Tokens(1), x)),
        None,
        Some((Role::Tokens(2), logits)),
        None,
        bias.map(|bias| (Role::Parameter, bias)),
    ];
    apply(operator, inputs)
}

/// A dynamic convolution of either kind.
pub(crate) struct DynamicConv {
    problem: DynamicConvProblem,
    sequences: Sequences,
    seed: Option<u64>,
    shape: Shape,
}

impl DynamicConv {
    pub(crate) fn new(
        problem: DynamicConvProblem,
        sequences: Sequences,
        dropout: Option<Dropout>,
        x: &Tensor,
    ) -> Self {
        DynamicConv { problem, sequences, seed: dropout.map(Dropout::seed), shape: x.shape().clone() }
    }

    /// Applied to a generator and what it generates from.
    pub(crate) fn apply(
        self,
        x: Named<'_>,
        query: Option<Named<'_>>,
        weight: Named<'_>,
        weight_bias: Option<Named<'_>>,
        bias: Option<Named<'_>>,
    ) -> Result<Tensor> {
        let inputs = [
            Some((Role::Tokens(1), x)),
            query.map(|query| (Role::Tokens(1), query)),
            Some((Role::Parameter, weight)),
            weight_bias.map(|weight_bias| (Role::Parameter, weight_bias)),
            bias.map(|bias| (Role::Parameter, bias)),
        ];
        apply(self, inputs)
    }

    fn is_given(&self) -> bool {
        matches!(self.problem.taps(), Taps::Given)
    }

    fn backward_problem<T>(
        &self,
        gradients: &[Option<T>; 5],
    ) -> lightspan::Result<DynamicConvBackwardProblem> {
        let [x, query, taps, weight_bias, bias] = gradients.each_ref().map(Option::is_some);
        let wanted = DynamicConvWanted {
            x,
            logits: taps && self.is_given(),
            weight: taps && !self.is_given(),
            weight_bias,
            query,
            bias,
            parameters: None,
        };
        DynamicConvBackwardProblem::new(self.problem, wanted)
    }
}

/// x, query, weight or logits, weight_bias and bias.
impl Operator<5> for DynamicConv {
    const NAME: &'static str = "dynamic_conv";

    fn output(&self) -> (&Shape, DType) {
        (&self.shape, self.problem.convolution().dtype())
    }
}

type Inputs<'a> = [Option<Input<cpu::Elements<'a>>>; 5];

impl DynamicConv {
    fn taps<'a>(
        &self,
        query: Option<Input<cpu::Elements<'a>>>,
        taps: Option<Input<cpu::Elements<'a>>>,
        weight_bias: Option<Input<cpu::Elements<'a>>>,
    ) -> lightspan::Result<cpu::TapArgs<'a>> {
        if self.is_given() {
            return Ok(cpu::TapArgs::Given { logits: there(taps, "logits")?.rows() });
        }
        Ok(cpu::TapArgs::Generated {
            weight: there(taps, "weight")?.elements,
            weight_bias: weight_bias.map(|bias| bias.elements),
            query: query.map(Input::<cpu::Elements<'_>>::rows),
        })
    }
}

impl RunsOn<Cpu, 5> for DynamicConv {
    fn forward(&self, _: &Cpu, inputs: Inputs<'_>, y: cpu::ElementsMut<'_>) -> lightspan::Result<()> {
        let [x, query, taps, weight_bias, bias] = inputs;
        let operator = cpu::DynamicConv::new(self.problem);
        let args = cpu::DynamicConvArgs {
            sequences: &self.sequences,
            x: there(x, "x")?.rows(),
            taps: self.taps(query, taps, weight_bias)?,
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
        inputs: Inputs<'_>,
        dy: Input<cpu::Elements<'_>>,
        gradients: [Option<cpu::ElementsMut<'_>>; 5],
    ) -> lightspan::Result<()> {
        let operator = cpu::DynamicConvBackward::new(self.backward_problem(&gradients)?);
        let [x, query, taps, weight_bias, _] = inputs;
        let [dx, dquery, dtaps, dweight_bias, dbias] = gradients;
        let (dlogits, dweight) = if self.is_given() { (dtaps, None) } else { (None, dtaps) };
        let args = cpu::DynamicConvBackwardArgs {
            sequences: &self.sequences,
            x: there(x, "x")?.rows(),
            taps: self.taps(query, taps, weight_bias)?,
            seed: self.seed,
            dy: dy.rows(),
            dx: dx.map(cpu::RowsMut::contiguous),
            dlogits: dlogits.map(cpu::RowsMut::contiguous),
            dweight,
            dweight_bias,
            dquery: dquery.map(cpu::RowsMut::contiguous),
            dbias,
        };
        with_scratch(operator.scratch_len(), |scratch| operator.run(args, scratch))
    }
}

#[cfg(feature = "cuda")]
mod on_cuda {
    use lightspan::cuda;

    use super::*;

    type Inputs<'a> = [Option<Input<cuda::Elements<'a>>>; 5];

    impl DynamicConv {
        fn taps_on_cuda<'a>(
            &self,
            query: Option<Input<cuda::Elements<'a>>>,
            taps: Option<Input<cuda::Elements<'a>>>,
            weight_bias: Option<Input<cuda::Elements<'a>>>,
        ) -> lightspan::Result<cuda::TapArgs<'a>> {
            if self.is_given() {
                return Ok(cuda::TapArgs::Given { logits: there(taps, "logits")?.rows() });
            }
            Ok(cuda::TapArgs::Generated {
                weight: there(taps, "weight")?.elements,
                weight_bias: weight_bias.map(|bias| bias.elements),
                query: query.map(Input::<cuda::Elements<'_>>::rows),
            })
        }
    }

    impl RunsOn<Cuda, 5> for DynamicConv {
        fn forward(
            &self,
            room: &Cuda,
            inputs: Inputs<'_>,
            mut y: cuda::ElementsMut<'_>,
        ) -> lightspan::Result<()> {
            let [x, query, taps, weight_bias, bias] = inputs;
            let operator = cuda::DynamicConv::new(room.gpu(), self.problem)?;
            let args = cuda::DynamicConvArgs {
                sequences: &room.sequences(&self.sequences)?,
                x: there(x, "x")?.rows(),
                taps: self.taps_on_cuda(query, taps, weight_bias)?,
                bias: bias.map(|bias| bias.elements),
                history: None,
                seed: self.seed,
                y: cuda::RowsMut::contiguous(y.reborrow()),
            };
            room.with_scratch(operator.scratch_len(), |scratch| operator.launch(args, scratch))
        }

        fn backward(
            &self,
            room: &Cuda,
            inputs: Inputs<'_>,
            dy: Input<cuda::Elements<'_>>,
            mut gradients: [Option<cuda::ElementsMut<'_>>; 5],
        ) -> lightspan::Result<()> {
            let operator = cuda::DynamicConvBackward::new(room.gpu(), self.backward_problem(&gradients)?)?;
            let [x, query, taps, weight_bias, _] = inputs;
            let [dx, dquery, dtaps, dweight_bias, dbias] =
                gradients.each_mut().map(|gradient| gradient.as_mut().map(cuda::ElementsMut::reborrow));
            let (dlogits, dweight) = if self.is_given() { (dtaps, None) } else { (None, dtaps) };
            let args = cuda::DynamicConvBackwardArgs {
                sequences: &room.sequences(&self.sequences)?,
                x: there(x, "x")?.rows(),
                taps: self.taps_on_cuda(query, taps, weight_bias)?,
                seed: self.seed,
                dy: dy.rows(),
                dx: dx.map(cuda::RowsMut::contiguous),
                dlogits: dlogits.map(cuda::RowsMut::contiguous),
                dweight,
                dweight_bias,
                dquery: dquery.map(cuda::RowsMut::contiguous),
                dbias,
            };
            room.with_scratch(operator.scratch_len(), |scratch| operator.launch(args, scratch))
        }
    }
}
