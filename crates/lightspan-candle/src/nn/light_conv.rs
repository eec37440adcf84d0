use candle_core::{ModuleT, Result, Tensor};
use candle_nn::VarBuilder;
use lightspan::{Normalize, Sequences, Window};

use crate::ConvOptions;
use crate::nn::config::{ConvConfig, WeightDropout, check_heads};
use crate::nn::init;

/// A light convolution with its parameters: `weight` `[H, 1, K]` and, where it has one, `bias` `[C]`.
#[derive(Debug)]
pub struct LightConv {
    weight: Tensor,
    bias: Option<Tensor>,
    window: Window,
    normalize: Normalize,
    dropout: WeightDropout,
}

/// A light convolution of `channels` in `heads`.
///
/// # Errors
///
/// For heads that do not divide the channels, a rate of dropout that is none, and parameters that are missing or of another
/// shape.
pub fn light_conv(
    channels: usize,
    heads: usize,
    window: Window,
    config: ConvConfig,
    vb: VarBuilder<'_>,
) -> Result<LightConv> {
    const NAME: &str = "light_conv";
    check_heads(NAME, channels, heads)?;
    let width = window.width();
    // K numbers go into an output, and each input into H K.
    let begin = init::xavier(width, heads * width, 1.0);
    Ok(LightConv {
        weight: vb.get_with_hints((heads, 1, width), "weight", begin)?,
        bias: config.bias.then(|| vb.get_with_hints(channels, "bias", init::ZERO)).transpose()?,
        window,
        normalize: config.normalize,
        dropout: WeightDropout::new(NAME, &config, &vb)?,
    })
}

impl LightConv {
    /// y as x, `[batch, time, C]` or packed `[tokens, C]`; weights are dropped where `train` says so.
    ///
    /// # Errors
    ///
    /// As [`light_conv`](crate::light_conv).
    pub fn forward_with(&self, x: &Tensor, sequences: Option<&Sequences>, train: bool) -> Result<Tensor> {
        let options = ConvOptions {
            bias: self.bias.as_ref(),
            normalize: self.normalize,
            sequences,
            dropout: self.dropout.next(train),
        };
        crate::light_conv(x, &self.weight.squeeze(1)?, self.window, &options)
    }
}

impl ModuleT for LightConv {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_with(xs, None, train)
    }
}
