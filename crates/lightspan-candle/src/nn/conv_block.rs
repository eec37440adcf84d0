use candle_core::{D, Module, ModuleT, Result, Tensor};
use candle_nn::{Linear, VarBuilder, ops};
use lightspan::Sequences;

use crate::nn::{
    ConvKind, DynamicConv, LayerConfig, LightConv, dynamic_conv as new_dynamic, init,
    light_conv as new_light, padding,
};

/// A convolution between two linear layers, with a gated linear unit before it where the configuration has one (Wu et al. 2019,
/// figure 2): `linear1`, `conv`, `linear2`.
#[derive(Debug)]
pub struct ConvBlock {
    linear1: Linear,
    glu: bool,
    conv: Conv,
    linear2: Linear,
}

const NAME: &str = "conv_block";

#[derive(Debug)]
enum Conv {
    Light(LightConv),
    Dynamic(DynamicConv),
}

/// A block of the sizes of `config`.
///
/// # Errors
///
/// As [`light_conv`](crate::nn::light_conv).
pub fn conv_block(kind: ConvKind, config: &LayerConfig, vb: VarBuilder<'_>) -> Result<ConvBlock> {
    let LayerConfig { channels, conv_channels, heads, window, glu, conv, .. } = *config;
    let projected = if glu { 2 * conv_channels } else { conv_channels };
    let vb_conv = vb.pp("conv");
    let linear = |name, inputs, outputs| init::linear(inputs, outputs, 1.0, init::ZERO, vb.pp(name));
    Ok(ConvBlock {
        linear1: linear("linear1", channels, projected)?,
        glu,
        conv: match kind {
            ConvKind::Light => Conv::Light(new_light(conv_channels, heads, window, conv, vb_conv)?),
            ConvKind::Dynamic => Conv::Dynamic(new_dynamic(conv_channels, heads, window, conv, vb_conv)?),
        },
        linear2: linear("linear2", conv_channels, channels)?,
    })
}

impl ConvBlock {
    /// y as x, `[batch, time, C]` or packed `[tokens, C]`; weights are dropped where `train` says so. What stands in the padding
    /// of x changes no token of y and no gradient; what stands in that of y means nothing.
    ///
    /// # Errors
    ///
    /// As [`light_conv`](crate::light_conv) and [`dynamic_conv`](crate::dynamic_conv).
    pub fn forward_with(&self, x: &Tensor, sequences: Option<&Sequences>, train: bool) -> Result<Tensor> {
        self.forward_cleared(&padding::cleared(NAME, x, sequences)?, sequences, train)
    }

    /// The same for tokens with finite numbers in their padding.
    pub(crate) fn forward_cleared(
        &self,
        x: &Tensor,
        sequences: Option<&Sequences>,
        train: bool,
    ) -> Result<Tensor> {
        let mut x = self.linear1.forward(x)?;
        if self.glu {
            let half = x.dim(D::Minus1)? / 2;
            let gates = ops::sigmoid(&x.narrow(D::Minus1, half, half)?)?;
            x = (x.narrow(D::Minus1, 0, half)? * gates)?;
        }
        let y = match &self.conv {
            Conv::Light(conv) => conv.forward_with(&x, sequences, train)?,
            Conv::Dynamic(conv) => conv.forward_with(&x, sequences, train)?,
        };
        self.linear2.forward(&y)
    }
}

impl ModuleT for ConvBlock {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_with(xs, None, train)
    }
}
