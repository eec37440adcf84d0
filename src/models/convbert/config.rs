use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Result;
use crate::models::config::{self, divides, in_range, refused, size};
use crate::problem::Activation;

/// The sizes of a ConvBERT model, with the keys and defaults of transformers' `config.json`. Keys that say nothing about what
/// such a model computes are passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConvBertConfig {
    /// `convbert`.
    pub model_type: String,
    /// V.
    pub vocab_size: usize,
    /// Channels of a token between layers, C.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads before they are divided by `head_ratio`.
    pub num_attention_heads: usize,
    /// Channels of a feed-forward layer.
    pub intermediate_size: usize,
    /// The activation of feed-forward layers and heads: `gelu`, `gelu_new`, `gelu_pytorch_tanh` or `relu`.
    pub hidden_act: String,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// Types of tokens.
    pub type_vocab_size: usize,
    /// What is added to variances.
    pub layer_norm_eps: f32,
    /// Channels of embeddings.
    pub embedding_size: usize,
    /// What the heads of attention and of convolution are fewer by, gamma.
    pub head_ratio: usize,
    /// K, odd.
    pub conv_kernel_size: usize,
    /// Groups of the linear layers in feed-forward layers.
    pub num_groups: usize,
    /// The token of padding.
    pub pad_token_id: Option<usize>,
    /// Whether the table of tokens makes the logits too.
    pub tie_word_embeddings: bool,
    /// The classes of a classification, by their numbers.
    pub id2label: Option<BTreeMap<usize, String>>,
    /// How many there are, where they have no names.
    pub num_labels: Option<usize>,
    /// Whether it is a decoder: no.
    pub is_decoder: bool,
    /// Whether it attends to another model: no.
    pub add_cross_attention: bool,
    /// How positions come in: `absolute`.
    pub position_embedding_type: String,
}

impl Default for ConvBertConfig {
    fn default() -> Self {
        ConvBertConfig {
            model_type: "convbert".to_owned(),
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            embedding_size: 768,
            head_ratio: 2,
            conv_kernel_size: 9,
            num_groups: 1,
            pad_token_id: Some(1),
            tie_word_embeddings: true,
            id2label: None,
            num_labels: None,
            is_decoder: false,
            add_cross_attention: false,
            position_embedding_type: "absolute".to_owned(),
        }
    }
}

impl ConvBertConfig {
    /// ConvBERT-small: 12 layers of 256 channels.
    pub fn small() -> Self {
        ConvBertConfig {
            hidden_size: 256,
            num_attention_heads: 4,
            intermediate_size: 1024,
            embedding_size: 128,
            ..Default::default()
        }
    }

    /// ConvBERT-medium-small: 12 layers of 384 channels, feed-forward layers in two groups.
    pub fn medium_small() -> Self {
        ConvBertConfig {
            hidden_size: 384,
            num_attention_heads: 8,
            intermediate_size: 1536,
            embedding_size: 128,
            num_groups: 2,
            ..Default::default()
        }
    }

    /// ConvBERT-base: 12 layers of 768 channels.
    pub fn base() -> Self {
        ConvBertConfig::default()
    }

    /// The generator that this model is trained with as a discriminator: channels, heads and feed-forward layers divided by
    /// `by` (4 in small models, 3 in the base one), embeddings as they are, for they are shared.
    pub fn generator(&self, by: usize) -> Self {
        let part = |size: usize| (size / by.max(1)).max(1);
        ConvBertConfig {
            hidden_size: part(self.hidden_size),
            num_attention_heads: part(self.num_attention_heads),
            intermediate_size: part(self.intermediate_size),
            ..self.clone()
        }
    }

    /// A configuration from JSON.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) for what is no JSON, or has a key with a value of another kind.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        config::from_json("config.json", json)
    }

    /// Heads of attention, and as many of convolution: as transformers has it, at least one.
    pub fn heads(&self) -> usize {
        (self.num_attention_heads / self.head_ratio.max(1)).max(1)
    }

    /// Channels of all heads of one kind, A.
    pub fn head_channels(&self) -> usize {
        let heads = self.heads();
        heads * (self.hidden_size / heads / 2)
    }

    /// Classes of a classification.
    pub fn labels(&self) -> usize {
        self.num_labels.or(self.id2label.as_ref().map(BTreeMap::len)).unwrap_or(2)
    }

    /// Numbers that the parameters of the encoder have in all, without those of a head.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) for configurations that are not supported.
    pub fn parameters(&self) -> Result<usize> {
        self.check()?;
        let ConvBertConfig { hidden_size: c, embedding_size: e, intermediate_size: ffn, .. } = *self;
        let (a, groups, k) = (self.head_channels(), self.num_groups, self.conv_kernel_size);
        let linear = |inputs: usize, outputs: usize| inputs * outputs + outputs;
        let tables = (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * e;
        let projection = if e == c { 0 } else { linear(e, c) };
        let mixed = 4 * linear(c, a) + c * k + linear(c, a) + linear(a, self.heads() * k) + linear(c, c);
        let grouped = |inputs, outputs| inputs * outputs / groups + outputs;
        let layer = mixed + grouped(c, ffn) + grouped(ffn, c) + 4 * c;
        Ok(tables + 2 * e + projection + layer * self.num_hidden_layers)
    }

    /// The activation that `hidden_act` names.
    pub(crate) fn activation(&self) -> Result<Activation> {
        match self.hidden_act.as_str() {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            got => Err(refused("hidden_act", "gelu, gelu_new, gelu_pytorch_tanh or relu", got)),
        }
    }

    /// An error unless a model can be made of it.
    pub(crate) fn check(&self) -> Result<()> {
        if self.model_type != "convbert" {
            return Err(refused("model_type", "convbert", &self.model_type));
        }
        size("vocab_size", self.vocab_size)?;
        size("hidden_size", self.hidden_size)?;
        in_range("num_hidden_layers", self.num_hidden_layers, 0)?;
        size("num_attention_heads", self.num_attention_heads)?;
        size("intermediate_size", self.intermediate_size)?;
        size("max_position_embeddings", self.max_position_embeddings)?;
        size("type_vocab_size", self.type_vocab_size)?;
        size("embedding_size", self.embedding_size)?;
        size("head_ratio", self.head_ratio)?;
        size("conv_kernel_size", self.conv_kernel_size)?;
        size("num_labels", self.labels())?;
        divides("num_groups", self.num_groups, "hidden_size", self.hidden_size)?;
        divides("num_groups", self.num_groups, "intermediate_size", self.intermediate_size)?;
        if self.conv_kernel_size.is_multiple_of(2) {
            return Err(refused("conv_kernel_size", "odd", self.conv_kernel_size));
        }
        if 2 * self.head_channels() != self.hidden_size {
            let expected = format!("a multiple of twice the {} heads of each kind", self.heads());
            return Err(refused("hidden_size", expected, self.hidden_size));
        }
        if self.is_decoder || self.add_cross_attention {
            return Err(refused("is_decoder", "false: ConvBERT is an encoder", true));
        }
        if self.position_embedding_type != "absolute" {
            return Err(refused("position_embedding_type", "absolute", &self.position_embedding_type));
        }
        self.activation().map(drop)
    }
}
