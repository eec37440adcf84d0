use crate::nn::Linear;
use crate::ops::{self, AttentionOptions};
use crate::problem::Mask;
use crate::{Result, Sequences, Tensor};

/// Attention in heads between linear layers (Vaswani et al. 2017, section 3.2.2).
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    /// From x to q.
    pub query: Linear,
    /// From what is seen to k.
    pub key: Linear,
    /// From what is seen to v.
    pub value: Linear,
    /// From what all heads found to y.
    pub output: Linear,
    /// H.
    pub heads: usize,
    /// What scores are multiplied by; 1 / sqrt(D) if it is not said.
    pub scale: Option<f32>,
}

/// Keys and values of what is seen, made once and used by any number of calls.
#[derive(Debug)]
pub struct KeysValues {
    /// k `[.., H D]`.
    pub keys: Tensor,
    /// v `[.., H D]`.
    pub values: Tensor,
}

impl MultiHeadAttention {
    /// The keys and values of tokens.
    ///
    /// # Errors
    ///
    /// As [`ops::linear`].
    pub fn keys_values(&self, seen: &Tensor) -> Result<KeysValues> {
        Ok(KeysValues { keys: self.key.forward(seen, None)?, values: self.value.forward(seen, None)? })
    }

    /// y `[.., C]`, the residual added to it. `sequences` are those of x, `keys` those of what is seen, which may be x itself
    /// with less of it to be seen.
    ///
    /// # Errors
    ///
    /// As [`ops::attention`] and [`ops::linear`].
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        seen: &KeysValues,
        keys: &Sequences,
        mask: Mask,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let query = self.query.forward(x, None)?;
        let options = AttentionOptions {
            scale: self.scale,
            mask,
            queries: Some(sequences),
            keys: Some(keys),
            ..Default::default()
        };
        let y = ops::attention(&query, &seen.keys, &seen.values, self.heads, &options)?;
        self.output.forward(&y, residual)
    }
}
