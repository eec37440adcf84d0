//! The problem of a dynamic convolution, from its tensors.

use lightspan::problem::DynamicConvProblem;
use lightspan::{Dims, Error, Result, Sequences, Window};

use crate::check::{self, Named};
use crate::light_conv::{ConvOptions, convolution};

/// What generates the logits.
pub(super) struct Generator<'a> {
    pub(super) weight: Named<'a>,
    pub(super) weight_bias: Option<Named<'a>>,
    pub(super) query: Option<Named<'a>>,
}

pub(super) fn generated(
    x: Named<'_>,
    generator: Generator<'_>,
    bias: Option<Named<'_>>,
    heads: usize,
    window: Window,
    options: &ConvOptions<'_>,
) -> Result<(DynamicConvProblem, Sequences)> {
    let Generator { weight, weight_bias, query } = generator;
    let (conv, sequences) = convolution(x, heads, window, weight, bias, options)?;
    let mut problem = DynamicConvProblem::generated(conv)?;
    let mut query_channels = conv.channels();
    if let Some(query) = query {
        query_channels = query.shape().last().copied().unwrap_or(0);
        problem = problem.with_query(query_channels, query.dtype)?;
        query.operand(&x, query.dtype, &sequences.shape().tensor(query_channels))?;
    }
    let problem = problem.with_weight_bias(weight_bias.is_some())?;
    let dtype = conv.parameters();
    weight.operand(&x, dtype, &[problem.logits(), query_channels])?;
    check::optional(weight_bias, &x, dtype, &[problem.logits()])?;
    Ok((problem, sequences))
}

pub(super) fn given(
    x: Named<'_>,
    logits: Named<'_>,
    bias: Option<Named<'_>>,
    window: Window,
    options: &ConvOptions<'_>,
) -> Result<(DynamicConvProblem, Sequences)> {
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
    let (conv, sequences) = convolution(x, heads, window, logits, bias, options)?;
    expected.extend([heads, window.width()]);
    logits.operand(&x, conv.parameters(), &expected)?;
    Ok((DynamicConvProblem::given(conv)?, sequences))
}
