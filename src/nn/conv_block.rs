use crate::nn::{DynamicConv, LightConv, Linear};
use crate::{Result, Sequences, Tensor, Window, ops};

/// The convolution of a [`ConvBlock`].
#[derive(Clone, Debug)]
pub enum Conv {
    /// One filter for each head; depthwise and dilated ones too.
    Light(LightConv),
    /// Each token makes its own filters.
    Dynamic(DynamicConv),
}

impl Conv {
    /// Where its taps lie.
    pub fn window(&self) -> Window {
        match self {
            Conv::Light(conv) => conv.window,
            Conv::Dynamic(conv) => conv.window,
        }
    }

    /// y as x. A `history` is read, and then moved on by x.
    ///
    /// # Errors
    ///
    /// As [`ops::light_conv`], [`ops::dynamic_conv`] and [`ops::history`].
    pub fn forward(&self, x: &Tensor, sequences: &Sequences, history: Option<&mut Tensor>) -> Result<Tensor> {
        let past = history.as_deref();
        let y = match self {
            Conv::Light(conv) => conv.forward(x, sequences, past)?,
            Conv::Dynamic(conv) => conv.forward(x, sequences, past)?,
        };
        if let Some(history) = history {
            *history = ops::history(x, history, self.window(), Some(sequences))?;
        }
        Ok(y)
    }
}

/// A convolution between two linear layers (Wu et al. 2019, figure 2; Tay et al. 2021, section 3.2): the first, which may be a
/// gated linear unit, makes the tokens that are convolved.
#[derive(Clone, Debug)]
pub struct ConvBlock {
    /// From x to the tokens that are convolved.
    pub input: Linear,
    /// The convolution.
    pub conv: Conv,
    /// From as many channels to as many, after the convolution: with a depthwise one it makes the separable convolution that the
    /// released code of Tay et al. 2021 has.
    pub pointwise: Option<Linear>,
    /// From what was convolved to y.
    pub output: Linear,
}

impl ConvBlock {
    /// y `[.., C]`, the residual added to it. A `history` of what was convolved, as [`ConvBlock::history`] makes it, is read and
    /// then moved on.
    ///
    /// # Errors
    ///
    /// As [`Conv::forward`] and [`ops::linear`].
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        history: Option<&mut Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let x = self.input.forward(x, None)?;
        let mut y = self.conv.forward(&x, sequences, history)?;
        if let Some(pointwise) = &self.pointwise {
            y = pointwise.forward(&y, None)?;
        }
        self.output.forward(&y, residual)
    }

    /// The history of `sequences` sequences of which nothing has gone by.
    ///
    /// # Errors
    ///
    /// As [`Tensor::zeros`].
    pub fn history(&self, sequences: usize, like: &Tensor) -> Result<Tensor> {
        let channels = self.output.weight.shape().last().copied().unwrap_or(0);
        let shape = [sequences, self.conv.window().reach(), channels];
        Tensor::zeros(&shape, like.dtype(), like.device())
    }
}
