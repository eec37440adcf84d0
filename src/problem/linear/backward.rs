use crate::problem::{Activation, LinearProblem, count, same_or_f32};
use crate::{DType, Error, Result};

/// Which gradients of a linear layer are wanted: those of inputs that the call does not have are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearWanted {
    /// That of x.
    pub x: bool,
    /// That of the weight.
    pub weight: bool,
    /// That of the bias.
    pub bias: bool,
    /// Type of the gradients of weight and bias, their own or f32; `None` is their own.
    pub parameters: Option<DType>,
}

impl LinearWanted {
    /// Every gradient, in the types of the inputs.
    pub const ALL: Self = LinearWanted { x: true, weight: true, bias: true, parameters: None };
    /// None of them.
    pub const NONE: Self = LinearWanted { x: false, weight: false, bias: false, parameters: None };
}

impl Default for LinearWanted {
    fn default() -> Self {
        LinearWanted::ALL
    }
}

/// The backward pass of a [`LinearProblem`].
///
/// With da = dy, or with a ReLU da\[i, o\] = dy\[i, o\] where y\[i, o\] > 0 and 0 elsewhere (NaN where y is NaN):
/// dx = da W, dW = da^T x, dbias\[o\] = sum_i da\[i, o\]. The output y of the forward pass is an input where there is an
/// activation.
///
/// There is none for the other activations, nor for groups. A residual is added last: its gradient is dy itself, which needs
/// no call, and the other gradients do not see it. But the output of a ReLU cannot be told from y then, so that the two
/// together have no backward pass either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearBackwardProblem {
    forward: LinearProblem,
    wanted: LinearWanted,
    parameters: DType,
}

impl LinearBackwardProblem {
    /// The gradients `wanted` of `forward`.
    ///
    /// # Errors
    ///
    /// [`Error::NoBackward`] where the layer has groups, a GELU, a GLU, or a ReLU beside a residual; [`Error::DType`] where
    /// the gradients of parameters should have a type that is neither theirs nor f32.
    pub fn new(forward: LinearProblem, wanted: LinearWanted) -> Result<Self> {
        if let Some(what) = forward.without_backward() {
            return Err(Error::NoBackward { operator: "linear", what });
        }
        let parameters = wanted.parameters.unwrap_or(forward.parameters());
        same_or_f32("gradients of parameters", forward.parameters(), parameters)?;
        let wanted = LinearWanted { bias: wanted.bias && forward.has_bias(), ..wanted };
        Ok(LinearBackwardProblem { forward, wanted, parameters })
    }

    /// The problem whose gradients these are.
    pub const fn forward(&self) -> &LinearProblem {
        &self.forward
    }

    /// Which gradients are wanted: of those that there are.
    pub const fn wanted(&self) -> LinearWanted {
        self.wanted
    }

    /// Type of the gradients of weight and bias.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether the output of the forward pass is an input: where there is an activation.
    pub const fn needs_output(&self) -> bool {
        !matches!(self.forward.activation(), Activation::Identity)
    }

    /// Operations: 2 in out a row for dx, and as many for dW; out for dbias.
    pub fn flops(&self) -> u64 {
        let (forward, wanted) = (&self.forward, self.wanted);
        let products = u64::from(wanted.x) + u64::from(wanted.weight);
        let bias = if wanted.bias { count(&[forward.rows(), forward.outputs()]) } else { 0 };
        forward.flops().saturating_mul(products).saturating_add(bias)
    }

    /// Bytes that must move: dy and what of the inputs is needed once, and each gradient that is wanted once.
    pub fn bytes(&self) -> u64 {
        let (forward, wanted) = (&self.forward, self.wanted);
        let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
        let x = count(&[forward.rows(), forward.inputs(), forward.dtype().size()]);
        let y = count(&[forward.rows(), forward.outputs(), forward.dtype().size()]);
        let weight = count(&[forward.outputs(), forward.inputs()]);
        let (parameter, gradient) = (forward.parameters().size() as u64, self.parameters.size() as u64);
        let any = wanted.x || wanted.weight || wanted.bias;
        when(any, y)
            + when(any && self.needs_output(), y)
            + when(wanted.x, weight * parameter + x)
            + when(wanted.weight, x + weight * gradient)
            + when(wanted.bias, forward.outputs() as u64 * gradient)
    }
}
