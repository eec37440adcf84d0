use std::path::Path;

use serde::Deserialize;

use crate::models::config::{self, LARGEST, divides, refused, size};
use crate::models::stack::{ConvShape, MixerShape, NormShape, Stack};
use crate::models::{LanguageModel, LoadOptions, Seq2Seq, Weights};
use crate::nn::{Embeddings, Linear, NormOrder, Parameter};
use crate::ops::{Sinusoids, sinusoidal_positions};
use crate::problem::NormKind;
use crate::{Device, Normalize, Result, Tensor, Window};

/// Which convolution a model of Wu et al. 2019 has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LightConvKind {
    /// One filter for each head.
    #[default]
    Lightweight,
    /// Each token makes its own filters.
    Dynamic,
}

/// How a model knows where a token stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionKind {
    /// Sines and cosines.
    #[default]
    Sinusoidal,
    /// A table that was learned: `embed_positions.weight`.
    Learned,
    /// Not at all, but for what the convolutions tell.
    None,
}

/// The sizes of a LightConv or DynamicConv model (Wu et al. 2019, section 5), sequence-to-sequence or a language model, with the
/// names of fairseq: `config.json` has these keys, those that have a default may be missing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightConvConfig {
    /// `lightconv`, or `lightconv_lm` for a language model, which has no encoder.
    #[serde(default = "seq2seq")]
    pub model: String,
    /// V, of both sides if `source_vocab_size` does not say otherwise.
    pub vocab_size: usize,
    /// V of the encoder, where its tokens are of another dictionary than the decoder's.
    #[serde(default)]
    pub source_vocab_size: Option<usize>,
    /// Channels of a token between layers.
    pub embed_dim: usize,
    /// Channels of a token in a convolution; `embed_dim` by default.
    #[serde(default)]
    pub conv_dim: Option<usize>,
    /// Channels of a feed-forward layer.
    pub ffn_embed_dim: usize,
    /// Heads of convolution and of attention.
    pub attention_heads: usize,
    /// Which convolution.
    #[serde(default)]
    pub conv_type: LightConvKind,
    /// K of each layer of the encoder.
    #[serde(default)]
    pub encoder_kernel_widths: Vec<usize>,
    /// K of each layer of the decoder.
    pub decoder_kernel_widths: Vec<usize>,
    /// Whether a gated linear unit stands before a convolution.
    #[serde(default = "yes")]
    pub glu: bool,
    /// Whether norms stand before their sublayers, with one more at the end.
    #[serde(default)]
    pub normalize_before: bool,
    /// Whether the taps of a convolution go through a softmax.
    #[serde(default = "yes")]
    pub weight_softmax: bool,
    /// Whether encoder and decoder have one table.
    #[serde(default)]
    pub share_all_embeddings: bool,
    /// Whether the decoder's table makes the logits too.
    #[serde(default)]
    pub share_decoder_input_output_embed: bool,
    /// The token of padding, after whose number those of positions begin.
    #[serde(default = "one")]
    pub padding_index: usize,
    /// The token that begins a target and ends it.
    #[serde(default = "two")]
    pub eos_index: usize,
    /// How tokens know where they stand.
    #[serde(default)]
    pub positions: PositionKind,
    /// The longest sequence that there are positions for.
    #[serde(default = "longest")]
    pub max_positions: usize,
    /// What is added to variances.
    #[serde(default = "eps")]
    pub layer_norm_eps: f32,
}

/// The table of tokens, of either side.
const TABLE: &str = "embed_tokens.weight";

fn seq2seq() -> String {
    "lightconv".to_owned()
}

const fn yes() -> bool {
    true
}

const fn one() -> usize {
    1
}

const fn two() -> usize {
    2
}

const fn longest() -> usize {
    1024
}

const fn eps() -> f32 {
    1e-5
}

impl LightConvConfig {
    /// The base model for translation: 7 + 6 layers of 512 channels, 8 heads.
    pub fn base(kind: LightConvKind, vocab_size: usize) -> Self {
        LightConvConfig {
            model: seq2seq(),
            vocab_size,
            source_vocab_size: None,
            embed_dim: 512,
            conv_dim: None,
            ffn_embed_dim: 2048,
            attention_heads: 8,
            conv_type: kind,
            encoder_kernel_widths: vec![3, 7, 15, 31, 31, 31, 31],
            decoder_kernel_widths: vec![3, 7, 15, 31, 31, 31],
            glu: true,
            normalize_before: false,
            weight_softmax: true,
            share_all_embeddings: true,
            share_decoder_input_output_embed: true,
            padding_index: 1,
            eos_index: 2,
            positions: PositionKind::Sinusoidal,
            max_positions: longest(),
            layer_norm_eps: eps(),
        }
    }

    /// The model for IWSLT: as [`LightConvConfig::base`] with 1024 channels in feed-forward layers, 4 heads, and no GLU.
    pub fn iwslt(kind: LightConvKind, vocab_size: usize) -> Self {
        let base = LightConvConfig::base(kind, vocab_size);
        LightConvConfig { ffn_embed_dim: 1024, attention_heads: 4, glu: false, ..base }
    }

    /// The big model for WMT: as [`LightConvConfig::base`] with 1024 and 4096 channels, 16 heads.
    pub fn wmt_big(kind: LightConvKind, vocab_size: usize) -> Self {
        let base = LightConvConfig::base(kind, vocab_size);
        LightConvConfig { embed_dim: 1024, ffn_embed_dim: 4096, attention_heads: 16, ..base }
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

    /// The same for a language model.
    ///
    /// # Errors
    ///
    /// As [`LightConvConfig::load`].
    pub fn load_language_model(
        folder: impl AsRef<Path>,
        device: &Device,
        options: LoadOptions<'_>,
    ) -> Result<(Self, LanguageModel)> {
        config::load(folder.as_ref(), device, options, Self::language_model)
    }

    /// The sequence-to-sequence model of these weights.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) for sizes that no model has, and as [`Weights::get`] and [`Weights::finish`].
    pub fn seq2seq(&self, weights: &Weights<'_>) -> Result<Seq2Seq> {
        self.check("lightconv")?;
        let (encoder, decoder) = (weights.at("encoder"), weights.at("decoder"));
        let target = self.table(&decoder, self.vocab_size)?;
        let source = if self.share_all_embeddings {
            self.tied((&encoder, TABLE), &decoder, "share_all_embeddings")?;
            target.clone()
        } else {
            self.table(&encoder, self.source_vocab())?
        };
        let model = Seq2Seq {
            source: self.embeddings(source, &encoder)?,
            encoder: self.stack(false)?.encoder(&encoder)?,
            target: self.embeddings(target.clone(), &decoder)?,
            decoder: self.stack(true)?.decoder(&decoder, true)?,
            output: self.output(target, &decoder)?,
        };
        weights.finish()?;
        Ok(model)
    }

    /// The language model of these weights.
    ///
    /// # Errors
    ///
    /// As [`LightConvConfig::seq2seq`].
    pub fn language_model(&self, weights: &Weights<'_>) -> Result<LanguageModel> {
        self.check("lightconv_lm")?;
        let decoder = weights.at("decoder");
        let table = self.table(&decoder, self.vocab_size)?;
        let model = LanguageModel {
            embeddings: self.embeddings(table.clone(), &decoder)?,
            decoder: self.stack(true)?.decoder(&decoder, false)?,
            output: self.output(table, &decoder)?,
        };
        weights.finish()?;
        Ok(model)
    }

    /// Numbers that the parameters have in all.
    ///
    /// # Errors
    ///
    /// As [`LightConvConfig::seq2seq`].
    pub fn parameters(&self) -> Result<usize> {
        let cross = !self.is_language_model();
        self.check(&self.model)?;
        let mut rows = self.vocab_size;
        if cross && !self.share_all_embeddings {
            rows += self.source_vocab();
        }
        if !self.share_decoder_input_output_embed {
            rows += self.vocab_size;
        }
        let positions = match self.positions {
            PositionKind::Learned => self.position_rows() * self.embed_dim * if cross { 2 } else { 1 },
            _ => 0,
        };
        let encoder = if cross { self.stack(false)?.parameters(false) } else { 0 };
        Ok(rows * self.embed_dim + positions + encoder + self.stack(true)?.parameters(cross))
    }

    fn is_language_model(&self) -> bool {
        self.model == "lightconv_lm"
    }

    fn check(&self, model: &str) -> Result<()> {
        if self.model != model || !["lightconv", "lightconv_lm"].contains(&model) {
            return Err(refused("model", "lightconv, or lightconv_lm for a language model", &self.model));
        }
        size("vocab_size", self.vocab_size)?;
        let source = self.source_vocab();
        size("source_vocab_size", source)?;
        if source != self.vocab_size && (self.share_all_embeddings || self.is_language_model()) {
            let expected = format!("vocab_size, {}: there is one table", self.vocab_size);
            return Err(refused("source_vocab_size", expected, source));
        }
        size("embed_dim", self.embed_dim)?;
        size("ffn_embed_dim", self.ffn_embed_dim)?;
        size("max_positions", self.max_positions)?;
        let conv = self.conv_channels();
        size("conv_dim", conv)?;
        divides("attention_heads", self.attention_heads, "embed_dim", self.embed_dim)?;
        divides("attention_heads", self.attention_heads, "conv_dim", conv)?;
        for &width in self.encoder_kernel_widths.iter().chain(&self.decoder_kernel_widths) {
            size("kernel_widths", width)?;
        }
        let tokens = [("padding_index", self.padding_index), ("eos_index", self.eos_index)];
        for (key, got) in tokens {
            if got >= self.vocab_size.min(source) {
                let expected = format!("less than vocab_size, {}", self.vocab_size.min(source));
                return Err(refused(key, expected, got));
            }
        }
        if self.encoder_kernel_widths.len().max(self.decoder_kernel_widths.len()) > LARGEST {
            return Err(refused("kernel_widths", format!("at most {LARGEST}"), "more"));
        }
        Ok(())
    }

    fn source_vocab(&self) -> usize {
        self.source_vocab_size.unwrap_or(self.vocab_size)
    }

    fn conv_channels(&self) -> usize {
        self.conv_dim.unwrap_or(self.embed_dim)
    }

    fn stack(&self, decoder: bool) -> Result<Stack> {
        let widths = if decoder { &self.decoder_kernel_widths } else { &self.encoder_kernel_widths };
        let mixer = |&width: &usize| {
            Ok(MixerShape::Conv(ConvShape {
                dynamic: self.conv_type == LightConvKind::Dynamic,
                weight_bias: false,
                pointwise: false,
                heads: self.attention_heads,
                window: if decoder { Window::causal(width)? } else { Window::same(width)? },
                normalize: if self.weight_softmax { Normalize::Softmax } else { Normalize::None },
            }))
        };
        Ok(Stack {
            channels: self.embed_dim,
            conv_channels: self.conv_channels(),
            ffn: self.ffn_embed_dim,
            attention_heads: self.attention_heads,
            glu: self.glu,
            bias: true,
            attention_bias: true,
            order: if self.normalize_before { NormOrder::Pre } else { NormOrder::Post },
            norm: NormShape { kind: NormKind::Layer, bias: true, eps: self.layer_norm_eps },
            last_norm: self.normalize_before,
            mixers: widths.iter().map(mixer).collect::<Result<_>>()?,
        })
    }

    fn table(&self, side: &Weights<'_>, rows: usize) -> Result<Parameter> {
        side.get(TABLE, &[rows, self.embed_dim])
    }

    /// An error where a table is not the decoder's, as `key` says.
    fn tied(
        &self,
        (side, name): (&Weights<'_>, &str),
        decoder: &Weights<'_>,
        key: &'static str,
    ) -> Result<()> {
        side.tied(name, (decoder, TABLE), &[self.vocab_size, self.embed_dim], key)
    }

    /// Rows before that of the first token are those of padding and of what stands before it.
    fn first_position(&self) -> usize {
        self.padding_index + 1
    }

    fn position_rows(&self) -> usize {
        self.first_position() + self.max_positions
    }

    fn embeddings(&self, table: Parameter, side: &Weights<'_>) -> Result<Embeddings> {
        // What fairseq keeps beside the parameters.
        side.pass_over("version");
        side.pass_over("embed_positions._float_tensor");
        let (rows, channels) = (self.position_rows(), self.embed_dim);
        let positions = match self.positions {
            PositionKind::None => None,
            PositionKind::Learned => Some(side.get("embed_positions.weight", &[rows, channels])?),
            PositionKind::Sinusoidal => {
                let values = sinusoidal_positions(rows, channels, Sinusoids::Halves)?;
                let (dtype, device) = (side.dtype(), side.device());
                Some(Parameter::new(Tensor::from_f32(&values, &[rows, channels], dtype, device)?))
            }
        };
        let (scale, first_position) = ((channels as f32).sqrt(), self.first_position());
        Ok(Embeddings { table, scale, positions, first_position, types: None })
    }

    fn output(&self, table: Parameter, decoder: &Weights<'_>) -> Result<Linear> {
        if self.share_decoder_input_output_embed {
            let output = (decoder, "output_projection.weight");
            self.tied(output, decoder, "share_decoder_input_output_embed")?;
            return Ok(Linear::new(table));
        }
        // The second is what older versions of fairseq call it.
        let name = decoder.first_of(&["output_projection.weight", "embed_out"]);
        Ok(Linear::new(decoder.get(name, &[self.vocab_size, self.embed_dim])?))
    }
}
