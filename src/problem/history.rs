use crate::problem::{Convolution, count};

/// Moving a decoder's memory on: the last (K - 1) r tokens of each sequence once the tokens of a call have gone by.
///
/// next\[s, i\] = (history\[s\] followed by the tokens of sequence s)\[length + i\], i < (K - 1) r. Padding is no part
/// of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HistoryProblem {
    convolution: Convolution,
}

impl HistoryProblem {
    /// The history of a causal `convolution`.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryNotCausal`](crate::Error::HistoryNotCausal) where the window looks ahead,
    /// [`Error::TooLarge`](crate::Error::TooLarge) where the history could not be addressed.
    pub fn new(convolution: Convolution) -> crate::Result<Self> {
        Ok(HistoryProblem { convolution: convolution.with_history(true)? })
    }

    /// Tokens and window.
    pub const fn convolution(&self) -> &Convolution {
        &self.convolution
    }

    /// None: numbers are only moved.
    pub const fn flops(&self) -> u64 {
        0
    }

    /// Bytes that must move: each row of the next history read and written once.
    pub fn bytes(&self) -> u64 {
        2 * count(&self.convolution.history_shape()) * self.convolution.dtype().size() as u64
    }
}
