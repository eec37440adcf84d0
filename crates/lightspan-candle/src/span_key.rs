use candle_core::{Result, Shape, Tensor};
use lightspan::problem::{SpanKeyBackwardProblem, SpanKeyProblem, SpanKeyWanted};
use lightspan::{DType, Sequences, Window, cpu};

use crate::check::{self, Named};
use crate::error::carry;
use crate::operation::{Operator, Role, RunsOn, apply};
#[cfg(feature = "cuda")]
use crate::room::Cuda;
use crate::room::{Cpu, Input, there, with_scratch};

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
    /// The type of z: that of x (the default), or f32.
    pub output: Option<candle_core::DType>,
}

/// The span-aware key of ConvBERT times the query: z = (pointwise(depthwise_K(x)) + key_bias) q, `[.., A]` (Jiang et
/// al. 2020, section 3.2). Gradients of x, query, depthwise, pointwise and key_bias, each in its own type.
///
/// # Errors
///
/// For tensors whose shapes, types or devices do not fit, sequences that continue others (there is no place for their history),
/// and as [`SpanKeyProblem`]'s constructors.
pub fn span_key(
    tensors: &SpanKeyTensors<'_>,
    window: Window,
    options: &SpanKeyOptions<'_>,
) -> Result<Tensor> {
    const NAME: &str = SpanKey::NAME;
    let SpanKeyTensors { x, query, depthwise, pointwise } = *tensors;
    let inputs = KeyInputs {
        x: Named::new(NAME, "x", x)?,
        query: Named::new(NAME, "query", query)?,
        depthwise: Named::new(NAME, "depthwise", depthwise)?,
        pointwise: Named::new(NAME, "pointwise", pointwise)?,
        key_bias: Named::optional(NAME, "key_bias", options.key_bias)?,
    };
    let output = match options.output {
        Some(output) => Some(check::supported(NAME, "z", output)?),
        None => None,
    };
    let described = describe(&inputs, window, output, options.sequences);
    let (problem, sequences) = described.map_err(carry(NAME))?;
    inputs.key(problem, sequences)
}

/// The inputs of a span-aware key.
pub(crate) struct KeyInputs<'a> {
    pub(crate) x: Named<'a>,
    pub(crate) query: Named<'a>,
    pub(crate) depthwise: Named<'a>,
    pub(crate) pointwise: Named<'a>,
    pub(crate) key_bias: Option<Named<'a>>,
}

impl KeyInputs<'_> {
    /// z, of inputs that were checked.
    pub(crate) fn key(self, problem: SpanKeyProblem, sequences: Sequences) -> Result<Tensor> {
        let KeyInputs { x, query, depthwise, pointwise, key_bias } = self;
        let operator = SpanKey { problem, sequences, shape: query.tensor.shape().clone() };
        let inputs = [
            Some((Role::Tokens(1), x)),
            Some((Role::Tokens(1), query)),
            Some((Role::Parameter, depthwise)),
            Some((Role::Parameter, pointwise)),
            key_bias.map(|key_bias| (Role::Parameter, key_bias)),
        ];
        apply(operator, inputs)
    }
}

fn describe(
    inputs: &KeyInputs<'_>,
    window: Window,
    output: Option<DType>,
    sequences: Option<&Sequences>,
) -> lightspan::Result<(SpanKeyProblem, Sequences)> {
    let KeyInputs { x, query, depthwise, pointwise, key_bias } = inputs;
    check::device(x.tensor.device())?;
    let (channels, sequences) = x.convolved(sequences)?;
    let (outputs, _) = query.tokens(Some(&sequences))?;
    depthwise.same_or_f32(x.dtype)?;
    let problem = SpanKeyProblem::new(sequences.shape(), channels, outputs, window, x.dtype)?
        .with_parameters(depthwise.dtype)?
        .with_key_bias(key_bias.is_some())
        .with_output(output.unwrap_or(x.dtype))?;
    let dtype = problem.depthwise().parameters();
    query.operand(x, x.dtype, &sequences.shape().tensor(outputs))?;
    depthwise.operand(x, dtype, &[channels, window.width()])?;
    pointwise.operand(x, dtype, &[outputs, channels])?;
    check::optional(*key_bias, x, dtype, &[outputs])?;
    Ok((problem, sequences))
}

struct SpanKey {
    problem: SpanKeyProblem,
    sequences: Sequences,
    shape: Shape,
}

/// x, query, depthwise, pointwise and key_bias.
impl Operator<5> for SpanKey {
    const NAME: &'static str = "span_key";

    fn output(&self) -> (&Shape, DType) {
        (&self.shape, self.problem.output())
    }
}

impl SpanKey {
    fn backward_problem<T>(&self, gradients: &[Option<T>; 5]) -> lightspan::Result<SpanKeyBackwardProblem> {
        let [x, query, depthwise, pointwise, key_bias] = gradients.each_ref().map(Option::is_some);
        let wanted = SpanKeyWanted { x, query, depthwise, pointwise, key_bias, parameters: None };
        SpanKeyBackwardProblem::new(self.problem, wanted)
    }
}

impl RunsOn<Cpu, 5> for SpanKey {
    fn forward(
        &self,
        _: &Cpu,
        [x, query, depthwise, pointwise, key_bias]: [Option<Input<cpu::Elements<'_>>>; 5],
        z: cpu::ElementsMut<'_>,
    ) -> lightspan::Result<()> {
        let operator = cpu::SpanKey::new(self.problem);
        let args = cpu::SpanKeyArgs {
            sequences: &self.sequences,
            x: there(x, "x")?.rows(),
            query: there(query, "query")?.rows(),
            depthwise: there(depthwise, "depthwise")?.elements,
            pointwise: there(pointwise, "pointwise")?.elements,
            key_bias: key_bias.map(|bias| bias.elements),
            history: None,
            z: cpu::RowsMut::contiguous(z),
        };
        with_scratch(operator.scratch_len(), |scratch| operator.run(args, scratch))
    }

    fn backward(
        &self,
        _: &Cpu,
        [x, query, depthwise, pointwise, key_bias]: [Option<Input<cpu::Elements<'_>>>; 5],
        dz: Input<cpu::Elements<'_>>,
        gradients: [Option<cpu::ElementsMut<'_>>; 5],
    ) -> lightspan::Result<()> {
        let operator = cpu::SpanKeyBackward::new(self.backward_problem(&gradients)?);
        let [dx, dquery, ddepthwise, dpointwise, dkey_bias] = gradients;
        let args = cpu::SpanKeyBackwardArgs {
            sequences: &self.sequences,
            x: there(x, "x")?.rows(),
            query: there(query, "query")?.rows(),
            depthwise: there(depthwise, "depthwise")?.elements,
            pointwise: there(pointwise, "pointwise")?.elements,
            key_bias: key_bias.map(|bias| bias.elements),
            dz: dz.rows(),
            dx: dx.map(cpu::RowsMut::contiguous),
            dquery: dquery.map(cpu::RowsMut::contiguous),
            ddepthwise,
            dpointwise,
            dkey_bias,
        };
        with_scratch(operator.scratch_len(), |scratch| operator.run(args, scratch))
    }
}

#[cfg(feature = "cuda")]
mod on_cuda {
    use lightspan::cuda;

    use super::*;

    impl RunsOn<Cuda, 5> for SpanKey {
        fn forward(
            &self,
            room: &Cuda,
            [x, query, depthwise, pointwise, key_bias]: [Option<Input<cuda::Elements<'_>>>; 5],
            mut z: cuda::ElementsMut<'_>,
        ) -> lightspan::Result<()> {
            cuda::SpanKey::new(room.gpu(), self.problem)?.launch(cuda::SpanKeyArgs {
                sequences: &room.sequences(&self.sequences)?,
                x: there(x, "x")?.rows(),
                query: there(query, "query")?.rows(),
                depthwise: there(depthwise, "depthwise")?.elements,
                pointwise: there(pointwise, "pointwise")?.elements,
                key_bias: key_bias.map(|bias| bias.elements),
                history: None,
                z: cuda::RowsMut::contiguous(z.reborrow()),
            })
        }

        fn backward(
            &self,
            room: &Cuda,
            [x, query, depthwise, pointwise, key_bias]: [Option<Input<cuda::Elements<'_>>>; 5],
            dz: Input<cuda::Elements<'_>>,
            mut gradients: [Option<cuda::ElementsMut<'_>>; 5],
        ) -> lightspan::Result<()> {
            let operator = cuda::SpanKeyBackward::new(room.gpu(), self.backward_problem(&gradients)?)?;
            let [dx, dquery, ddepthwise, dpointwise, dkey_bias] =
                gradients.each_mut().map(|gradient| gradient.as_mut().map(cuda::ElementsMut::reborrow));
            let args = cuda::SpanKeyBackwardArgs {
                sequences: &room.sequences(&self.sequences)?,
                x: there(x, "x")?.rows(),
                query: there(query, "query")?.rows(),
                depthwise: there(depthwise, "depthwise")?.elements,
                pointwise: there(pointwise, "pointwise")?.elements,
                key_bias: key_bias.map(|bias| bias.elements),
                dz: dz.rows(),
                dx: dx.map(cuda::RowsMut::contiguous),
                dquery: dquery.map(cuda::RowsMut::contiguous),
                ddepthwise,
                dpointwise,
                dkey_bias,
            };
            room.with_scratch(operator.scratch_len(), |scratch| operator.launch(args, scratch))
        }
    }
}
