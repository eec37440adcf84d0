use crate::{DType, DropoutRate, Error, Normalize, Result, Sequence, SequenceShape, Window};

use super::{addressable, count, nonzero, same_or_f32};

/// What light and dynamic convolution have in common: tokens x and y of C channels in H heads, a window over time, and
/// how its weights are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    sequences: SequenceShape,
    channels: usize,
    heads: usize,
    window: Window,
    normalize: Normalize,
    dtype: DType,
    parameters: DType,
    bias: bool,
    history: bool,
    dropout: Option<DropoutRate>,
}

impl Convolution {
    /// A convolution of `channels` in `heads` contiguous blocks of C / H, softmax over the taps, no bias, tokens and
    /// parameters of type `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for zero channels or heads, [`Error::Heads`] where H does not divide C,
    /// [`Error::TooLarge`] where a tensor could not be addressed.
    pub fn new(
        sequences: SequenceShape,
        channels: usize,
        heads: usize,
        window: Window,
        dtype: DType,
    ) -> Result<Self> {
        nonzero("channels", channels)?;
        nonzero("heads", heads)?;
        if !channels.is_multiple_of(heads) {
            return Err(Error::Heads { heads, channels });
        }
        addressable("x", &[sequences.tokens(), channels])?;
        addressable("weight", &[channels, window.width()])?;
        Ok(Convolution {
            sequences,
            channels,
            heads,
            window,
            normalize: Normalize::default(),
            dtype,
            parameters: dtype,
            bias: false,
            history: false,
            dropout: None,
        })
    }

    /// With the weights normalised as `normalize` says.
    pub const fn with_normalize(mut self, normalize: Normalize) -> Self {
        self.normalize = normalize;
        self
    }

    /// With or without a bias `[C]`.
    pub const fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With weights, generator, biases or given logits of type `dtype`: that of the tokens, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::DType`] for any other.
    pub fn with_parameters(mut self, dtype: DType) -> Result<Self> {
        same_or_f32("parameters", self.dtype, dtype)?;
        self.parameters = dtype;
        Ok(self)
    }

    /// With or without the last (K - 1) r tokens of each sequence from before this call, `[sequences, (K - 1) r, C]`.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryNotCausal`] where the window looks ahead, [`Error::TooLarge`] where the history could not be
    /// addressed.
    pub fn with_history(mut self, history: bool) -> Result<Self> {
        if history {
            self.window.check_history()?;
            addressable("history", &[self.sequences.sequences(), self.window.reach(), self.channels])?;
        }
        self.history = history;
        Ok(self)
    }

    /// With weight dropout at a rate, or without. Its seed is given with each call.
    pub const fn with_dropout(mut self, rate: Option<DropoutRate>) -> Self {
        self.dropout = rate;
        self
    }

    /// The shape of the sequences.
    pub const fn sequences(&self) -> SequenceShape {
        self.sequences
    }

    /// Channels C of x and y.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// Heads H. Channel c belongs to head c / R.
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// Channels of one head, R = C / H.
    pub const fn head_channels(&self) -> usize {
        self.channels / self.heads
    }

    /// The window over time.
    pub const fn window(&self) -> Window {
        self.window
    }

    /// How the weights are normalised.
    pub const fn normalize(&self) -> Normalize {
        self.normalize
    }

    /// Type of x, y and the history.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Type of weights, generator, biases and given logits.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether a bias `[C]` is added.
    pub const fn has_bias(&self) -> bool {
        self.bias
    }

    /// Whether tokens from before this call are given.
    pub const fn has_history(&self) -> bool {
        self.history
    }

    /// The rate at which weights are dropped, where they are.
    pub const fn dropout(&self) -> Option<DropoutRate> {
        self.dropout
    }

    /// An error for a convolution that has no backward pass.
    pub(crate) fn check_backward(&self) -> Result<()> {
        if self.history { Err(Error::HistoryBackward) } else { Ok(()) }
    }

    /// The convolution along which gradients flow back from y to x: the mirrored window, without a bias.
    pub(crate) const fn mirrored(self) -> Convolution {
        Convolution { window: self.window.mirrored(), bias: false, ..self }
    }

    /// Tokens of a sequence from before this call that the window can still see.
    pub(crate) fn past(&self, sequence: Sequence) -> usize {
        if self.history { sequence.past.min(self.window.reach()) } else { 0 }
    }

    /// Sizes of the history, `[sequences, (K - 1) r, C]`.
    pub const fn history_shape(&self) -> [usize; 3] {
        [self.sequences.sequences(), self.window.reach(), self.channels]
    }

    /// Multiply-adds of the taps, two operations each.
    pub(crate) fn flops(&self) -> u64 {
        count(&[2, self.sequences.tokens(), self.channels, self.window.width()])
    }

    /// Bytes of x, y, bias and history.
    pub(crate) fn bytes(&self) -> u64 {
        let tokens = 2 * count(&[self.sequences.tokens(), self.channels]);
        let history = if self.history { count(&self.history_shape()) } else { 0 };
        let bias = if self.bias { self.channels as u64 } else { 0 };
        (tokens + history) * self.dtype.size() as u64 + bias * self.parameters.size() as u64
    }
}
