use crate::problem::{LightConvProblem, count, same_or_f32};
use crate::{DType, Result};

/// Which gradients of a light convolution are wanted: those of inputs that the call does not have are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LightConvWanted {
    /// That of x.
    pub x: bool,
    /// That of the weight before normalisation.
    pub weight: bool,
    /// That of the bias.
    pub bias: bool,
    /// Type of the gradients of weight and bias, their own or f32; `None` is their own.
    pub parameters: Option<DType>,
}

impl LightConvWanted {
    /// Every gradient, in the types of the inputs.
    pub const ALL: Self = LightConvWanted { x: true, weight: true, bias: true, parameters: None };
    /// None of them.
    pub const NONE: Self = LightConvWanted { x: false, weight: false, bias: false, parameters: None };
}

impl Default for LightConvWanted {
    fn default() -> Self {
        LightConvWanted::ALL
    }
}

/// The backward pass of a [`LightConvProblem`].
///
/// With w = normalize(weight), m the mask of the dropout times its scale (1 without), g\[h, j\] = m\[h, j\] sum_t sum_c
/// dy\[t, c\] x\[t + j r - P, c\] over the channels c of head h and the taps in range:
///
/// - dx\[s, c\] = sum_j m\[h(c), j\] w\[h(c), j\] dy\[s - j r + P, c\]
/// - dweight\[h, j\] = g\[h, j\], or w\[h, j\] (g\[h, j\] - sum_i w\[h, i\] g\[h, i\]) with a softmax. With
///   `SoftmaxInRange` the weights differ from token to token, and dweight is the sum of those of all tokens.
/// - dbias\[c\] = sum_t dy\[t, c\]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LightConvBackwardProblem {
    forward: LightConvProblem,
    wanted: LightConvWanted,
    parameters: DType,
}

impl LightConvBackwardProblem {
    /// The gradients `wanted` of `forward`.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryBackward`](crate::Error::HistoryBackward) for a convolution with history,
    /// [`Error::DType`](crate::Error::DType) where the gradients of parameters should have a type that is neither theirs
    /// nor f32.
    pub fn new(forward: LightConvProblem, wanted: LightConvWanted) -> Result<Self> {
        let conv = forward.convolution();
        conv.check_backward()?;
        let parameters = wanted.parameters.unwrap_or(conv.parameters());
        same_or_f32("gradients of parameters", conv.parameters(), parameters)?;
        let wanted = LightConvWanted { bias: wanted.bias && conv.has_bias(), ..wanted };
        Ok(LightConvBackwardProblem { forward, wanted, parameters })
    }

    /// The problem whose gradients these are.
    pub const fn forward(&self) -> &LightConvProblem {
        &self.forward
    }

    /// Which gradients are wanted: of those that there are.
    pub const fn wanted(&self) -> LightConvWanted {
        self.wanted
    }

    /// Type of the gradients of weight and bias.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Operations: 2 K C a token for dx, and as many for dweight; C for dbias.
    pub fn flops(&self) -> u64 {
        let (conv, wanted) = (self.forward.convolution(), self.wanted);
        let products = u64::from(wanted.x) + u64::from(wanted.weight);
        let bias = if wanted.bias { count(&[conv.sequences().tokens(), conv.channels()]) } else { 0 };
        conv.flops().saturating_mul(products).saturating_add(bias)
    }

    /// Bytes that must move: dy and what of x and weight is needed once, and each gradient that is wanted once.
    pub fn bytes(&self) -> u64 {
        let (conv, wanted) = (self.forward.convolution(), self.wanted);
        if wanted == (LightConvWanted { parameters: wanted.parameters, ..LightConvWanted::NONE }) {
            return 0;
        }
        let tokens = count(&[conv.sequences().tokens(), conv.channels(), conv.dtype().size()]);
        let weight = count(&self.forward.weight_shape());
        let token_tensors = 1 + u64::from(wanted.weight) + u64::from(wanted.x);
        let read = if wanted.x || wanted.weight { weight * conv.parameters().size() as u64 } else { 0 };
        let parameters =
            if wanted.weight { weight } else { 0 } + if wanted.bias { conv.channels() as u64 } else { 0 };
        token_tensors * tokens + read + parameters * self.parameters.size() as u64
    }
}
