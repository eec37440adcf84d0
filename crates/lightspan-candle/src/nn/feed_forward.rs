//! What encoder and decoder layers share: normalisation around residuals, and the feed-forward part.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Dropout, LayerNorm, Linear, VarBuilder, layer_norm, linear, ops};

use crate::nn::LayerConfig;

/// A part of a layer with the residual around it: normalised before or after.
#[derive(Debug)]
pub(crate) struct Residual {
    norm: LayerNorm,
    before: bool,
    dropout: Dropout,
}

impl Residual {
    pub(crate) fn new(config: &LayerConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let norm = layer_norm(config.channels, config.eps, vb)?;
        Ok(Residual { norm, before: config.normalize_before, dropout: Dropout::new(config.dropout) })
    }

    pub(crate) fn around(
        &self,
        x: &Tensor,
        train: bool,
        part: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let found = if self.before { part(&self.normalized(x)?)? } else { part(x)? };
        let sum = (x + self.dropout.forward(&found, train)?)?;
        if self.before { Ok(sum) } else { self.normalized(&sum) }
    }

    fn normalized(&self, x: &Tensor) -> Result<Tensor> {
        match self.norm.bias() {
            // candle's fast normalisation has no backward pass, and is not even an error in one: gradients end there.
            Some(bias) if x.track_op() || self.norm.weight().track_op() || bias.track_op() => {
                ops::layer_norm_slow(x, self.norm.weight(), bias, self.norm.eps() as f32)
            }
            _ => self.norm.forward(x),
        }
    }
}

/// `fc1`, ReLU, `fc2`.
#[derive(Debug)]
pub(crate) struct FeedForward {
    fc1: Linear,
    fc2: Linear,
}

impl FeedForward {
    pub(crate) fn new(config: &LayerConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(FeedForward {
            fc1: linear(config.channels, config.ffn, vb.pp("fc1"))?,
            fc2: linear(config.ffn, config.channels, vb.pp("fc2"))?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(x)?.relu()?)
    }
}
