//! How the tokens of a tensor group into sequences.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{Error, Result};

/// Where the sequences of a tensor lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[batch, time, channels]`, every sequence `time` tokens long.
    Batch {
        /// Tokens of each sequence.
        time: usize,
    },
    /// `[batch, time, channels]`, each sequence with a length of its own; what follows it is padding.
    Padded {
        /// Tokens that each sequence has room for.
        time: usize,
    },
    /// `[tokens, channels]`, the sequences one after another.
    Packed,
}

/// The shape of [`Sequences`]: all that a problem, a plan or a pipeline depends on. The contents (lengths, offsets)
/// are data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceShape {
    layout: Layout,
    sequences: usize,
    tokens: usize,
}

impl SequenceShape {
    /// Where the sequences lie.
    pub const fn layout(self) -> Layout {
        self.layout
    }

    /// How many sequences there are.
    pub const fn sequences(self) -> usize {
        self.sequences
    }

    /// Rows of a tensor that holds them, padding included.
    pub const fn tokens(self) -> usize {
        self.tokens
    }

    /// The sizes of a tensor that holds `channels` numbers a token: `[batch, time, channels]`, or
    /// `[tokens, channels]` for a packed batch.
    pub fn tensor(self, channels: usize) -> Vec<usize> {
        match self.layout {
            Layout::Batch { time } | Layout::Padded { time } => vec![self.sequences, time, channels],
            Layout::Packed => vec![self.tokens, channels],
        }
    }

    /// The most tokens that a sequence of this shape can have.
    pub(crate) fn longest(self) -> usize {
        match self.layout {
            Layout::Batch { time } | Layout::Padded { time } => time,
            Layout::Packed => self.tokens,
        }
    }

    /// An error unless `got` is this shape.
    pub(crate) fn check(self, got: SequenceShape) -> Result<()> {
        if self == got {
            Ok(())
        } else {
            Err(Error::Sequences { expected: self.to_string(), got: got.to_string() })
        }
    }

    /// Tokens that each sequence has room for; for a packed batch, whose lengths are data, the even share.
    pub(crate) fn mean_room(self) -> f64 {
        match self.layout {
            Layout::Batch { time } | Layout::Padded { time } => time as f64,
            Layout::Packed => self.tokens as f64 / self.sequences.max(1) as f64,
        }
    }
}

impl fmt::Display for SequenceShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SequenceShape { layout, sequences, tokens } = self;
        match layout {
            Layout::Batch { time } => write!(f, "a batch of {sequences} x {time} tokens"),
            Layout::Padded { time } => write!(f, "a padded batch of {sequences} x {time} tokens"),
            Layout::Packed => write!(f, "{sequences} packed sequences of {tokens} tokens in all"),
        }
    }
}

/// One sequence, in rows of the flat `[tokens, channels]` view of its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Row of its first token.
    pub first: usize,
    /// Tokens it has.
    pub length: usize,
    /// Rows after its last token that belong to no sequence.
    pub padding: usize,
    /// Tokens of it that went by in earlier calls.
    pub past: usize,
}

/// The sequences of a tensor: checked once, used by any number of calls.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    shape: SequenceShape,
    sequences: Arc<[Sequence]>,
}

impl Sequences {
    /// `batch` sequences of `time` tokens each, in a tensor `[batch, time, channels]`. Both may be 0.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] where `batch * time` overflows.
    pub fn batch(batch: usize, time: usize) -> Result<Self> {
        let lengths = std::iter::repeat_n(time, batch);
        Sequences::rectangular(Layout::Batch { time }, batch, time, lengths)
    }

    /// One sequence for each of `lengths`, in a tensor `[lengths.len(), time, channels]` padded to `time`.
    ///
    /// Padding reads as zero, and outputs there are zero.
    ///
    /// # Errors
    ///
    /// [`Error::LengthPastTime`] for a length over `time`, [`Error::TooLarge`] where the product overflows.
    pub fn padded(time: usize, lengths: &[usize]) -> Result<Self> {
        if let Some(sequence) = lengths.iter().position(|&length| length > time) {
            return Err(Error::LengthPastTime { sequence, length: lengths[sequence], time });
        }
        let batch = lengths.len();
        Sequences::rectangular(Layout::Padded { time }, batch, time, lengths.iter().copied())
    }

    /// Sequences one after another in a tensor `[tokens, channels]`: the i-th has the rows
    /// `offsets[i] .. offsets[i + 1]`. The last offset is the number of tokens.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetStart`] where the first offset is not 0 or there is none, [`Error::OffsetOrder`] where one is
    /// smaller than the one before it.
    pub fn packed(offsets: &[usize]) -> Result<Self> {
        if offsets.first() != Some(&0) {
            return Err(Error::OffsetStart { got: offsets.first().copied() });
        }
        if let Some(i) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(Error::OffsetOrder { index: i + 1, previous: offsets[i], got: offsets[i + 1] });
        }
        let tokens = offsets[offsets.len() - 1];
        check_tokens(1, tokens)?;
        let sequences = offsets
            .windows(2)
            .map(|pair| Sequence { first: pair[0], length: pair[1] - pair[0], padding: 0, past: 0 })
            .collect();
        let shape = SequenceShape { layout: Layout::Packed, sequences: offsets.len() - 1, tokens };
        Ok(Sequences { shape, sequences })
    }

    fn rectangular(
        layout: Layout,
        batch: usize,
        time: usize,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Self> {
        let tokens = check_tokens(batch, time)?;
        let mut sequences = Vec::new();
        sequences.try_reserve_exact(batch).map_err(|_| Error::OutOfMemory {
            what: "sequences",
            bytes: batch.saturating_mul(size_of::<Sequence>()),
        })?;
        sequences.extend(lengths.enumerate().map(|(i, length)| Sequence {
            first: i * time,
            length,
            padding: time - length,
            past: 0,
        }));
        let sequences = sequences.into();
        Ok(Sequences { shape: SequenceShape { layout, sequences: batch, tokens }, sequences })
    }

    /// The same sequences as the continuation of what went by before: `past[i]` tokens of the i-th, the last of which
    /// are in the history that goes with the call.
    ///
    /// # Errors
    ///
    /// [`Error::PastCount`] unless there is one number a sequence, [`Error::TooLarge`] where past and present add up
    /// to more than memory can address.
    pub fn after(mut self, past: &[usize]) -> Result<Self> {
        if past.len() != self.sequences.len() {
            return Err(Error::PastCount { sequences: self.sequences.len(), got: past.len() });
        }
        for (sequence, &past) in Arc::make_mut(&mut self.sequences).iter_mut().zip(past) {
            if past > MAX_TOKENS {
                return Err(Error::TooLarge { what: "past", sizes: vec![past] });
            }
            sequence.past = past;
        }
        Ok(self)
    }

    /// Tokens gone by when these have: past and length of each sequence, for [`Sequences::after`] of the next call.
    pub fn gone_by(&self) -> Vec<usize> {
        self.sequences.iter().map(|s| s.past + s.length).collect()
    }

    /// The sequence that comes furthest with these tokens, the first of such, and how many of its tokens have gone by then.
    pub(crate) fn furthest(&self) -> (usize, usize) {
        self.gone_by()
            .into_iter()
            .enumerate()
            .fold((0, 0), |most, one| if one.1 > most.1 { one } else { most })
    }

    /// All that a problem depends on.
    pub fn shape(&self) -> SequenceShape {
        self.shape
    }

    /// The sequences, in the order of their rows.
    pub fn as_slice(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The parts of sequences, and the padding, that the rows `rows` hold.
    pub(crate) fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Piece> + '_ {
        let after = |sequence: &Sequence| sequence.first + sequence.length + sequence.padding;
        let begin = self.sequences.partition_point(|sequence| after(sequence) <= rows.start);
        self.sequences[begin..]
            .iter()
            .enumerate()
            .take_while({
                let end = rows.end;
                move |(_, sequence)| sequence.first < end
            })
            .map(move |(i, &sequence)| {
                let within = |row: usize| row.clamp(sequence.first, after(&sequence)) - sequence.first;
                let (start, end) = (within(rows.start), within(rows.end));
                let tokens = start.min(sequence.length)..end.min(sequence.length);
                let padding = start.max(sequence.length)..end.max(sequence.length);
                let padding = sequence.first + padding.start..sequence.first + padding.end;
                Piece { index: begin + i, sequence, tokens, padding }
            })
    }

    /// An error unless these are sequences of the shape that a problem was made for.
    pub(crate) fn check(&self, expected: SequenceShape) -> Result<()> {
        expected.check(self.shape)
    }

    /// Who they are, for as long as someone has them.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn downgrade(&self) -> std::sync::Weak<[Sequence]> {
        Arc::downgrade(&self.sequences)
    }

    /// Whether any of them began in an earlier call.
    pub(crate) fn continues(&self) -> bool {
        self.sequences.iter().any(|s| s.past > 0)
    }
}

/// What a range of rows holds of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which sequence.
    pub(crate) index: usize,
    /// All of it.
    pub(crate) sequence: Sequence,
    /// Its tokens among the rows, counted from its first.
    pub(crate) tokens: Range<usize>,
    /// Its padding among the rows, as rows.
    pub(crate) padding: Range<usize>,
}

/// Token positions are computed in `isize`; half of its range leaves room for every sum of two.
const MAX_TOKENS: usize = isize::MAX as usize / 2;

fn check_tokens(batch: usize, time: usize) -> Result<usize> {
    batch
        .checked_mul(time)
        .filter(|&tokens| tokens <= MAX_TOKENS && time <= MAX_TOKENS)
        .ok_or_else(|| Error::TooLarge { what: "sequences", sizes: vec![batch, time] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_each_layout() {
        let rows = |s: &Sequences| -> Vec<_> {
            s.as_slice().iter().map(|s| (s.first, s.length, s.padding, s.past)).collect()
        };
        assert_eq!(rows(&Sequences::batch(2, 3).unwrap()), [(0, 3, 0, 0), (3, 3, 0, 0)]);
        assert_eq!(
            rows(&Sequences::padded(4, &[0, 4, 1]).unwrap()),
            [(0, 0, 4, 0), (4, 4, 0, 0), (8, 1, 3, 0)]
        );
        let packed = Sequences::packed(&[0, 2, 2, 7]).unwrap();
        assert_eq!(rows(&packed), [(0, 2, 0, 0), (2, 0, 0, 0), (2, 5, 0, 0)]);
        assert_eq!(packed.shape().tensor(6), [7, 6]);
        let later = packed.after(&[5, 0, 1]).unwrap();
        assert_eq!(later.gone_by(), [7, 0, 6]);
        assert_eq!(later.furthest(), (0, 7));
        assert_eq!(later.after(&[0, 9, 4]).unwrap().furthest(), (1, 9));
        assert_eq!(Sequences::batch(3, 5).unwrap().furthest(), (0, 5));
        assert_eq!(Sequences::batch(0, 5).unwrap().furthest(), (0, 0));
    }

    #[test]
    fn pieces_cover_the_rows_once() {
        let all = [
            Sequences::batch(3, 5).unwrap(),
            Sequences::padded(4, &[0, 4, 1, 3]).unwrap(),
            Sequences::packed(&[0, 0, 2, 2, 9, 10, 10]).unwrap(),
            Sequences::batch(4, 0).unwrap(),
            Sequences::batch(0, 4).unwrap(),
        ];
        for sequences in all {
            let tokens = sequences.shape().tokens();
            for step in 1..=tokens + 1 {
                let mut rows = vec![];
                for start in (0..tokens).step_by(step) {
                    for piece in sequences.pieces(start..(start + step).min(tokens)) {
                        assert_eq!(piece.sequence, sequences.as_slice()[piece.index]);
                        rows.extend(piece.tokens.map(|t| piece.sequence.first + t));
                        rows.extend(piece.padding);
                    }
                }
                assert_eq!(rows, (0..tokens).collect::<Vec<_>>(), "{} by {step}", sequences.shape());
            }
        }
    }
}
