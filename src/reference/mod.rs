//! The meaning of every operator: its formula in `f64` and plain loops.
//!
//! The backends are held to these numbers, each value within its bound. Every function of a forward pass computes one output
//! token, and [`every_token`] all of them; those of a backward pass compute all gradients of a call. Nothing here is fast.
//! Inputs are trusted to be what the problem says: the functions panic where one is shorter, and where a history or the seed of
//! a dropout is missing. The operators of the devices return errors.
//!
//! # The bound
//!
//! A backend reads values that are exact, forms products and sums in f32, and rounds once to store. With u the unit
//! roundoff of the type it stores and u32 that of f32, an output y = bias + sum_j w_j x_j may be off by
//!
//! u S + a u32 S + sum_j e_j |x_j| + tiny, S = |bias| + sum_j |w_j x_j|, a = [`ARITHMETIC`] + [`PER_TERM`] n
//!
//! - u S is the one rounding, since |y| <= S.
//! - a u32 S covers the f32 sum of n terms, in whatever order a backend forms it: a constant, and a part of the drift
//!   that adding one after another can have.
//! - e_j is how far the weight w_j may be off. For a softmax over n logits that is w_j (d_j + sum_k w_k d_k + a u32), the
//!   last for the exponential, the sum and the division; d_j = d(l_j) + `ARITHMETIC` u32 |l_j - max l|, where d(l) is 0
//!   for logits that are given and a u32 (sum |W q| + |w_bias|), n the channels of q, for generated ones.
//! - tiny is the smallest normal number, as devices may flush what is below: once for the output, and as a factor on
//!   x for every weight.

mod append;
mod attention;
mod dynamic_conv;
mod embedding;
mod estimate;
mod gradients;
mod history;
mod light_conv;
mod linear;
mod norm;
mod span_conv;
mod span_key;
mod taps;
mod top_k;

pub use append::append;
pub use attention::{AttentionGradients, AttentionInputs, attention, attention_backward};
pub use dynamic_conv::{
    DynamicConvGradients, DynamicConvInputs, TapInputs, dynamic_conv, dynamic_conv_backward,
};
pub use embedding::{EmbeddingInputs, embedding};
pub use estimate::{ARITHMETIC, Estimate, PER_TERM};
pub use history::history;
pub use light_conv::{LightConvGradients, LightConvInputs, light_conv, light_conv_backward};
pub use linear::{LinearGradients, LinearInputs, linear, linear_backward};
pub use norm::{NormInputs, NormOutputs, norm};
pub use span_conv::{SpanConvGradients, SpanConvInputs, span_conv, span_conv_backward};
pub use span_key::{SpanKeyGradients, SpanKeyInputs, span_key, span_key_backward};
pub use top_k::{Ranked, top_k};

use crate::Sequences;

/// The outputs of `token(sequence, t)` for every token of every sequence, in the order of their rows; `channels` exact
/// zeros for each row of padding.
pub fn every_token(
    sequences: &Sequences,
    channels: usize,
    mut token: impl FnMut(usize, usize) -> Vec<Estimate>,
) -> Vec<Estimate> {
    let mut outputs = Vec::with_capacity(sequences.shape().tokens() * channels);
    for (i, sequence) in sequences.as_slice().iter().enumerate() {
        for t in 0..sequence.length {
            outputs.extend(token(i, t));
        }
        outputs.extend(std::iter::repeat_n(Estimate::exact(0.0), sequence.padding * channels));
    }
    outputs
}
