use crate::problem::{DynamicConvProblem, Taps, count, same_or_f32};
use crate::{DType, Result};

/// Which gradients of a dynamic convolution are wanted: those of inputs that the call does not have are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DynamicConvWanted {
    /// That of x: where x is its own query, of both its uses.
    pub x: bool,
    /// That of given logits.
    pub logits: bool,
    /// That of the generator W.
    pub weight: bool,
    /// That of the generator bias.
    pub weight_bias: bool,
    /// That of a separate query, in the query's type.
    pub query: bool,
    /// That of the bias.
    pub bias: bool,
    /// Type of the gradients of logits, generator and biases, their own or f32; `None` is their own.
    pub parameters: Option<DType>,
}

impl DynamicConvWanted {
    /// Every gradient, in the types of the inputs.
    pub const ALL: Self = DynamicConvWanted {
        x: true,
        logits: true,
        weight: true,
        weight_bias: true,
        query: true,
        bias: true,
        parameters: None,
    };
    /// None of them.
    pub const NONE: Self = DynamicConvWanted {
        x: false,
        logits: false,
        weight: false,
        weight_bias: false,
        query: false,
        bias: false,
        parameters: None,
    };
}

impl Default for DynamicConvWanted {
    fn default() -> Self {
        DynamicConvWanted::ALL
    }
}

/// The backward pass of a [`DynamicConvProblem`].
///
/// With w\[t\] = normalize(logits\[t\]), m the mask of the dropout times its scale (1 without), g\[t, h, j\] =
/// m\[t, h, j\] sum_c dy\[t, c\] x\[t + j r - P, c\] over the channels c of head h, 0 for a tap out of range:
///
/// - dlogits\[t, h, j\] = g\[t, h, j\], or w\[t, h, j\] (g\[t, h, j\] - sum_i w\[t, h, i\] g\[t, h, i\]) with a softmax
/// - dx\[s, c\] = sum_j (m w)\[s - j r + P, h(c), j\] dy\[s - j r + P, c\], and dquery\[s, c\] more where x is its own query
/// - dquery\[t\] = W^T dlogits\[t\], dweight\[i\] = sum_t dlogits\[t, i\] q\[t\], dweight_bias = sum_t dlogits\[t\]
/// - dbias\[c\] = sum_t dy\[t, c\]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DynamicConvBackwardProblem {
    forward: DynamicConvProblem,
    wanted: DynamicConvWanted,
    parameters: DType,
}

impl DynamicConvBackwardProblem {
    /// The gradients `wanted` of `forward`.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryBackward`](crate::Error::HistoryBackward) for a convolution with history,
    /// [`Error::DType`](crate::Error::DType) where the gradients of parameters should have a type that is neither theirs
    /// nor f32.
    pub fn new(forward: DynamicConvProblem, wanted: DynamicConvWanted) -> Result<Self> {
        let conv = forward.convolution();
        conv.check_backward()?;
        let parameters = wanted.parameters.unwrap_or(conv.parameters());
        same_or_f32("gradients of parameters", conv.parameters(), parameters)?;
        let (given, separate, weight_bias) = match forward.taps() {
            Taps::Given => (true, false, false),
            Taps::Generated { query, weight_bias, .. } => (false, query.is_some(), weight_bias),
        };
        let wanted = DynamicConvWanted {
            logits: wanted.logits && given,
            weight: wanted.weight && !given,
            weight_bias: wanted.weight_bias && weight_bias,
            query: wanted.query && separate,
            bias: wanted.bias && conv.has_bias(),
            ..wanted
        };
        Ok(DynamicConvBackwardProblem { forward, wanted, parameters })
    }

    /// The problem whose gradients these are.
    pub const fn forward(&self) -> &DynamicConvProblem {
        &self.forward
    }

    /// Which gradients are wanted: of those that there are.
    pub const fn wanted(&self) -> DynamicConvWanted {
        self.wanted
    }

    /// Type of the gradients of logits, generator and biases.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether x is its own query, and its gradient wanted.
    pub(crate) fn own_query(&self) -> bool {
        self.wanted.x && matches!(self.forward.taps(), Taps::Generated { query: None, .. })
    }

    /// Whether the gradient of the logits is needed: wanted, or on the way to one that is.
    pub(crate) fn needs_logits(&self) -> bool {
        let wanted = self.wanted;
        wanted.logits || wanted.weight || wanted.weight_bias || wanted.query || self.own_query()
    }

    /// Operations: 2 K C a token for dx, and as many for the gradient of the logits; 2 Cq H K a token to generate the logits
    /// again, and as many for each of dweight and dquery; C for dbias.
    pub fn flops(&self) -> u64 {
        let (conv, wanted) = (self.forward.convolution(), self.wanted);
        let tokens = conv.sequences().tokens();
        let taps = conv.flops().saturating_mul(u64::from(wanted.x) + u64::from(self.needs_logits()));
        let generation = match self.forward.taps() {
            Taps::Given => 0,
            Taps::Generated { query_channels, .. } => {
                let products = u64::from(wanted.x || self.needs_logits())
                    + u64::from(wanted.weight)
                    + u64::from(wanted.query || self.own_query());
                count(&[2, tokens, query_channels, self.forward.logits()]).saturating_mul(products)
            }
        };
        let bias = if wanted.bias { count(&[tokens, conv.channels()]) } else { 0 };
        taps.saturating_add(generation).saturating_add(bias)
    }

    /// Bytes that must move: dy and what of the inputs is needed once, and each gradient that is wanted once.
    pub fn bytes(&self) -> u64 {
        let (conv, wanted) = (self.forward.convolution(), self.wanted);
        let tokens = conv.sequences().tokens();
        let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
        let (taps, needs_logits) = (wanted.x || self.needs_logits(), self.needs_logits());
        let x = count(&[tokens, conv.channels(), conv.dtype().size()]);
        let (parameter, gradient) = (conv.parameters().size() as u64, self.parameters.size() as u64);
        let logits = self.forward.logits();
        let source = match self.forward.taps() {
            Taps::Given => {
                let logits = count(&[tokens, logits]);
                when(taps, logits * parameter) + when(wanted.logits, logits * gradient)
            }
            Taps::Generated { query_channels, query, weight_bias } => {
                let weight = count(&[logits, query_channels]);
                let bias = if weight_bias { logits as u64 } else { 0 };
                let query = query.map_or(0, |dtype| count(&[tokens, query_channels, dtype.size()]));
                when(taps, (weight + bias) * parameter + query)
                    + when(wanted.weight, weight * gradient)
                    + when(wanted.weight_bias, bias * gradient)
                    + when(wanted.query, query)
            }
        };
        when(taps || wanted.bias, x)
            + when(needs_logits, x)
            + when(wanted.x, x)
            + source
            + when(wanted.bias, conv.channels() as u64 * gradient)
    }
}
