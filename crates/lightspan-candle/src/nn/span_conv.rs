use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use lightspan::{Normalize, Sequences, Window};

use crate::nn::config::{ConvConfig, WeightDropout, check_heads};
use crate::nn::init::ZERO;
use crate::{SpanConvOptions, SpanConvTensors};

/// A span-based dynamic convolution with its parameters: `key_conv_attn_layer.depthwise.weight` `[C, 1, K]`,
/// `key_conv_attn_layer.pointwise.weight` `[A, C, 1]`, `key_conv_attn_layer.bias` `[A, 1]`, `conv_kernel_layer.weight`
/// `[H K, A]` and `conv_kernel_layer.bias` `[H K]`, and `bias` `[A]` where it has one.
#[derive(Debug)]
pub struct SpanConv {
    depthwise: Tensor,
    pointwise: Tensor,
    key_bias: Tensor,
    weight: Tensor,
    weight_bias: Tensor,
    bias: Option<Tensor>,
    heads: usize,
    window: Window,
    normalize: Normalize,
    dropout: WeightDropout,
}

/// A span-based dynamic convolution: keys of x of `channels`, queries and values of `outputs` A, in `heads`. Keys and kernels
/// have their biases, whatever the configuration says.
///
/// # Errors
///
/// As [`light_conv`](crate::nn::light_conv).
pub fn span_conv(
    channels: usize,
    outputs: usize,
    heads: usize,
    window: Window,
    config: ConvConfig,
    vb: VarBuilder<'_>,
) -> Result<SpanConv> {
    const NAME: &str = "span_conv";
    check_heads(NAME, outputs, heads)?;
    let (key, kernel) = (vb.pp("key_conv_attn_layer"), vb.pp("conv_kernel_layer"));
    // As transformers begins: its standard deviation is that of all of a model's layers.
    let normal = Init::Randn { mean: 0.0, stdev: 0.02 };
    let (width, logits) = (window.width(), heads * window.width());
    Ok(SpanConv {
        depthwise: key.pp("depthwise").get_with_hints((channels, 1, width), "weight", normal)?,
        pointwise: key.pp("pointwise").get_with_hints((outputs, channels, 1), "weight", normal)?,
        key_bias: key.get_with_hints((outputs, 1), "bias", ZERO)?,
        weight: kernel.get_with_hints((logits, outputs), "weight", normal)?,
        weight_bias: kernel.get_with_hints(logits, "bias", ZERO)?,
        bias: config.bias.then(|| vb.get_with_hints(outputs, "bias", ZERO)).transpose()?,
        heads,
        window,
        normalize: config.normalize,
        dropout: WeightDropout::new(NAME, &config, &vb)?,
    })
}

impl SpanConv {
    /// y as the values `[.., A]`, of x `[.., C]` and queries `[.., A]`; weights are dropped where `train` says so.
    ///
    /// # Errors
    ///
    /// As [`span_conv`](crate::span_conv).
    pub fn forward_with(
        &self,
        x: &Tensor,
        query: &Tensor,
        value: &Tensor,
        sequences: Option<&Sequences>,
        train: bool,
    ) -> Result<Tensor> {
        let tensors = SpanConvTensors {
            x,
            query,
            value,
            depthwise: &self.depthwise.squeeze(1)?,
            pointwise: &self.pointwise.squeeze(2)?,
            weight: &self.weight,
        };
        let options = SpanConvOptions {
            key_bias: Some(&self.key_bias.squeeze(1)?),
            weight_bias: Some(&self.weight_bias),
            bias: self.bias.as_ref(),
            normalize: self.normalize,
            sequences,
            dropout: self.dropout.next(train),
        };
        crate::span_conv(&tensors, self.heads, self.window, &options)
    }
}
