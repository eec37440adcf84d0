//! Layers, made of the operators of [`ops`](crate::ops) and of nothing else, so that they run wherever those do.
//!
//! A layer is its parameters and what is fixed about it, all public: it is put together from tensors, and what does not fit is a
//! typed error of the operator that meets it. Layers are named as the papers name them:
//!
//! - [`ConvBlock`]: Linear -> GLU -> convolution -> Linear (Wu et al. 2019, figure 2), over a [`LightConv`] (depthwise and
//!   dilated convolution are light ones) or a [`DynamicConv`].
//! - [`SelfAttention`] (Vaswani et al. 2017), and [`MultiHeadAttention`] of a sequence to another.
//! - [`MixedAttention`]: attention heads beside heads of span-based convolution (Jiang et al. 2020, section 3.3).
//! - [`EncoderLayer`] and [`DecoderLayer`]: what mixes tokens and a [`FeedForward`] layer, each with a residual around it and
//!   its norm where a [`NormOrder`] says. [`Encoder`] and [`Decoder`] are stacks of them.
//!
//! x is `[batch, time, C]` or packed `[tokens, C]`, as its [`Sequences`](crate::Sequences) say. What stands in the padding of a
//! tensor that a layer gives means nothing, and changes no token of a sequence.
//!
//! Decoders keep a [`DecoderState`], so that a sequence may come in chunks of any size: the outputs are those of the whole.
//!
//! ```
//! use std::sync::Arc;
//! use lightspan::nn::{Conv, ConvBlock, LightConv, Linear};
//! use lightspan::problem::Activation;
//! use lightspan::{DType, Device, Sequences, Tensor, Window};
//!
//! let device = Device::best();
//! let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).map(Arc::new);
//! let block = ConvBlock {
//!     input: Linear { activation: Activation::Glu, ..Linear::new(zeros(&[128, 64])?) },
//!     conv: Conv::Light(LightConv::new(zeros(&[8, 7])?, Window::same(7)?)),
//!     pointwise: None,
//!     output: Linear::new(zeros(&[64, 64])?),
//! };
//! let x = Tensor::zeros(&[2, 50, 64], DType::F32, &device)?;
//! let y = block.forward(&x, &Sequences::batch(2, 50)?, None, None)?;
//! assert_eq!(y.shape(), x.shape());
//! # Ok::<(), lightspan::Error>(())
//! ```

mod attention;
mod cache;
mod conv_block;
mod decoder;
mod decoder_layer;
mod dynamic_conv;
mod embeddings;
mod encoder;
mod encoder_layer;
mod feed_forward;
mod light_conv;
mod linear;
mod mixed_attention;
mod norm;

use std::sync::Arc;

pub use attention::{KeysValues, MultiHeadAttention, SelfAttention};
pub use conv_block::{Conv, ConvBlock};
pub use decoder::{Decoder, DecoderState, Memory};
pub use decoder_layer::{CrossAttention, DecoderLayer, DecoderMixer};
pub use dynamic_conv::DynamicConv;
pub use embeddings::Embeddings;
pub use encoder::Encoder;
pub use encoder_layer::{EncoderLayer, EncoderMixer};
pub use feed_forward::FeedForward;
pub use light_conv::LightConv;
pub use linear::Linear;
pub use mixed_attention::MixedAttention;
pub use norm::{Norm, NormOrder};

use crate::Tensor;

/// A parameter. Layers may share one, as tied embeddings do.
pub type Parameter = Arc<Tensor>;
