use crate::nn::Linear;
use crate::nn::cache::Cache;
use crate::ops::{self, AttentionOptions, Channels};
use crate::problem::{Alignment, Mask};
use crate::{Error, Result, Sequences, Tensor};

/// Attention in heads between linear layers (Vaswani et al. 2017, section 3.2.2), of a sequence to another. For that of a sequence
/// to itself there is [`SelfAttention`].
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

/// The same of a sequence to itself: one product makes queries, keys and values.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    /// From x to q, k and v `[.., 3 H D]`, one after another.
    pub input: Linear,
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

/// What queries see.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    keys: Channels<'a>,
    values: Channels<'a>,
    sequences: &'a Sequences,
    mask: Mask,
    alignment: Alignment,
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

    /// y `[.., C]`, the residual added to it. `sequences` are those of x, `keys` those of what is seen, all of which each of their
    /// queries sees.
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
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let query = self.query.forward(x, None)?;
        let seen = Seen {
            keys: (&seen.keys).into(),
            values: (&seen.values).into(),
            sequences: keys,
            mask: Mask::FULL,
            alignment: Alignment::End,
        };
        let y = seen.by((&query).into(), sequences, self.heads, self.scale)?;
        self.output.forward(&y, residual)
    }
}

impl SelfAttention {
    /// y `[.., C]`, the residual added to it. `sequences` are those of x, of which a query sees those of `keys` that the mask lets
    /// it see.
    ///
    /// # Errors
    ///
    /// As [`ops::attention`] and [`ops::linear`]; [`Error::Groups`] where `input` has no three parts.
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        keys: &Sequences,
        mask: Mask,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let made = self.input.forward(x, None)?;
        let [query, key, value] = parts(&made)?;
        let seen = Seen { keys: key, values: value, sequences: keys, mask, alignment: Alignment::End };
        self.output.forward(&seen.by(query, sequences, self.heads, self.scale)?, residual)
    }

    /// The same for tokens that come after those of a cache, and go into it. `all` are the sequences of all of them, with the room
    /// that the cache is to have.
    pub(crate) fn step(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        cache: &mut Cache,
        all: &Sequences,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let made = self.input.forward(x, None)?;
        let [query, key, value] = parts(&made)?;
        cache.append(key, value, sequences, all)?;
        let KeysValues { keys, values } = cache.kept();
        let (mask, alignment) = (Mask::CAUSAL, Alignment::Past);
        let seen = Seen { keys: keys.into(), values: values.into(), sequences: all, mask, alignment };
        self.output.forward(&seen.by(query, sequences, self.heads, self.scale)?, residual)
    }

    /// Channels of all heads, H D.
    pub(crate) fn channels(&self) -> usize {
        self.output.weight.shape().last().copied().unwrap_or(0)
    }
}

/// Parts of what one product made, of as many channels each.
pub(crate) fn parts<const N: usize>(made: &Tensor) -> Result<[Channels<'_>; N]> {
    let size = made.shape().last().copied().unwrap_or(0);
    if !size.is_multiple_of(N) {
        return Err(Error::Groups { groups: N, size, what: "outputs of a linear layer" });
    }
    let part = |i: usize| Channels::new(made, size / N * i..size / N * (i + 1));
    let mut all = [Channels::from(made); N];
    for (i, channels) in all.iter_mut().enumerate() {
        *channels = part(i)?;
    }
    Ok(all)
}

impl Seen<'_> {
    /// What heads of queries find.
    fn by(
        self,
        query: Channels<'_>,
        sequences: &Sequences,
        heads: usize,
        scale: Option<f32>,
    ) -> Result<Tensor> {
        let Seen { keys, values, mask, alignment, .. } = self;
        let options = AttentionOptions {
            scale,
            mask,
            alignment,
            queries: Some(sequences),
            keys: Some(self.sequences),
            ..Default::default()
        };
        ops::attention(query, keys, values, heads, &options)
    }
}
