use crate::nn::{ConvBlock, FeedForward, MixedAttention, Norm, NormOrder, SelfAttention};
use crate::problem::Mask;
use crate::{Result, Sequences, Tensor};

/// What carries information from token to token in a layer of an encoder.
#[derive(Clone, Debug)]
pub enum EncoderMixer {
    /// Convolution.
    Conv(ConvBlock),
    /// Attention of each token to all of its sequence: the baseline.
    Attention(SelfAttention),
    /// Both, side by side.
    Mixed(Box<MixedAttention>),
}

/// A layer of an encoder: what mixes tokens, and a feed-forward layer, each with its residual and norm.
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    /// What mixes tokens.
    pub mixer: EncoderMixer,
    /// Its norm.
    pub mixer_norm: Norm,
    /// The feed-forward layer.
    pub feed_forward: FeedForward,
    /// Its norm.
    pub feed_forward_norm: Norm,
    /// Where the norms stand.
    pub order: NormOrder,
}

impl EncoderLayer {
    /// y as x. Attention sees the tokens of `keys`, which are `sequences` unless a model says otherwise
    /// ([`MixedAttention::forward`]).
    ///
    /// # Errors
    ///
    /// As the operators of the layer.
    pub fn forward(&self, x: &Tensor, sequences: &Sequences, keys: &Sequences) -> Result<Tensor> {
        let x = self.order.around(&self.mixer_norm, x, |x, residual| match &self.mixer {
            EncoderMixer::Conv(block) => block.forward(x, sequences, None, residual),
            EncoderMixer::Attention(attention) => attention.forward(x, sequences, keys, Mask::FULL, residual),
            EncoderMixer::Mixed(mixed) => mixed.forward(x, sequences, keys, residual),
        })?;
        self.order.around(&self.feed_forward_norm, &x, |x, residual| self.feed_forward.forward(x, residual))
    }
}
