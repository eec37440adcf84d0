use crate::nn::Parameter;
use crate::ops::{self, EmbeddingOptions, Positions};
use crate::{Result, Sequences, Tensor, Tokens};

/// What stands for a token: a row of a table, and where it stands ([`ops::embedding`]).
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// `[V, C]`.
    pub table: Parameter,
    /// What rows of the table are multiplied by; 1 in most models, sqrt(C) in Transformers (Vaswani et al. 2017, section 3.4).
    pub scale: f32,
    /// `[P, C]`: learned, or [sinusoidal](ops::sinusoidal_positions).
    pub positions: Option<Parameter>,
    /// The row of `positions` that the first token of a sequence gets.
    pub first_position: usize,
    /// `[types, C]`: what kind of token it is, as which of two sentences it belongs to.
    pub types: Option<Parameter>,
}

impl Embeddings {
    /// Rows of a table, and nothing else.
    pub fn new(table: Parameter) -> Self {
        Embeddings { table, scale: 1.0, positions: None, first_position: 0, types: None }
    }

    /// x `[.., C]` of tokens `[..]`, and of their types where there is a table of them.
    ///
    /// # Errors
    ///
    /// As [`ops::embedding`].
    pub fn forward(&self, tokens: &Tokens, types: Option<&Tokens>, sequences: &Sequences) -> Result<Tensor> {
        let options = EmbeddingOptions {
            scale: self.scale,
            positions: self.positions.as_deref().map(|table| Positions { table, first: self.first_position }),
            types: types.zip(self.types.as_deref()),
            dtype: None,
            sequences: Some(sequences),
        };
        ops::embedding(tokens, &self.table, &options)
    }
}
