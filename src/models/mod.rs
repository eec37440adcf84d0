//! Whole networks, made of the layers of [`nn`](crate::nn).
//!
//! - [`ConvBert`] (Jiang et al. 2020), with the names and files of transformers: an encoder, and with its heads
//!   [`ConvBertForMaskedLm`], [`ConvBertForSequenceClassification`] and [`ConvBertDiscriminator`].
//! - [`Seq2Seq`] and [`LanguageModel`], which a [`LightConvConfig`] makes with the names of fairseq's LightConv and DynamicConv
//!   (Wu et al. 2019), and a [`PretrainedConvConfig`] as the pre-trained convolutions of Tay et al. 2021, and the Transformer that
//!   they are compared with.
//!
//! A model is made from a configuration and [`Weights`]: those of a `.safetensors` file, or drawn ones. It runs on the device and in
//! the type that the weights were loaded for.
//!
//! [`greedy`] and [`beam_search`] decode with any [`Generator`].

mod config;
mod convbert;
mod decoding;
mod language_model;
mod light_conv;
mod pretrained_conv;
mod seq2seq;
mod stack;
mod weights;

pub use convbert::{
    ConvBert, ConvBertConfig, ConvBertDiscriminator, ConvBertForMaskedLm, ConvBertForSequenceClassification,
};
pub use decoding::{BeamSearch, Generator, Hypothesis, beam_search, greedy};
pub use language_model::LanguageModel;
pub use light_conv::{LightConvConfig, LightConvKind, PositionKind};
pub use pretrained_conv::{PretrainedConvConfig, PretrainedMixer};
pub use seq2seq::Seq2Seq;
pub use weights::{LoadOptions, LoadProgress, Weights};
