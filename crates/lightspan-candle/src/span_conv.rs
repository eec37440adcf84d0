use candle_core::{Result, Tensor};
use lightspan::problem::{Convolution, SpanConvProblem};
use lightspan::{Dropout, Normalize, Sequences, Window};

use crate::check::{self, Named};
use crate::dynamic_conv::DynamicConv;
use crate::error::carry;
use crate::span_key::KeyInputs;

/// What a span-based dynamic convolution must have.
#[derive(Clone, Copy, Debug)]
pub struct SpanConvTensors<'a> {
    /// `[batch, time, C]` or packed `[tokens, C]`.
    pub x: &'a Tensor,
    /// q `[.., A]`.
    pub query: &'a Tensor,
    /// v `[.., A]`.
    pub value: &'a Tensor,
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
    /// Dropout of the weights over the values, for training; none by default. Another seed drops other weights: take a new
    /// one for each step.
    pub dropout: Option<Dropout>,
}

const NAME: &str = "span_conv";

/// Span-based dynamic convolution: the dynamic convolution of v with kernels generated from
/// z = [`span_key`](crate::span_key), one window for both (Jiang et al. 2020, section 3.2).
///
/// y `[.., A]` as v. The key crosses from one operator to the other in f32, and so does its gradient. Gradients of all nine
/// tensors, each in its own type.
///
/// # Errors
///
/// For heads that do not divide A, tensors whose shapes, types or devices do not fit, sequences that continue others (there is no
/// place for their history), and as the constructors of [`Convolution`] and [`SpanConvProblem`].
pub fn span_conv(
    tensors: &SpanConvTensors<'_>,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
) -> Result<Tensor> {
    let SpanConvTensors { x, query, value, depthwise, pointwise, weight } = *tensors;
    let key = KeyInputs {
        x: Named::new(NAME, "x", x)?,
        query: Named::new(NAME, "query", query)?,
        depthwise: Named::new(NAME, "depthwise", depthwise)?,
        pointwise: Named::new(NAME, "pointwise", pointwise)?,
        key_bias: Named::optional(NAME, "key_bias", options.key_bias)?,
    };
    let values = Values {
        value: Named::new(NAME, "value", value)?,
        weight: Named::new(NAME, "weight", weight)?,
        weight_bias: Named::optional(NAME, "weight_bias", options.weight_bias)?,
        bias: Named::optional(NAME, "bias", options.bias)?,
    };
    let (problem, sequences) = describe(&key, &values, heads, window, options).map_err(carry(NAME))?;
    let z = key.key(*problem.key(), sequences.clone())?;
    let Values { value, weight, weight_bias, bias } = values;
    let operator = DynamicConv::new(*problem.conv(), sequences, options.dropout, value.tensor);
    operator.apply(value, Some(Named::new(NAME, "key", &z)?), weight, weight_bias, bias)
}

/// The inputs of the second operator, but for the key.
struct Values<'a> {
    value: Named<'a>,
    weight: Named<'a>,
    weight_bias: Option<Named<'a>>,
    bias: Option<Named<'a>>,
}

fn describe(
    key: &KeyInputs<'_>,
    values: &Values<'_>,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
) -> lightspan::Result<(SpanConvProblem, Sequences)> {
    let KeyInputs { x, query, depthwise, pointwise, key_bias } = key;
    let Values { value, weight, weight_bias, bias } = values;
    check::device(x.tensor.device())?;
    let (channels, sequences) = x.convolved(options.sequences)?;
    let (outputs, _) = query.tokens(Some(&sequences))?;
    weight.same_or_f32(x.dtype)?;
    let conv = Convolution::new(sequences.shape(), outputs, heads, window, x.dtype)?
        .with_normalize(options.normalize)
        .with_bias(bias.is_some())
        .with_parameters(weight.dtype)?
        .with_dropout(options.dropout.map(Dropout::rate));
    let problem = SpanConvProblem::new(channels, conv)?
        .with_key_bias(key_bias.is_some())
        .with_weight_bias(weight_bias.is_some());
    let (dtype, logits) = (conv.parameters(), problem.conv().logits());
    let tokens = sequences.shape().tensor(outputs);
    query.operand(x, x.dtype, &tokens)?;
    value.operand(x, x.dtype, &tokens)?;
    depthwise.operand(x, dtype, &[channels, window.width()])?;
    pointwise.operand(x, dtype, &[outputs, channels])?;
    weight.operand(x, dtype, &[logits, outputs])?;
    check::optional(*key_bias, x, dtype, &[outputs])?;
    check::optional(*weight_bias, x, dtype, &[logits])?;
    check::optional(*bias, x, dtype, &[outputs])?;
    Ok((problem, sequences))
}
