use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder};
use clap::ValueEnum;
use lightspan_candle::nn::{self, ConvConfig, DynamicConv, SpanConv};
use lightspan_candle::{Sequences, Window};

use crate::model::{SelfAttention, linear};

/// What stands beside the heads of attention in ConvBERT (Jiang et al. 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Branch {
    /// Nothing: all heads attend.
    Attention,
    /// Dynamic convolution: each token generates its filters from itself.
    Dynamic,
    /// Span-based dynamic convolution: from a span around it.
    Span,
}

impl Branch {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Branch::Attention => "attention only",
            Branch::Dynamic => "dynamic",
            Branch::Span => "span-based",
        }
    }
}

/// Half of the heads attend and half convolve, each with half of the channels (Jiang et al. 2020, section 4.2, with a head ratio of 2).
pub struct MixedAttention {
    attention: SelfAttention,
    conv: Conv,
    value: Linear,
    output: Linear,
}

enum Conv {
    Dynamic(DynamicConv),
    Span(SpanConv),
}

impl MixedAttention {
    /// Of tokens of so many channels; both are to be even. `None` for [`Branch::Attention`].
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(
        branch: Branch,
        channels: usize,
        heads: usize,
        window: Window,
        vb: VarBuilder<'_>,
    ) -> Result<Option<Self>> {
        let (inner, heads) = (channels / 2, heads / 2);
        let config = ConvConfig { weight_bias: true, ..ConvConfig::default() };
        let vb_conv = vb.pp("conv");
        let conv = match branch {
            Branch::Attention => return Ok(None),
            Branch::Dynamic => Conv::Dynamic(nn::dynamic_conv(inner, heads, window, config, vb_conv)?),
            Branch::Span => Conv::Span(nn::span_conv(channels, inner, heads, window, config, vb_conv)?),
        };
        Ok(Some(MixedAttention {
            attention: SelfAttention::inner(channels, inner, heads, false, vb.pp("attention"))?,
            conv,
            value: linear(channels, inner, vb.pp("value"))?,
            output: linear(2 * inner, channels, vb.pp("output"))?,
        }))
    }

    /// y as x `[batch, time, C]`.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn forward(&self, x: &Tensor, sequences: &Sequences, train: bool) -> Result<Tensor> {
        let (projected, value) = (self.attention.projected(x)?, self.value.forward(x)?);
        let attended = self.attention.attend(&projected, sequences)?;
        let convolved = match &self.conv {
            Conv::Dynamic(conv) => conv.forward_with(&value, Some(sequences), train)?,
            // Attention's queries are those of the convolution too.
            Conv::Span(conv) => {
                let query = projected.narrow(D::Minus1, 0, value.dim(D::Minus1)?)?;
                conv.forward_with(x, &query, &value, Some(sequences), train)?
            }
        };
        self.output.forward(&Tensor::cat(&[attended, convolved], D::Minus1)?)
    }
}
