use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use lightspan::{Error, Sequences};

use crate::error::carry;
use crate::nn::feed_forward::{FeedForward, Residual};
use crate::nn::padding;
use crate::nn::{ConvBlock, ConvKind, CrossAttention, LayerConfig, conv_block, cross_attention};

/// A decoder layer: a [`ConvBlock`], attention to an encoder's tokens, and a feed-forward part, each with a residual around it
/// (Wu et al. 2019, section 5). `linear1`, `conv`, `linear2`, `conv_layer_norm`, `encoder_attn`, `encoder_attn_layer_norm`,
/// `fc1`, `fc2` and `final_layer_norm`.
#[derive(Debug)]
pub struct DecoderLayer {
    conv: ConvBlock,
    conv_residual: Residual,
    attention: CrossAttention,
    attention_residual: Residual,
    feed_forward: FeedForward,
    feed_forward_residual: Residual,
}

/// What a decoder layer sees of the encoder.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// `[batch, time, C]`.
    pub tokens: &'a Tensor,
    /// How many of them each sequence has; all by default.
    pub sequences: Option<&'a Sequences>,
}

const NAME: &str = "decoder_layer";

/// A layer of the sizes of `config`.
///
/// # Errors
///
/// As [`light_conv`](crate::nn::light_conv), and for a window that sees what comes later.
pub fn decoder_layer(kind: ConvKind, config: &LayerConfig, vb: VarBuilder<'_>) -> Result<DecoderLayer> {
    if !config.window.is_causal() {
        let window = config.window;
        let (left, width, dilation, reach) =
            (window.left(), window.width(), window.dilation(), window.reach());
        let error = Error::HistoryNotCausal { left, width, dilation, reach };
        return Err(carry(NAME)(error).context("a decoder layer sees nothing that comes later"));
    }
    Ok(DecoderLayer {
        conv: conv_block(kind, config, vb.clone())?,
        conv_residual: Residual::new(NAME, config, vb.pp("conv_layer_norm"))?,
        attention: cross_attention(config.channels, config.heads, vb.pp("encoder_attn"))?,
        attention_residual: Residual::new(NAME, config, vb.pp("encoder_attn_layer_norm"))?,
        feed_forward: FeedForward::new(config, &vb)?,
        feed_forward_residual: Residual::new(NAME, config, vb.pp("final_layer_norm"))?,
    })
}

impl DecoderLayer {
    /// y as x, `[batch, time, C]`. What stands in the padding of x and of the memory changes no token of y and no gradient; what
    /// stands in that of y means nothing.
    ///
    /// # Errors
    ///
    /// As [`light_conv`](crate::light_conv), [`dynamic_conv`](crate::dynamic_conv) and [`CrossAttention::forward_with`].
    pub fn forward_with(
        &self,
        x: &Tensor,
        sequences: Option<&Sequences>,
        memory: Memory<'_>,
        train: bool,
    ) -> Result<Tensor> {
        let x = padding::cleared(NAME, x, sequences)?;
        let conv = |x: &Tensor| self.conv.forward_cleared(x, sequences, train);
        let x = self.conv_residual.around(&x, train, conv)?;
        let x = self
            .attention_residual
            .around(&x, train, |x| self.attention.forward_with(x, memory.tokens, memory.sequences))?;
        self.feed_forward_residual.around(&x, train, |x| self.feed_forward.forward(x))
    }
}
