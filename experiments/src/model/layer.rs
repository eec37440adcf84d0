use candle_core::{Module, Result, Tensor};
use candle_nn::rnn::{LSTM, LSTMConfig, RNN, lstm};
use candle_nn::{Linear, VarBuilder};
use clap::ValueEnum;
use lightspan_candle::nn::{
    ConvBlock, ConvConfig, ConvKind, CrossAttention, LayerConfig, Memory, conv_block, cross_attention,
};
use lightspan_candle::{Normalize, Sequences, Window};

use crate::model::{Branch, MixedAttention, Norm, Role, SelfAttention, Size, linear};

/// What mixes the tokens of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Self-attention.
    Transformer,
    /// Lightweight convolution.
    Light,
    /// Depthwise convolution, of twice the dilation in each layer.
    Dilated,
    /// Dynamic convolution.
    Dynamic,
    /// A recurrent network with long short-term memory, in one direction.
    Lstm,
}

impl Kind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Transformer => "Transformer",
            Kind::Light => "light",
            Kind::Dilated => "dilated",
            Kind::Dynamic => "dynamic",
            Kind::Lstm => "LSTM",
        }
    }
}

/// What mixes the tokens of one layer.
pub enum Mixer {
    /// Self-attention.
    Attention(SelfAttention),
    /// A convolution with a gated linear unit before it and a linear layer behind (Wu et al. 2019, section 5).
    Conv(ConvBlock),
    /// Attention beside convolution.
    Mixed(MixedAttention),
    /// A recurrent network.
    Lstm(LSTM),
}

impl Mixer {
    /// Of the layer with this index.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(kind: Kind, size: &Size, role: Role, index: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let causal = role != Role::Encoder;
        let window = if causal { Window::causal(size.width) } else { Window::same(size.width) };
        let window = window.map_err(candle_core::Error::wrap)?;
        let conv = |conv, heads, window, normalize, vb| -> Result<Mixer> {
            let config = ConvConfig { normalize, ..ConvConfig::default() };
            let layer = LayerConfig {
                glu: true,
                conv: config,
                ..LayerConfig::new(size.channels, heads, window, size.ffn)
            };
            Ok(Mixer::Conv(conv_block(conv, &layer, vb)?))
        };
        match kind {
            Kind::Transformer => {
                Ok(Mixer::Attention(SelfAttention::new(size.channels, size.heads, causal, vb)?))
            }
            Kind::Light => conv(ConvKind::Light, size.heads, window, Normalize::Softmax, vb),
            Kind::Dynamic => conv(ConvKind::Dynamic, size.heads, window, Normalize::Softmax, vb),
            Kind::Dilated => {
                let window = window.dilated(1 << index).map_err(candle_core::Error::wrap)?;
                conv(ConvKind::Light, size.channels, window, Normalize::None, vb)
            }
            Kind::Lstm => {
                if !causal {
                    candle_core::bail!("an LSTM reads in one direction: it is no encoder");
                }
                Ok(Mixer::Lstm(lstm(size.channels, size.channels, LSTMConfig::default(), vb)?))
            }
        }
    }

    /// That of ConvBERT.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn of_branch(branch: Branch, size: &Size, vb: VarBuilder<'_>) -> Result<Self> {
        let window = Window::same(size.width).map_err(candle_core::Error::wrap)?;
        Ok(match MixedAttention::new(branch, size.channels, size.heads, window, vb.clone())? {
            Some(mixed) => Mixer::Mixed(mixed),
            None => Mixer::Attention(SelfAttention::new(size.channels, size.heads, false, vb)?),
        })
    }

    fn forward(&self, x: &Tensor, sequences: &Sequences, train: bool) -> Result<Tensor> {
        match self {
            Mixer::Attention(attention) => attention.forward(x, sequences),
            Mixer::Conv(conv) => conv.forward_with(x, Some(sequences), train),
            Mixer::Mixed(mixed) => mixed.forward(x, sequences, train),
            Mixer::Lstm(lstm) => lstm.states_to_tensor(&lstm.seq(x)?),
        }
    }
}

/// A mixer, attention to an encoder where there is one, and a feed-forward part, each with a norm before it and a residual around it.
pub struct Layer {
    mixer: (Norm, Mixer),
    cross: Option<(Norm, CrossAttention)>,
    ffn: (Norm, [Linear; 2]),
}

impl Layer {
    /// Around a mixer.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(mixer: Mixer, size: &Size, role: Role, vb: &VarBuilder<'_>) -> Result<Self> {
        let norm = |name| Norm::new(size.channels, vb.pp(name));
        let ffn = [
            linear(size.channels, size.ffn, vb.pp("ffn.fc1"))?,
            linear(size.ffn, size.channels, vb.pp("ffn.fc2"))?,
        ];
        let cross = || -> Result<_> {
            Ok((norm("cross_norm")?, cross_attention(size.channels, size.heads, vb.pp("cross"))?))
        };
        Ok(Layer {
            mixer: (norm("mixer_norm")?, mixer),
            cross: (role == Role::Decoder).then(cross).transpose()?,
            ffn: (norm("ffn_norm")?, ffn),
        })
    }

    /// y as x `[batch, time, C]`; a decoder's layer wants a memory.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        memory: Option<Memory<'_>>,
        train: bool,
    ) -> Result<Tensor> {
        let (norm, mixer) = &self.mixer;
        let mut x = (x + mixer.forward(&norm.forward(x)?, sequences, train)?)?;
        if let Some((norm, cross)) = &self.cross {
            let Some(memory) = memory else { candle_core::bail!("a decoder's layer without a memory") };
            x = (&x + cross.forward_with(&norm.forward(&x)?, memory.tokens, memory.sequences)?)?;
        }
        let (norm, [fc1, fc2]) = &self.ffn;
        let y = fc2.forward(&fc1.forward(&norm.forward(&x)?)?.relu()?)?;
        x + y
    }
}
