use crate::nn::cache::{Cache, Past};
use crate::nn::{ConvBlock, FeedForward, KeysValues, MultiHeadAttention, Norm, NormOrder, SelfAttention};
use crate::problem::Mask;
use crate::{Error, Result, Sequences, Tensor};

/// What carries information from earlier tokens to later ones in a layer of a decoder.
#[derive(Clone, Debug)]
pub enum DecoderMixer {
    /// Causal convolution.
    Conv(ConvBlock),
    /// Causal attention: the baseline.
    Attention(SelfAttention),
}

/// Attention to what an encoder made.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    /// Queries from the decoder, keys and values from the encoder.
    pub attention: MultiHeadAttention,
    /// The norm of the sublayer.
    pub norm: Norm,
}

/// A layer of a decoder: causal mixing of tokens, attention to an encoder's, and a feed-forward layer, each with its residual and
/// norm.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    /// What mixes tokens.
    pub mixer: DecoderMixer,
    /// Its norm.
    pub mixer_norm: Norm,
    /// Attention to an encoder's tokens; language models have none.
    pub cross: Option<CrossAttention>,
    /// The feed-forward layer.
    pub feed_forward: FeedForward,
    /// Its norm.
    pub feed_forward_norm: Norm,
    /// Where the norms stand.
    pub order: NormOrder,
}

/// What a layer remembers from call to call.
#[derive(Debug)]
pub(crate) struct LayerState {
    pub(crate) past: Past,
    /// Keys and values of the encoder's tokens.
    pub(crate) memory: Option<KeysValues>,
}

/// How the tokens of a call, and those that it sees, group into sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups<'a> {
    /// Those of the call.
    pub(crate) sequences: &'a Sequences,
    /// All there were, with the room that a cache is to have.
    pub(crate) all: &'a Sequences,
    /// The encoder's.
    pub(crate) memory: Option<&'a Sequences>,
}

impl DecoderLayer {
    /// The state of a layer that sees all tokens in one call.
    pub(crate) fn whole(&self, memory: Option<&Tensor>) -> Result<LayerState> {
        Ok(LayerState { past: Past::Nothing, memory: self.memory(memory)? })
    }

    /// The state of a layer before the first tokens of `sequences` sequences.
    pub(crate) fn begin(
        &self,
        sequences: usize,
        memory: Option<&Tensor>,
        like: &Tensor,
    ) -> Result<LayerState> {
        let past = match &self.mixer {
            DecoderMixer::Conv(block) => Past::History(block.history(sequences, like)?),
            DecoderMixer::Attention(attention) => {
                Past::Cache(Cache::empty(sequences, attention.channels(), like)?)
            }
        };
        Ok(LayerState { past, memory: self.memory(memory)? })
    }

    fn memory(&self, memory: Option<&Tensor>) -> Result<Option<KeysValues>> {
        match (&self.cross, memory) {
            (Some(cross), Some(memory)) => cross.attention.keys_values(memory).map(Some),
            (None, None) => Ok(None),
            (Some(_), None) => Err(Error::Missing { tensor: "memory" }),
            (None, Some(_)) => Err(Error::Surplus { tensor: "memory" }),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, groups: Groups<'_>, state: &mut LayerState) -> Result<Tensor> {
        let Groups { sequences, all, memory } = groups;
        let mut x = self.order.around(&self.mixer_norm, x, |x, residual| match &self.mixer {
            DecoderMixer::Conv(block) => {
                block.conv.window().check_history()?;
                let history = match &mut state.past {
                    Past::History(history) => Some(history),
                    _ => None,
                };
                block.forward(x, sequences, history, residual)
            }
            DecoderMixer::Attention(attention) => match &mut state.past {
                Past::Cache(cache) => attention.step(x, sequences, cache, all, residual),
                _ => attention.forward(x, sequences, sequences, Mask::CAUSAL, residual),
            },
        })?;
        if let (Some(cross), Some(seen), Some(keys)) = (&self.cross, &state.memory, memory) {
            x = self.order.around(&cross.norm, &x, |x, residual| {
                cross.attention.forward(x, sequences, seen, keys, residual)
            })?;
        }
        self.order.around(&self.feed_forward_norm, &x, |x, residual| self.feed_forward.forward(x, residual))
    }
}
