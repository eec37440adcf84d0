use candle_core::{ModuleT, Result, Tensor};
use candle_nn::VarBuilder;
use lightspan::{Normalize, Sequences, Window};

use crate::DynamicConvOptions;
use crate::nn::config::{ConvConfig, WeightDropout, check_heads};
use crate::nn::init;

/// A dynamic convolution with its parameters: `weight_linear.weight` `[H K, Cq]` and, where it has them,
/// `weight_linear.bias` `[H K]` and `conv_bias` `[C]`.
#[derive(Debug)]
pub struct DynamicConv {
    weight: Tensor,
    weight_bias: Option<Tensor>,
    bias: Option<Tensor>,
    heads: usize,
    window: Window,
    normalize: Normalize,
    dropout: WeightDropout,
}

/// A dynamic convolution of `channels` in `heads`, of kernels that are generated from as many channels.
///
/// # Errors
///
/// As [`light_conv`](crate::nn::light_conv).
pub fn dynamic_conv(
    channels: usize,
    heads: usize,
    window: Window,
    config: ConvConfig,
    vb: VarBuilder<'_>,
) -> Result<DynamicConv> {
    const NAME: &str = "dynamic_conv";
    check_heads(NAME, channels, heads)?;
    let logits = heads * window.width();
    // As fairseq's DynamicConv1dTBC; its module for GPUs takes Xavier's distribution for the weight.
    let (linear, begin) = (vb.pp("weight_linear"), init::torch_linear(channels));
    Ok(DynamicConv {
        weight: linear.get_with_hints((logits, channels), "weight", begin)?,
        weight_bias: config.weight_bias.then(|| linear.get_with_hints(logits, "bias", begin)).transpose()?,
        bias: config.bias.then(|| vb.get_with_hints(channels, "conv_bias", init::ZERO)).transpose()?,
        heads,
        window,
        normalize: config.normalize,
        dropout: WeightDropout::new(NAME, &config, &vb)?,
    })
}

impl DynamicConv {
    /// y as x, `[batch, time, C]` or packed `[tokens, C]`; weights are dropped where `train` says so.
    ///
    /// # Errors
    ///
    /// As [`dynamic_conv`](crate::dynamic_conv).
    pub fn forward_with(&self, x: &Tensor, sequences: Option<&Sequences>, train: bool) -> Result<Tensor> {
        self.forward_query(x, None, sequences, train)
    }

    /// The same with kernels that are generated from a query `[.., C]` of its own.
    ///
    /// # Errors
    ///
    /// As [`dynamic_conv`](crate::dynamic_conv).
    pub fn forward_query(
        &self,
        x: &Tensor,
        query: Option<&Tensor>,
        sequences: Option<&Sequences>,
        train: bool,
    ) -> Result<Tensor> {
        let options = DynamicConvOptions {
            query,
            weight_bias: self.weight_bias.as_ref(),
            bias: self.bias.as_ref(),
            normalize: self.normalize,
            sequences,
            dropout: self.dropout.next(train),
        };
        crate::dynamic_conv(x, &self.weight, self.heads, self.window, &options)
    }
}

impl ModuleT for DynamicConv {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_with(xs, None, train)
    }
}
