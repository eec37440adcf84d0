use crate::problem::{addressable, count, nonzero};
use crate::{DType, Error, Result, SequenceShape};

/// Writing the tokens of a call behind those that a cache holds: what a decoder with attention does with its keys and with
/// its values.
///
/// cache\[s, past + i\] = x\[s, i\], i < length, in place. `past` is what the sequences say of tokens gone by. All else of
/// the cache `[sequences, room, C]` stays as it is, and padding of x is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendProblem {
    sequences: SequenceShape,
    channels: usize,
    room: usize,
    dtype: DType,
}

impl AppendProblem {
    /// Tokens of `channels` numbers, and a cache with room for `room` tokens of each sequence, both of type `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for zero channels or room, [`Error::TooLarge`] where x or the cache could not be addressed.
    pub fn new(sequences: SequenceShape, channels: usize, room: usize, dtype: DType) -> Result<Self> {
        nonzero("channels", channels)?;
        nonzero("room", room)?;
        addressable("x", &[sequences.tokens(), channels])?;
        addressable("cache", &[sequences.sequences(), room, channels])?;
        Ok(AppendProblem { sequences, channels, room, dtype })
    }

    /// The shape of the sequences of x.
    pub const fn sequences(&self) -> SequenceShape {
        self.sequences
    }

    /// Channels C.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// Tokens that the cache has room for, of each sequence.
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Type of x and the cache.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes of the cache, `[sequences, room, C]`.
    pub const fn cache_shape(&self) -> [usize; 3] {
        [self.sequences.sequences(), self.room, self.channels]
    }

    /// None: numbers are only moved.
    pub const fn flops(&self) -> u64 {
        0
    }

    /// Bytes that must move: x read and written once.
    pub fn bytes(&self) -> u64 {
        count(&[2, self.sequences.tokens(), self.channels, self.dtype.size()])
    }

    /// An error unless the cache has room for the sequence that comes furthest: which it is, and its tokens.
    pub(crate) fn check_room(&self, (sequence, tokens): (usize, usize)) -> Result<()> {
        if tokens <= self.room {
            return Ok(());
        }
        Err(Error::CacheRoom { sequence, tokens, room: self.room })
    }
}
