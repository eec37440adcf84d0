use crate::nn::Parameter;
use crate::ops::{self, ConvOptions};
use crate::{Normalize, Result, Sequences, Tensor, Window};

/// A light convolution with its parameters ([`ops::light_conv`]). With as many heads as channels and [`Normalize::None`] it is
/// a depthwise one.
#[derive(Clone, Debug)]
pub struct LightConv {
    /// `[H, K]`, before it is normalised.
    pub weight: Parameter,
    /// `[C]`.
    pub bias: Option<Parameter>,
    /// Where the K taps lie.
    pub window: Window,
    /// How the weights are normalised.
    pub normalize: Normalize,
}

impl LightConv {
    /// A convolution with a softmax over its taps and no bias.
    pub fn new(weight: Parameter, window: Window) -> Self {
        LightConv { weight, bias: None, window, normalize: Normalize::Softmax }
    }

    /// y as x. `history` is what came before x, as [`ops::history`] makes it.
    ///
    /// # Errors
    ///
    /// As [`ops::light_conv`].
    pub fn forward(&self, x: &Tensor, sequences: &Sequences, history: Option<&Tensor>) -> Result<Tensor> {
        let options = ConvOptions {
            bias: self.bias.as_deref(),
            normalize: self.normalize,
            sequences: Some(sequences),
            history,
            dropout: None,
        };
        ops::light_conv(x, &self.weight, self.window, &options)
    }
}
