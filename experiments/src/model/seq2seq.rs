use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use lightspan_candle::Sequences;
use lightspan_candle::nn::Memory;

use crate::model::{Embedding, Kind, Role, Size, Stack};

/// An encoder and a decoder of one kind, with one table for what goes in and what comes out (Tay et al. 2021, section 3).
pub struct Seq2Seq {
    embedding: Embedding,
    encoder: Stack,
    decoder: Stack,
}

impl Seq2Seq {
    /// For so many tokens at so many positions.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(
        kind: Kind,
        size: &Size,
        tokens: usize,
        positions: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(Seq2Seq {
            embedding: Embedding::new(tokens, positions, size.channels, vb)?,
            encoder: Stack::new(kind, size, Role::Encoder, &vb.pp("encoder"))?,
            decoder: Stack::new(kind, size, Role::Decoder, &vb.pp("decoder"))?,
        })
    }

    /// Logits `[batch time, tokens]` of what comes behind each token of `target` `[batch, time]`, given a `source`.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn forward(
        &self,
        source: &Tensor,
        sequences: &Sequences,
        target: &Tensor,
        train: bool,
    ) -> Result<Tensor> {
        let memory = self.encoder.forward(&self.embedding.forward(source)?, sequences, None, train)?;
        let (batch, time) = target.dims2()?;
        let targets = Sequences::batch(batch, time).map_err(candle_core::Error::wrap)?;
        let memory = Memory { tokens: &memory, sequences: Some(sequences) };
        let y = self.decoder.forward(&self.embedding.forward(target)?, &targets, Some(memory), train)?;
        self.embedding.logits(&y.flatten(0, 1)?)
    }
}
