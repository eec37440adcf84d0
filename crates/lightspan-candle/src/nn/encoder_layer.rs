use candle_core::{ModuleT, Result, Tensor};
use candle_nn::VarBuilder;
use lightspan::Sequences;

use crate::nn::feed_forward::{FeedForward, Residual};
use crate::nn::padding;
use crate::nn::{ConvBlock, ConvKind, LayerConfig, conv_block};

/// An encoder layer: a [`ConvBlock`] in the place of self-attention, and a feed-forward part, each with a residual around it
/// (Wu et al. 2019, section 5). `linear1`, `conv`, `linear2`, `fc1`, `fc2`, `layer_norms.0` and `layer_norms.1`, or
/// `layer_norm1` and `layer_norm2` where they are there, as in later versions of fairseq.
#[derive(Debug)]
pub struct EncoderLayer {
    conv: ConvBlock,
    conv_residual: Residual,
    feed_forward: FeedForward,
    feed_forward_residual: Residual,
}

const NAME: &str = "encoder_layer";

/// A layer of the sizes of `config`.
///
/// # Errors
///
/// As [`light_conv`](crate::nn::light_conv).
pub fn encoder_layer(kind: ConvKind, config: &LayerConfig, vb: VarBuilder<'_>) -> Result<EncoderLayer> {
    // What fairseq calls them has changed.
    let newer = vb.contains_tensor("layer_norm1.weight");
    let norms = if newer { ["layer_norm1", "layer_norm2"] } else { ["layer_norms.0", "layer_norms.1"] };
    Ok(EncoderLayer {
        conv: conv_block(kind, config, vb.clone())?,
        conv_residual: Residual::new(NAME, config, vb.pp(norms[0]))?,
        feed_forward: FeedForward::new(config, &vb)?,
        feed_forward_residual: Residual::new(NAME, config, vb.pp(norms[1]))?,
    })
}

impl EncoderLayer {
    /// y as x, `[batch, time, C]` or packed `[tokens, C]`. What stands in the padding of x changes no token of y and no
    /// gradient; what stands in that of y means nothing.
    ///
    /// # Errors
    ///
    /// As [`light_conv`](crate::light_conv) and [`dynamic_conv`](crate::dynamic_conv).
    pub fn forward_with(&self, x: &Tensor, sequences: Option<&Sequences>, train: bool) -> Result<Tensor> {
        let x = padding::cleared(NAME, x, sequences)?;
        let conv = |x: &Tensor| self.conv.forward_cleared(x, sequences, train);
        let x = self.conv_residual.around(&x, train, conv)?;
        self.feed_forward_residual.around(&x, train, |x| self.feed_forward.forward(x))
    }
}

impl ModuleT for EncoderLayer {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_with(xs, None, train)
    }
}
