use crate::nn::decoder_layer::{Groups, LayerState};
use crate::nn::{DecoderLayer, Norm};
use crate::ops::Residual;
use crate::{Device, Error, Layout, Result, Sequences, Tensor, Tokens};

/// Layers one after another, and a norm at the end where norms stand before their layers.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// In the order in which they are met.
    pub layers: Vec<DecoderLayer>,
    /// Of what the last layer gives.
    pub norm: Option<Norm>,
}

/// What an encoder made, which a decoder attends to: the i-th sequence of the decoder to the i-th of these.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// `[batch, time, C]` or packed `[tokens, C]`.
    pub tokens: &'a Tensor,
    /// How they group into sequences.
    pub sequences: &'a Sequences,
}

/// What a [`Decoder`] remembers from call to call: the history of its convolutions, the keys and values of its attention, those of
/// what an encoder made, and how many tokens of each sequence have gone by.
#[derive(Debug)]
pub struct DecoderState {
    layers: Vec<LayerState>,
    memory: Option<Sequences>,
    /// Which sequence of the encoder each sequence attends to, of those that `memory` had at first.
    sources: Vec<usize>,
    gone_by: Vec<usize>,
    device: Device,
}

impl Decoder {
    /// y as x: all tokens of all sequences in one call.
    ///
    /// # Errors
    ///
    /// As the operators of the layers; [`Error::Missing`] and [`Error::Surplus`] unless there is a memory where layers attend to
    /// one, and [`Error::HistoryNotCausal`] for a window that sees later tokens.
    pub fn forward(&self, x: Tensor, sequences: &Sequences, memory: Option<Memory<'_>>) -> Result<Tensor> {
        let tokens = memory.map(|memory| memory.tokens);
        let mut layers = self.layers.iter().map(|layer| layer.whole(tokens)).collect::<Result<Vec<_>>>()?;
        let groups = Groups { sequences, all: sequences, memory: memory.map(|memory| memory.sequences) };
        self.run(x, groups, &mut layers)
    }

    /// The state before the first tokens of `sequences` sequences; `like` is of the type and on the device of the tokens to come.
    ///
    /// # Errors
    ///
    /// As [`Decoder::forward`].
    pub fn begin(&self, sequences: usize, memory: Option<Memory<'_>>, like: &Tensor) -> Result<DecoderState> {
        let tokens = memory.map(|memory| memory.tokens);
        let begin = |layer: &DecoderLayer| layer.begin(sequences, tokens, like);
        Ok(DecoderState {
            layers: self.layers.iter().map(begin).collect::<Result<_>>()?,
            memory: memory.map(|memory| memory.sequences.clone()),
            sources: (0..sequences).collect(),
            gone_by: vec![0; sequences],
            device: like.device().clone(),
        })
    }

    /// y as x: the next tokens of each sequence, any number of them, none included. The outputs are those that
    /// [`Decoder::forward`] gives for them.
    ///
    /// After an error the state is not to be used again: some of its layers may have gone on and others not.
    ///
    /// # Errors
    ///
    /// As [`Decoder::forward`]; [`Error::PastCount`] unless there are as many sequences as before.
    pub fn step(&self, x: Tensor, sequences: &Sequences, state: &mut DecoderState) -> Result<Tensor> {
        let sequences = state.continued(sequences)?;
        let gone_by = sequences.gone_by();
        // Room for twice as many whenever it runs out, so that growing costs as much as one more copy of each token.
        let room = gone_by.iter().copied().max().unwrap_or(0).next_power_of_two();
        let all = Sequences::padded(room, &gone_by)?;
        let groups = Groups { sequences: &sequences, all: &all, memory: state.memory.as_ref() };
        let y = self.run(x, groups, &mut state.layers)?;
        state.gone_by = gone_by;
        Ok(y)
    }

    fn run(&self, mut x: Tensor, groups: Groups<'_>, states: &mut [LayerState]) -> Result<Tensor> {
        for (layer, state) in self.layers.iter().zip(states) {
            x = layer.forward(&x, groups, state)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(&x, Residual::None),
            None => Ok(x),
        }
    }
}

impl DecoderState {
    /// Tokens of each sequence that have gone by.
    pub fn gone_by(&self) -> &[usize] {
        &self.gone_by
    }

    /// These sequences as the continuation of those that went by.
    ///
    /// # Errors
    ///
    /// [`Error::PastCount`] unless there are as many.
    pub fn continued(&self, sequences: &Sequences) -> Result<Sequences> {
        sequences.clone().after(&self.gone_by)
    }

    /// The state of other sequences: the i-th goes on from where the `from[i]`-th of these is. A beam search goes on from its best
    /// beams so, and one state can be made into many.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] for a sequence that there is not; [`Error::Sequences`] for an encoder's sequences that are packed, unless
    /// each stays with the one that it attends to.
    pub fn reorder(self, from: &[usize]) -> Result<Self> {
        let count = self.gone_by.len();
        if let Some(&got) = from.iter().find(|&&from| from >= count) {
            return Err(Error::Index { what: "sequences of the state", got, count });
        }
        if from.iter().copied().eq(0..count) {
            return Ok(self);
        }
        let chosen = |of: &[usize]| from.iter().map(|&from| of[from]).collect::<Vec<_>>();
        let (sources, gone_by) = (chosen(&self.sources), chosen(&self.gone_by));
        let ids = Tokens::of_rows(from.iter().copied(), &[from.len()], &self.device)?;
        let stays = sources == self.sources;
        let memory = match &self.memory {
            Some(memory) if !stays => Some(reordered(memory, from)?),
            memory => memory.clone(),
        };
        let reorder = |layer: LayerState| -> Result<LayerState> {
            let kept = layer.memory;
            let memory = if stays { kept } else { kept.map(|kept| kept.reordered(&ids)).transpose()? };
            Ok(LayerState { past: layer.past.reordered(&ids)?, memory })
        };
        let layers = self.layers.into_iter().map(reorder).collect::<Result<_>>()?;
        Ok(DecoderState { layers, memory, sources, gone_by, device: self.device })
    }
}

/// The sequences `from` of a batch.
fn reordered(sequences: &Sequences, from: &[usize]) -> Result<Sequences> {
    match sequences.shape().layout() {
        Layout::Batch { time } => Sequences::batch(from.len(), time),
        Layout::Padded { time } => {
            let lengths: Vec<usize> = from.iter().map(|&i| sequences.as_slice()[i].length).collect();
            Sequences::padded(time, &lengths)
        }
        Layout::Packed => Err(Error::Sequences {
            expected: "a batch, padded or not".to_owned(),
            got: sequences.shape().to_string(),
        }),
    }
}
