use crate::models::Generator;
use crate::nn::{Decoder, DecoderState, Embeddings, Encoder, Linear, Memory};
use crate::{Result, Sequences, Tensor, Tokens};

/// An encoder, and a decoder that attends to it: from a text to another one.
///
/// Tokens are `[batch, time]` or packed `[tokens]`. Padding comes after the tokens of a sequence.
#[derive(Clone, Debug)]
pub struct Seq2Seq {
    /// Of the encoder's tokens.
    pub source: Embeddings,
    /// The encoder.
    pub encoder: Encoder,
    /// Of the decoder's tokens.
    pub target: Embeddings,
    /// The decoder.
    pub decoder: Decoder,
    /// From what the decoder gives to logits `[.., V]`.
    pub output: Linear,
}

impl Seq2Seq {
    /// What the encoder makes of a text, `[.., C]`.
    ///
    /// # Errors
    ///
    /// For tokens past the vocabulary or the positions, and as the operators of the layers.
    pub fn encode(&self, tokens: &Tokens, sequences: &Sequences) -> Result<Tensor> {
        let x = self.source.forward(tokens, None, sequences)?;
        self.encoder.forward(x, sequences, sequences)
    }

    /// The logits `[.., V]` of what follows each token of a target that is given whole (teacher forcing).
    ///
    /// # Errors
    ///
    /// As [`Seq2Seq::encode`].
    pub fn forward(&self, tokens: &Tokens, sequences: &Sequences, memory: Memory<'_>) -> Result<Tensor> {
        let x = self.target.forward(tokens, None, sequences)?;
        self.output.forward(&self.decoder.forward(x, sequences, Some(memory))?, None)
    }

    /// The state before the first tokens of a target for each sequence of a source.
    ///
    /// # Errors
    ///
    /// As [`Decoder::begin`].
    pub fn begin(&self, memory: Memory<'_>) -> Result<DecoderState> {
        self.decoder.begin(memory.sequences.shape().sequences(), Some(memory), memory.tokens)
    }
}

impl Generator for Seq2Seq {
    fn step(&self, tokens: &Tokens, sequences: &Sequences, state: &mut DecoderState) -> Result<Tensor> {
        let x = self.target.forward(tokens, None, &state.continued(sequences)?)?;
        self.output.forward(&self.decoder.step(x, sequences, state)?, None)
    }
}
