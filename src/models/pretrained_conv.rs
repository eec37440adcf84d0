use std::path::Path;

use serde::Deserialize;

use crate::models::config::{self, divides, refused, size};
use crate::models::stack::{ConvShape, MixerShape, NormShape, Stack};
use crate::models::{LoadOptions, Seq2Seq, Weights};
use crate::nn::{Embeddings, Linear, NormOrder, Parameter};
use crate::problem::NormKind;
use crate::{Device, Normalize, Result, Window};

/// What mixes tokens in a model of Tay et al. 2021.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum PretrainedMixer {
    /// Attention: the Transformer that the others are compared with.
    Attention,
    /// A filter for each channel.
    Depthwise {
        /// K.
        width: usize,
    },
    /// The same with taps that lie apart.
    Dilated {
        /// K of each layer; the last one is that of all layers after it.
        widths: Vec<usize>,
        /// r.
        dilation: usize,
    },
    /// A filter for each head, its taps through a softmax.
    Light {
        /// K.
        width: usize,
        /// H.
        heads: usize,
    },
    /// Filters of each head that each token makes.
    Dynamic {
        /// K.
        width: usize,
        /// H.
        heads: usize,
    },
}

impl PretrainedMixer {
    /// The widths of the dilated convolutions of the paper, of which the eleventh is that of the twelfth layer too, and a dilation
    /// of 2: the paper names none.
    pub fn dilated() -> Self {
        PretrainedMixer::Dilated { widths: vec![4, 4, 7, 7, 15, 15, 15, 15, 31, 31, 31], dilation: 2 }
    }
}

/// The sizes of an encoder-decoder of Tay et al. 2021, section 4: Linear -> GLU -> convolution -> Linear for self-attention, in the
/// encoder and in the decoder, which attends to the encoder.
///
/// The named ones are put together so that their parameters are as many as the paper says in its table, in millions: it says no
/// more of how they come about than 210M and 324M (base) and 741M and 1.2B (large) of light and dynamic convolution. What is
/// taken so is 1024 positions of each side and 32,000 tokens, biases but in attention, a filter for each channel (as the released
/// code has it), and after a convolution a pointwise one where only so the number is met.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainedConvConfig {
    /// `pretrained_conv`.
    pub model: String,
    /// V, of both sides.
    pub vocab_size: usize,
    /// Channels of a token between layers.
    pub embed_dim: usize,
    /// Channels of a feed-forward layer.
    pub ffn_embed_dim: usize,
    /// Heads of attention.
    pub attention_heads: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// What mixes tokens.
    pub mixer: PretrainedMixer,
    /// Whether a pointwise convolution follows each convolution.
    pub pointwise: bool,
    /// Where norms stand.
    pub norm_order: NormOrder,
    /// Whether norms are RMS norms without a bias, as in T5, or layer norms.
    pub rms_norm: bool,
    /// The longest sequence of either side: there are as many positions.
    pub max_positions: usize,
}

impl PretrainedConvConfig {
    /// 12 + 12 layers of 768 channels.
    pub fn base(mixer: PretrainedMixer) -> Self {
        let pointwise = matches!(mixer, PretrainedMixer::Dynamic { .. });
        PretrainedConvConfig {
            model: NAME.to_owned(),
            vocab_size: 32_000,
            embed_dim: 768,
            ffn_embed_dim: 3072,
            attention_heads: 12,
            encoder_layers: 12,
            decoder_layers: 12,
            mixer,
            pointwise,
            norm_order: NormOrder::Pre,
            rms_norm: true,
            max_positions: 1024,
        }
    }

    /// 24 + 24 layers of 1024 channels.
    pub fn large(mixer: PretrainedMixer) -> Self {
        PretrainedConvConfig {
            embed_dim: 1024,
            ffn_embed_dim: 4096,
            attention_heads: 16,
            encoder_layers: 24,
            decoder_layers: 24,
            pointwise: mixer != PretrainedMixer::Attention,
            ..PretrainedConvConfig::base(mixer)
        }
    }

    /// LConv-base: light convolution, 210M parameters.
    pub fn light_base() -> Self {
        PretrainedConvConfig::base(PretrainedMixer::Light { width: 7, heads: 768 })
    }

    /// DConv-base: dynamic convolution, 324M parameters.
    pub fn dynamic_base() -> Self {
        PretrainedConvConfig::base(PretrainedMixer::Dynamic { width: 7, heads: 768 })
    }

    /// LConv-large: light convolution of the width that the released code has, 741M parameters.
    pub fn light_large() -> Self {
        PretrainedConvConfig::large(PretrainedMixer::Light { width: 9, heads: 1024 })
    }

    /// DConv-large: dynamic convolution of the width that the released code has, 1.2B parameters.
    pub fn dynamic_large() -> Self {
        PretrainedConvConfig::large(PretrainedMixer::Dynamic { width: 9, heads: 1024 })
    }

    /// A configuration from JSON.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) for what is no JSON, lacks a key or has one that is not known.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        config::from_json("config.json", json)
    }

    /// The model in a folder with `config.json` and `model.safetensors`.
    ///
    /// # Errors
    ///
    /// For files that cannot be read, configurations that are not supported, and weights that do not fit.
    pub fn load(
        folder: impl AsRef<Path>,
        device: &Device,
        options: LoadOptions<'_>,
    ) -> Result<(Self, Seq2Seq)> {
        config::load(folder.as_ref(), device, options, Self::seq2seq)
    }

    /// The model of these weights: `shared.weight`, `encoder` and `decoder` with `embed_positions.weight`, layers as fairseq
    /// names them (`linear1`, `conv`, `linear2`, or `self_attn`; `encoder_attn`; `fc1`, `fc2`), and `layer_norm`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) for sizes that no model has, and as [`Weights::get`] and [`Weights::finish`].
    pub fn seq2seq(&self, weights: &Weights<'_>) -> Result<Seq2Seq> {
        self.check()?;
        let (encoder, decoder) = (weights.at("encoder"), weights.at("decoder"));
        let table = weights.get("shared.weight", &[self.vocab_size, self.embed_dim])?;
        let embeddings = |side: &Weights<'_>| -> Result<Embeddings> {
            let positions = side.get("embed_positions.weight", &[self.max_positions, self.embed_dim])?;
            Ok(Embeddings { positions: Some(positions), ..Embeddings::new(Parameter::clone(&table)) })
        };
        let model = Seq2Seq {
            source: embeddings(&encoder)?,
            encoder: self.stack(false)?.encoder(&encoder)?,
            target: embeddings(&decoder)?,
            decoder: self.stack(true)?.decoder(&decoder, true)?,
            output: Linear::new(table),
        };
        weights.finish()?;
        Ok(model)
    }

    /// Numbers that the parameters have in all.
    ///
    /// # Errors
    ///
    /// As [`PretrainedConvConfig::seq2seq`].
    pub fn parameters(&self) -> Result<usize> {
        self.check()?;
        let tables = (self.vocab_size + 2 * self.max_positions) * self.embed_dim;
        Ok(tables + self.stack(false)?.parameters(false) + self.stack(true)?.parameters(true))
    }

    fn check(&self) -> Result<()> {
        if self.model != NAME {
            return Err(refused("model", NAME, &self.model));
        }
        size("vocab_size", self.vocab_size)?;
        size("embed_dim", self.embed_dim)?;
        size("ffn_embed_dim", self.ffn_embed_dim)?;
        size("max_positions", self.max_positions)?;
        config::in_range("encoder_layers", self.encoder_layers, 0)?;
        config::in_range("decoder_layers", self.decoder_layers, 0)?;
        divides("attention_heads", self.attention_heads, "embed_dim", self.embed_dim)?;
        match &self.mixer {
            PretrainedMixer::Attention => Ok(()),
            PretrainedMixer::Depthwise { width } => size("width", *width),
            PretrainedMixer::Dilated { widths, dilation } => {
                size("dilation", *dilation)?;
                size("the number of widths", widths.len())?;
                widths.iter().try_for_each(|&width| size("widths", width))
            }
            PretrainedMixer::Light { width, heads } | PretrainedMixer::Dynamic { width, heads } => {
                size("width", *width)?;
                divides("heads", *heads, "embed_dim", self.embed_dim)
            }
        }
    }

    fn stack(&self, decoder: bool) -> Result<Stack> {
        let window = |width| if decoder { Window::causal(width) } else { Window::same(width) };
        let conv = |heads, window, normalize, dynamic| {
            let pointwise = self.pointwise;
            let conv = ConvShape { dynamic, weight_bias: dynamic, pointwise, heads, window, normalize };
            MixerShape::Conv(conv)
        };
        let channels = self.embed_dim;
        let mixer = |layer: usize| {
            Ok(match &self.mixer {
                PretrainedMixer::Attention => MixerShape::Attention,
                PretrainedMixer::Depthwise { width } => {
                    conv(channels, window(*width)?, Normalize::None, false)
                }
                PretrainedMixer::Dilated { widths, dilation } => {
                    let width = widths.get(layer).or(widths.last()).copied().unwrap_or(1);
                    conv(channels, window(width)?.dilated(*dilation)?, Normalize::None, false)
                }
                PretrainedMixer::Light { width, heads } => {
                    conv(*heads, window(*width)?, Normalize::Softmax, false)
                }
                PretrainedMixer::Dynamic { width, heads } => {
                    conv(*heads, window(*width)?, Normalize::Softmax, true)
                }
            })
        };
        let layers = if decoder { self.decoder_layers } else { self.encoder_layers };
        let norm = if self.rms_norm {
            NormShape { kind: NormKind::Rms, bias: false, eps: 1e-6 }
        } else {
            NormShape { kind: NormKind::Layer, bias: true, eps: 1e-5 }
        };
        Ok(Stack {
            channels,
            conv_channels: channels,
            ffn: self.ffn_embed_dim,
            attention_heads: self.attention_heads,
            glu: true,
            bias: true,
            attention_bias: false,
            order: self.norm_order,
            norm,
            last_norm: self.norm_order == NormOrder::Pre,
            mixers: (0..layers).map(mixer).collect::<Result<_>>()?,
        })
    }
}

const NAME: &str = "pretrained_conv";
