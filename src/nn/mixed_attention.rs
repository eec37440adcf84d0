use crate::nn::attention::parts;
use crate::nn::{Linear, Parameter};
use crate::ops::{self, AttentionOptions, SpanConvOptions, SpanConvTensors};
use crate::{Normalize, Result, Sequences, Tensor, Window};

/// The mixed attention of ConvBERT: heads of attention beside as many heads of span-based dynamic convolution, which share their
/// query (Jiang et al. 2020, section 3.3 and figure 3).
///
/// y = \[attention heads, convolution heads\] W^T + bias; A channels come from each.
#[derive(Clone, Debug)]
pub struct MixedAttention {
    /// From C to the query of both, the keys and values of attention, and the values that are convolved, `[.., 4 A]`: one after
    /// another.
    pub input: Linear,
    /// The separable key: `[C, K]`.
    pub depthwise: Parameter,
    /// The separable key: `[A, C]`.
    pub pointwise: Parameter,
    /// `[A]`, added to the separable key.
    pub key_bias: Option<Parameter>,
    /// From the span-aware key times the query to the kernels: W `[H K, A]`.
    pub kernel: Parameter,
    /// `[H K]`.
    pub kernel_bias: Option<Parameter>,
    /// From what the attention heads found to y: the columns of W that they meet, and the bias.
    pub attention_output: Linear,
    /// From what the convolution heads found to y: the columns of W that they meet.
    pub conv_output: Linear,
    /// Heads of each kind, H.
    pub heads: usize,
    /// Where the K taps lie.
    pub window: Window,
}

impl MixedAttention {
    /// y as x, the residual added to it. Convolution heads see all tokens of `sequences`, attention heads those of `keys`. They are
    /// the same, unless what is padding to attention is not so to convolution, as in the published models.
    ///
    /// # Errors
    ///
    /// As [`ops::linear`], [`ops::attention`] and [`ops::span_conv`]; [`Error::Groups`](crate::Error::Groups) where `input` has no
    /// four parts.
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        keys: &Sequences,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let made = self.input.forward(x, None)?;
        let [query, key, value, conv_value] = parts(&made)?;
        let options = AttentionOptions { queries: Some(sequences), keys: Some(keys), ..Default::default() };
        let attended = ops::attention(query, key, value, self.heads, &options)?;

        let tensors = SpanConvTensors {
            x,
            query,
            value: conv_value,
            depthwise: &self.depthwise,
            pointwise: &self.pointwise,
            weight: &self.kernel,
        };
        let options = SpanConvOptions {
            key_bias: self.key_bias.as_deref(),
            weight_bias: self.kernel_bias.as_deref(),
            normalize: Normalize::Softmax,
            sequences: Some(sequences),
            ..Default::default()
        };
        let convolved = ops::span_conv(&tensors, self.heads, self.window, &options)?;

        // One product over both kinds of heads side by side, without putting them side by side.
        let y = self.attention_output.forward(&attended, residual)?;
        self.conv_output.forward(&convolved, Some(&y))
    }
}
