use crate::problem::{SpanKeyProblem, count, same_or_f32};
use crate::{DType, Result};

/// Which gradients of a span key are wanted: those of inputs that the call does not have are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanKeyWanted {
    /// That of x.
    pub x: bool,
    /// That of the query.
    pub query: bool,
    /// That of the depthwise filters.
    pub depthwise: bool,
    /// That of the pointwise matrix.
    pub pointwise: bool,
    /// That of the key bias.
    pub key_bias: bool,
    /// Type of the gradients of depthwise, pointwise and key_bias, their own or f32; `None` is their own.
    pub parameters: Option<DType>,
}

impl SpanKeyWanted {
    /// Every gradient, in the types of the inputs.
    pub const ALL: Self = SpanKeyWanted {
        x: true,
        query: true,
        depthwise: true,
        pointwise: true,
        key_bias: true,
        parameters: None,
    };
    /// None of them.
    pub const NONE: Self = SpanKeyWanted {
        x: false,
        query: false,
        depthwise: false,
        pointwise: false,
        key_bias: false,
        parameters: None,
    };
}

impl Default for SpanKeyWanted {
    fn default() -> Self {
        SpanKeyWanted::ALL
    }
}

/// The backward pass of a [`SpanKeyProblem`]; dz has the type of z.
///
/// With d = depthwise_K(x) and k = pointwise d + key_bias, both as in the forward pass, over the tokens t of sequences:
///
/// - dquery\[t\] = dz\[t\] k\[t\], dk\[t\] = dz\[t\] q\[t\] (element by element)
/// - dkey_bias = sum_t dk\[t\], dpointwise\[a, c\] = sum_t dk\[t, a\] d\[t, c\], dd\[t\] = pointwise^T dk\[t\]
/// - ddepthwise\[c, j\] = sum_t dd\[t, c\] x\[t + j r - P, c\], dx\[s, c\] = sum_j depthwise\[c, j\] dd\[s - j r + P, c\]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanKeyBackwardProblem {
    forward: SpanKeyProblem,
    wanted: SpanKeyWanted,
    parameters: DType,
}

impl SpanKeyBackwardProblem {
    /// The gradients `wanted` of `forward`.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryBackward`](crate::Error::HistoryBackward) for a key with history,
    /// [`Error::DType`](crate::Error::DType) where the gradients of parameters should have a type that is neither theirs
    /// nor f32.
    pub fn new(forward: SpanKeyProblem, wanted: SpanKeyWanted) -> Result<Self> {
        let conv = forward.depthwise();
        conv.check_backward()?;
        let parameters = wanted.parameters.unwrap_or(conv.parameters());
        same_or_f32("gradients of parameters", conv.parameters(), parameters)?;
        let wanted = SpanKeyWanted { key_bias: wanted.key_bias && forward.has_key_bias(), ..wanted };
        Ok(SpanKeyBackwardProblem { forward, wanted, parameters })
    }

    /// The problem whose gradients these are.
    pub const fn forward(&self) -> &SpanKeyProblem {
        &self.forward
    }

    /// Which gradients are wanted: of those that there are.
    pub const fn wanted(&self) -> SpanKeyWanted {
        self.wanted
    }

    /// Type of the gradients of depthwise, pointwise and key_bias.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether the gradient of the depthwise convolution's output is needed.
    pub(crate) fn needs_convolved(&self) -> bool {
        self.wanted.x || self.wanted.depthwise
    }

    /// Operations, a token: 2 K C for each of d (again, for dquery and dpointwise), dx and ddepthwise; 2 C A for each of k
    /// (again, for dquery), dd and dpointwise.
    pub fn flops(&self) -> u64 {
        let (wanted, forward) = (self.wanted, &self.forward);
        let conv = forward.depthwise();
        let convolved =
            u64::from(wanted.query || wanted.pointwise) + u64::from(wanted.x) + u64::from(wanted.depthwise);
        let products =
            u64::from(wanted.query) + u64::from(self.needs_convolved()) + u64::from(wanted.pointwise);
        let product = count(&[2, conv.sequences().tokens(), conv.channels(), forward.outputs()]);
        conv.flops().saturating_mul(convolved).saturating_add(product.saturating_mul(products))
    }

    /// Bytes that must move: dz and what of the inputs is needed once, and each gradient that is wanted once.
    pub fn bytes(&self) -> u64 {
        let (wanted, forward) = (self.wanted, &self.forward);
        let conv = forward.depthwise();
        let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
        let (tokens, channels, outputs) = (conv.sequences().tokens(), conv.channels(), forward.outputs());
        let (parameter, gradient) = (conv.parameters().size() as u64, self.parameters.size() as u64);
        let (x, q) =
            (count(&[tokens, channels, conv.dtype().size()]), count(&[tokens, outputs, conv.dtype().size()]));
        let (depthwise, pointwise) = (count(&[channels, conv.window().width()]), count(&[outputs, channels]));
        let key_bias = if forward.has_key_bias() { outputs as u64 } else { 0 };
        let dk = wanted.x || wanted.depthwise || wanted.pointwise || wanted.key_bias;
        when(dk || wanted.query, count(&[tokens, outputs, forward.output().size()]))
            + when(dk, q)
            + when(wanted.query || wanted.depthwise || wanted.pointwise, x)
            + when(wanted.query || wanted.x || wanted.pointwise, depthwise * parameter)
            + when(wanted.query || self.needs_convolved(), pointwise * parameter)
            + when(wanted.query, key_bias * parameter)
            + when(wanted.x, x)
            + when(wanted.query, q)
            + when(wanted.depthwise, depthwise * gradient)
            + when(wanted.pointwise, pointwise * gradient)
            + when(wanted.key_bias, key_bias * gradient)
    }
}
