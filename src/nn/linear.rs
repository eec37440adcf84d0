use crate::nn::Parameter;
use crate::ops::{self, LinearOptions};
use crate::problem::Activation;
use crate::{Result, Tensor};

/// A linear layer: y = residual + act(x W^T + bias) ([`ops::linear`]).
#[derive(Clone, Debug)]
pub struct Linear {
    /// W `[out, in / groups]`; `[2 out, in]` before a [GLU](Activation::Glu).
    pub weight: Parameter,
    /// One number for each row of W.
    pub bias: Option<Parameter>,
    /// Into how many groups inputs and outputs fall, each of which sees its own; 1 in most layers.
    pub groups: usize,
    /// What is done to each output.
    pub activation: Activation,
}

impl Linear {
    /// y = x W^T.
    pub fn new(weight: Parameter) -> Self {
        Linear { weight, bias: None, groups: 1, activation: Activation::Identity }
    }

    /// x `[.., in]`, residual and y `[.., out]`.
    ///
    /// # Errors
    ///
    /// As [`ops::linear`].
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let Linear { groups, activation, .. } = *self;
        let options = LinearOptions { bias: self.bias.as_deref(), activation, residual, groups };
        ops::linear(x, &self.weight, &options)
    }
}
