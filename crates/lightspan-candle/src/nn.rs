//! Layers in the manner of candle-nn: a configuration, a constructor that takes its parameters from a
//! [`VarBuilder`](candle_nn::VarBuilder), and a `forward`.
//!
//! Parameters have the names and shapes that they have in fairseq's LightConv and DynamicConv models, and in transformers'
//! ConvBERT for [`SpanConv`], so that what was trained there can be loaded here.
//!
//! What is not loaded begins as it does in fairseq: Xavier's uniform distribution for linear layers, with biases of 0; in
//! attention with a gain of 1/sqrt(2) for q, k and v, whose biases are uniform within 1/sqrt(C); in generators of kernels uniform
//! within 1/sqrt(C), weight and bias. [`SpanConv`] begins as transformers' models do, normal with a deviation of 0.02.
//!
//! Parameters of whole layers are of the type of their tokens, as candle's linear layers want them; convolutions by themselves
//! take them in f32 too.
//!
//! Layers know training from evaluation, for their dropouts: those of one input are [`ModuleT`](candle_core::ModuleT), and so no
//! `Module`; the others have `forward_with` alone. `forward_with` is told how tokens group into
//! [`Sequences`](lightspan::Sequences) besides: what stands in their padding, be it NaN, changes no bit of any token and of no
//! gradient. Which weights a convolution drops is drawn anew in each call that trains, from the seed of its configuration, its
//! name, and how many calls there were: a program that runs twice drops the same. One that goes on where another stopped wants
//! another [`ConvConfig::seed`], as calls are counted from 0 again.
//!
//! ```
//! use candle_core::{DType, Device, ModuleT, Tensor};
//! use candle_nn::{VarBuilder, VarMap};
//! use lightspan_candle::{Window, nn};
//!
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let config = nn::LayerConfig { glu: true, ..nn::LayerConfig::new(16, 4, Window::same(7)?, 64) };
//! let layer = nn::encoder_layer(nn::ConvKind::Dynamic, &config, vb.pp("encoder.layers.0"))?;
//!
//! let x = Tensor::randn(0f32, 1.0, (2, 10, 16), &Device::Cpu)?;
//! assert_eq!(layer.forward_t(&x, true)?.dims(), [2, 10, 16]);
//! assert!(variables.data().lock().unwrap().contains_key("encoder.layers.0.conv.weight_linear.weight"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod config;
mod conv_block;
mod decoder_layer;
mod dynamic_conv;
mod encoder_layer;
mod feed_forward;
mod init;
mod light_conv;
mod padding;
mod span_conv;

pub use attention::{CrossAttention, cross_attention};
pub use config::{ConvConfig, ConvKind, LayerConfig};
pub use conv_block::{ConvBlock, conv_block};
pub use decoder_layer::{DecoderLayer, Memory, decoder_layer};
pub use dynamic_conv::{DynamicConv, dynamic_conv};
pub use encoder_layer::{EncoderLayer, encoder_layer};
pub use light_conv::{LightConv, light_conv};
pub use span_conv::{SpanConv, span_conv};
