use crate::nn::Parameter;
use crate::ops::{self, DynamicConvOptions};
use crate::{Normalize, Result, Sequences, Tensor, Window};

/// A dynamic convolution with its parameters ([`ops::dynamic_conv`]).
#[derive(Clone, Debug)]
pub struct DynamicConv {
    /// W `[H K, C]`, which makes the kernels of a token.
    pub weight: Parameter,
    /// `[H K]`.
    pub weight_bias: Option<Parameter>,
    /// `[C]`.
    pub bias: Option<Parameter>,
    /// H.
    pub heads: usize,
    /// Where the K taps lie.
    pub window: Window,
    /// How the weights are normalised.
    pub normalize: Normalize,
}

impl DynamicConv {
    /// A convolution with a softmax over its taps and no biases.
    pub fn new(weight: Parameter, heads: usize, window: Window) -> Self {
        let normalize = Normalize::Softmax;
        DynamicConv { weight, weight_bias: None, bias: None, heads, window, normalize }
    }

    /// y as x. `history` is what came before x, as [`ops::history`] makes it.
    ///
    /// # Errors
    ///
    /// As [`ops::dynamic_conv`].
    pub fn forward(&self, x: &Tensor, sequences: &Sequences, history: Option<&Tensor>) -> Result<Tensor> {
        let options = DynamicConvOptions {
            query: None,
            weight_bias: self.weight_bias.as_deref(),
            bias: self.bias.as_deref(),
            normalize: self.normalize,
            sequences: Some(sequences),
            history,
            dropout: None,
        };
        ops::dynamic_conv(x, &self.weight, self.heads, self.window, &options)
    }
}
