//! What encoder and decoder layers share: normalisation around residuals, and the feed-forward part.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Dropout, LayerNorm, Linear, VarBuilder, layer_norm, ops};
use lightspan::DropoutRate;

use crate::error::carry;
use crate::nn::{LayerConfig, init};

/// A part of a layer with the residual around it: normalised before or after.
#[derive(Debug)]
pub(crate) struct Residual {
    norm: LayerNorm,
    before: bool,
    dropout: Dropout,
}

impl Residual {
    pub(crate) fn new(layer: &'static str, config: &LayerConfig, vb: VarBuilder<'_>) -> Result<Self> {
        // candle finds a rate that is none in the first step of training.
        let rate = DropoutRate::new(config.dropout).map_err(carry(layer))?;
        let norm = layer_norm(config.channels, config.eps, vb)?;
        Ok(Residual { norm, before: config.normalize_before, dropout: Dropout::new(rate.get()) })
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
        let linear = |name, inputs, outputs| init::linear(inputs, outputs, 1.0, init::ZERO, vb.pp(name));
        Ok(FeedForward {
            fc1: linear("fc1", config.channels, config.ffn)?,
            fc2: linear("fc2", config.ffn, config.channels)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(x)?.relu()?)
    }
}
