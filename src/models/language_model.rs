use crate::models::Generator;
use crate::nn::{Decoder, DecoderState, Embeddings, Linear};
use crate::{Result, Sequences, Tensor, Tokens};

/// A decoder alone: what comes next in a text.
///
/// Tokens are `[batch, time]` or packed `[tokens]`. Padding comes after the tokens of a sequence.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    /// Of the tokens.
    pub embeddings: Embeddings,
    /// The decoder.
    pub decoder: Decoder,
    /// From what the decoder gives to logits `[.., V]`.
    pub output: Linear,
}

impl LanguageModel {
    /// The logits `[.., V]` of what follows each token.
    ///
    /// # Errors
    ///
    /// For tokens past the vocabulary or the positions, and as the operators of the layers.
    pub fn forward(&self, tokens: &Tokens, sequences: &Sequences) -> Result<Tensor> {
        let x = self.embeddings.forward(tokens, None, sequences)?;
        self.output.forward(&self.decoder.forward(x, sequences, None)?, None)
    }

    /// The state before the first tokens of `sequences` sequences.
    ///
    /// # Errors
    ///
    /// As [`Decoder::begin`].
    pub fn begin(&self, sequences: usize) -> Result<DecoderState> {
        self.decoder.begin(sequences, None, &self.output.weight)
    }
}

impl Generator for LanguageModel {
    fn step(&self, tokens: &Tokens, sequences: &Sequences, state: &mut DecoderState) -> Result<Tensor> {
        let x = self.embeddings.forward(tokens, None, &state.continued(sequences)?)?;
        self.output.forward(&self.decoder.step(x, sequences, state)?, None)
    }
}
