//! From logits to tokens.

mod beam;
mod greedy;

pub use beam::{BeamSearch, beam_search};
pub use greedy::greedy;

use crate::nn::DecoderState;
use crate::{Error, Result, Sequences, Tensor, Tokens, ops};

/// A model that says what comes next.
pub trait Generator {
    /// The logits `[.., V]` of what follows each of the next tokens `[batch, time]` or packed `[tokens]`, any number of them: those
    /// of all tokens at once, however they come in chunks.
    ///
    /// # Errors
    ///
    /// For tokens past the vocabulary or the positions, and as [`Decoder::step`](crate::nn::Decoder::step).
    fn step(&self, tokens: &Tokens, sequences: &Sequences, state: &mut DecoderState) -> Result<Tensor>;
}

/// What a search found to come next.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The tokens, without those that were given, and without the one that ends a text.
    pub tokens: Vec<u32>,
    /// The sum of the logarithms of their probabilities, that of the end included.
    pub score: f32,
    /// Whether the text came to its end, or to the limit.
    pub ended: bool,
}

/// The logits `[sequences, V]` after the last token of each sequence.
fn last(logits: Tensor, sequences: &Sequences) -> Result<Tensor> {
    let vocabulary = logits.shape().last().copied().unwrap_or(0);
    if let Some(sequence) = sequences.as_slice().iter().position(|sequence| sequence.length == 0) {
        return Err(Error::EmptyPrompt { sequence });
    }
    let rows = sequences.as_slice().iter().map(|sequence| sequence.first + sequence.length - 1);
    let (tokens, count) = (sequences.shape().tokens(), sequences.shape().sequences());
    let device = logits.device().clone();
    let logits = logits.reshape(&[tokens, vocabulary])?;
    if tokens == count {
        return Ok(logits);
    }
    let rows = Tokens::of_rows(rows, &[count], &device)?;
    ops::embedding(&rows, &logits, &Default::default())
}
