//! What a decoder remembers of the tokens that went by.

use crate::nn::KeysValues;
use crate::ops::{self, Channels};
use crate::{Result, Sequences, Tensor, Tokens};

/// What the mixer of one layer remembers.
#[derive(Debug)]
pub(crate) enum Past {
    /// Nothing: the tokens of the call are all there are.
    Nothing,
    /// The last tokens that were convolved, `[sequences, (K - 1) r, C]`.
    History(Tensor),
    /// Keys and values of all tokens.
    Cache(Cache),
}

/// Keys and values of all tokens that went by, with room for more.
#[derive(Debug)]
pub(crate) struct Cache {
    /// `[sequences, room, H D]` each.
    kept: KeysValues,
}

impl Cache {
    /// No tokens, and no room yet.
    pub(crate) fn empty(sequences: usize, channels: usize, like: &Tensor) -> Result<Self> {
        let empty = || Tensor::zeros(&[sequences, 0, channels], like.dtype(), like.device());
        Ok(Cache { kept: KeysValues { keys: empty()?, values: empty()? } })
    }

    pub(crate) fn kept(&self) -> &KeysValues {
        &self.kept
    }

    /// Keys and values of `sequences` after those that are there. `all` are those and these, with the room that they are to have.
    pub(crate) fn append(
        &mut self,
        keys: Channels<'_>,
        values: Channels<'_>,
        sequences: &Sequences,
        all: &Sequences,
    ) -> Result<()> {
        appended(&mut self.kept.keys, keys, sequences, all)?;
        appended(&mut self.kept.values, values, sequences, all)
    }

    fn reordered(self, from: &Tokens) -> Result<Self> {
        Ok(Cache { kept: self.kept.reordered(from)? })
    }
}

fn appended(cache: &mut Tensor, new: Channels<'_>, sequences: &Sequences, all: &Sequences) -> Result<()> {
    let channels = new.shape().last().copied().unwrap_or(0);
    let shape = all.shape().tensor(channels);
    if cache.shape() != shape {
        let mut wider = Tensor::zeros(&shape, cache.dtype(), cache.device())?;
        let past: Vec<usize> = sequences.as_slice().iter().map(|sequence| sequence.past).collect();
        ops::append(&mut wider, &*cache, &Sequences::padded(cache.shape()[1], &past)?)?;
        *cache = wider;
    }
    ops::append(cache, new, sequences)
}

impl Past {
    /// What each sequence remembers becomes what sequence `from[i]` remembered.
    pub(crate) fn reordered(self, from: &Tokens) -> Result<Self> {
        Ok(match self {
            Past::Nothing => Past::Nothing,
            Past::History(history) => Past::History(rows(history, from)?),
            Past::Cache(cache) => Past::Cache(cache.reordered(from)?),
        })
    }
}

impl KeysValues {
    pub(crate) fn reordered(self, from: &Tokens) -> Result<Self> {
        Ok(KeysValues { keys: rows(self.keys, from)?, values: rows(self.values, from)? })
    }
}

/// What stands at the indices `from` of the first size, `[S, ..]` to `[from, ..]`.
fn rows(tensor: Tensor, from: &Tokens) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let row = shape[1..].iter().product();
    let sequences = shape[0];
    shape[0] = from.len();
    if row == 0 {
        return Tensor::zeros(&shape, tensor.dtype(), tensor.device());
    }
    let table = tensor.reshape(&[sequences, row])?;
    ops::embedding(from, &table, &Default::default())?.reshape(&shape)
}
