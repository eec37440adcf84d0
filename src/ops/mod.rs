//! The operators on tensors.
//!
//! Each takes what it must have as arguments and the rest as options with defaults, and comes twice: `light_conv`
//! makes its output, `light_conv_into` writes one that is there. (Those of norms that also give the sum with their residual
//! have a third form, as [`layer_norm_with_sum`]; [`append`] writes into what is there, and comes once.) Everything is
//! checked before anything is allocated or launched, and what is wrong is a typed [`Error`](crate::Error).
//!
//! Each also has its backward pass, as `light_conv_backward`, but the norms, [`embedding`], [`top_k`], and [`history`] and
//! [`append`] of decoders: the gradients that are wanted (as [`LightConvWanted`] says), from the inputs and the gradient of
//! the output.
//!
//! Tensors are token-major: `[batch, time, channels]`, or `[tokens, channels]` for a packed batch. Tokens of one call
//! have one type. Where one product makes several of them (queries, keys and values), operators read their [`Channels`] of it
//! where they are. Its parameters (weights, generator, biases, given logits) have one type too: that of the tokens, or f32.

mod append;
mod attention;
mod channels;
mod check;
mod dynamic_conv;
mod embedding;
mod history;
mod light_conv;
mod linear;
mod norm;
mod positions;
mod span_conv;
mod span_key;
mod top_k;

pub use crate::problem::{
    AttentionKind, AttentionWanted, DynamicConvWanted, LightConvWanted, LinearWanted, SpanConvWanted,
    SpanKeyWanted,
};
pub use append::append;
pub use attention::{
    AttentionBackwardTensors, AttentionGradients, AttentionOptions, attention, attention_backward,
    attention_into,
};
pub use channels::Channels;
pub use dynamic_conv::{
    DynamicConvGradients, DynamicConvOptions, dynamic_conv, dynamic_conv_backward, dynamic_conv_given,
    dynamic_conv_given_backward, dynamic_conv_given_into, dynamic_conv_into,
};
pub use embedding::{EmbeddingOptions, Positions, embedding, embedding_into};
pub use history::{history, history_into};
pub use light_conv::{ConvOptions, LightConvGradients, light_conv, light_conv_backward, light_conv_into};
pub use linear::{LinearGradients, LinearOptions, linear, linear_backward, linear_into};
pub use norm::{
    NormOptions, Residual, layer_norm, layer_norm_into, layer_norm_with_sum, rms_norm, rms_norm_into,
    rms_norm_with_sum,
};
pub use positions::{Sinusoids, sinusoidal_positions};
pub use span_conv::{
    SpanConvGradients, SpanConvHistory, SpanConvOptions, SpanConvTensors, span_conv, span_conv_backward,
    span_conv_into,
};
pub use span_key::{
    SpanKeyGradients, SpanKeyOptions, SpanKeyTensors, span_key, span_key_backward, span_key_into,
};
pub use top_k::{TopKOptions, argmax, argmax_into, top_k, top_k_into};
