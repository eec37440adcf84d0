//! Models whose parts are the same but for what mixes their tokens, so that nothing else can make a difference.
//!
//! Layers normalise what goes into them, feed forward through a ReLU, and drop nothing: what is learned in minutes does not overfit
//! before it has learned.

mod attention;
mod layer;
mod mixed;
mod parts;
mod seq2seq;
mod stack;

pub use attention::SelfAttention;
pub use layer::{Kind, Layer, Mixer};
pub use mixed::{Branch, MixedAttention};
pub use parts::{Embedding, Norm, binary_cross_entropy, linear};
pub use seq2seq::Seq2Seq;
pub use stack::{Role, Size, Sizes, Stack};
