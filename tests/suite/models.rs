//! Whole models: their sizes, their files, and what they decode.

mod configurations;
mod decoding;
mod loading;
mod sequences;

use std::cell::RefCell;
use std::collections::BTreeMap;

use lightspan::models::{
    ConvBertConfig, LightConvConfig, LightConvKind, LoadOptions, PretrainedConvConfig, PretrainedMixer,
    Weights,
};
use lightspan::{Device, Result};

/// The parameters that something takes, with their shapes.
fn taken(load: impl FnOnce(&Weights<'_>) -> Result<()>) -> BTreeMap<String, Vec<usize>> {
    let taken = RefCell::new(BTreeMap::new());
    let progress = |loaded: lightspan::models::LoadProgress<'_>| {
        taken.borrow_mut().insert(loaded.name.to_owned(), loaded.shape.to_vec());
    };
    let options = LoadOptions { progress: Some(&progress), ..Default::default() };
    load(&Weights::drawn(1, &Device::cpu(), options)).unwrap();
    taken.into_inner()
}

/// A ConvBERT of two layers with every kind of parameter.
fn tiny_convbert() -> ConvBertConfig {
    ConvBertConfig {
        vocab_size: 23,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 24,
        max_position_embeddings: 19,
        embedding_size: 10,
        conv_kernel_size: 5,
        num_groups: 2,
        ..Default::default()
    }
}

/// A LightConv of two and three layers.
fn tiny_light_conv(kind: LightConvKind) -> LightConvConfig {
    LightConvConfig {
        embed_dim: 12,
        ffn_embed_dim: 20,
        attention_heads: 3,
        encoder_kernel_widths: vec![3, 6],
        decoder_kernel_widths: vec![3, 4, 7],
        max_positions: 25,
        ..LightConvConfig::base(kind, 17)
    }
}

/// A pre-trained convolution model of two layers on each side.
fn tiny_pretrained(mixer: PretrainedMixer) -> PretrainedConvConfig {
    PretrainedConvConfig {
        vocab_size: 17,
        embed_dim: 12,
        ffn_embed_dim: 20,
        attention_heads: 3,
        encoder_layers: 2,
        decoder_layers: 2,
        max_positions: 21,
        ..PretrainedConvConfig::base(mixer)
    }
}

/// Every mixer of a pre-trained convolution model.
fn mixers() -> [PretrainedMixer; 5] {
    [
        PretrainedMixer::Attention,
        PretrainedMixer::Depthwise { width: 5 },
        PretrainedMixer::Dilated { widths: vec![4], dilation: 3 },
        PretrainedMixer::Light { width: 7, heads: 4 },
        PretrainedMixer::Dynamic { width: 3, heads: 6 },
    ]
}
