use crate::nn::Linear;
use crate::{Result, Tensor};

/// Two linear layers with an activation between them (Vaswani et al. 2017, section 3.3), which may be grouped (Jiang et al.
/// 2020, section 3.4).
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// From C to more, and the activation.
    pub input: Linear,
    /// Back to C.
    pub output: Linear,
}

impl FeedForward {
    /// y as x, the residual added to it.
    ///
    /// # Errors
    ///
    /// As [`ops::linear`](crate::ops::linear).
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.output.forward(&self.input.forward(x, None)?, residual)
    }
}
