mod backward;

pub use backward::{AttentionBackwardProblem, AttentionWanted};

use crate::problem::{addressable, count, nonzero};
use crate::{DType, Error, Result, Sequence, SequenceShape, Window};

/// Which keys a query sees: those from `left` tokens before its own position to `right` tokens after it. Where it stands among
/// the keys an [`Alignment`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mask {
    left: Option<usize>,
    right: Option<usize>,
}

impl Mask {
    /// Every key.
    pub const FULL: Mask = Mask { left: None, right: None };

    /// No later key.
    pub const CAUSAL: Mask = Mask { left: None, right: Some(0) };

    /// `left` keys before the query's position, the one at it, and `right` after it; `None` sees to the end.
    pub const fn local(left: Option<usize>, right: Option<usize>) -> Self {
        Mask { left, right }
    }

    /// Keys before the query's position, or `None` for all of them.
    pub const fn left(self) -> Option<usize> {
        self.left
    }

    /// Keys after the query's position, or `None` for all of them.
    pub const fn right(self) -> Option<usize> {
        self.right
    }

    /// The keys, of `length`, that a query at key position `position` sees.
    pub fn keys(self, position: isize, length: usize) -> std::ops::Range<usize> {
        let clamp = |at: isize| at.clamp(0, length as isize) as usize;
        let offset = |by: usize| isize::try_from(by).unwrap_or(isize::MAX);
        let first = self.left.map_or(0, |left| clamp(position.saturating_sub(offset(left))));
        let end = self
            .right
            .map_or(length, |right| clamp(position.saturating_add(offset(right)).saturating_add(1)));
        first..end.max(first)
    }
}

/// Where query i of a sequence stands among the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// At i + Tk - Tq, the last query at the last key, with T the time axis of a batch, or the sequence's own length where the
    /// batch is packed.
    #[default]
    End,
    /// At i plus the tokens that had gone by before the queries ([`Sequences::after`](crate::Sequences::after)): those of a
    /// chunk, among the keys of all tokens in a cache with room for more.
    Past,
}

/// The reach of a convolution: the keys that its taps would read (with a dilation of 1).
impl From<Window> for Mask {
    fn from(window: Window) -> Self {
        Mask::local(Some(window.left()), Some(window.right()))
    }
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// The scores of a sequence, `[H, Tq, Tk]`, are written to memory, normalised there and read again: the baseline
    /// that people write.
    Naive,
    /// Block by block with a running softmax (Milakov and Gimelshein 2018; Dao et al. 2022): no more memory than the
    /// blocks. Weighted sums are divided by the total of the weights at the end: with values near the largest number of
    /// f32 (and bf16) they may overflow before.
    #[default]
    Fused,
}

/// Attention: softmax(q k^T scale + mask) v for each head, q `[.., Tq, H D]`, k and v `[.., Tk, H D]` (Vaswani et al.
/// 2017, equation 1).
///
/// A row with no key allowed gives zero, and so does a query outside its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionProblem {
    queries: SequenceShape,
    keys: SequenceShape,
    heads: usize,
    head_channels: usize,
    /// Bits of the f32 scale, so that the problem can be a key.
    scale: u32,
    mask: Mask,
    alignment: Alignment,
    /// Whether queries and keys have changed places.
    mirrored: bool,
    dtype: DType,
}

impl AttentionProblem {
    /// Every key allowed, a scale of 1 / sqrt(D), everything of type `dtype`. Self-attention has the same sequences
    /// twice.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for no heads or head channels, [`Error::SequencePairs`] unless there are as many key
    /// sequences as query sequences, [`Error::TooLarge`] where a tensor could not be addressed.
    pub fn new(
        queries: SequenceShape,
        keys: SequenceShape,
        heads: usize,
        head_channels: usize,
        dtype: DType,
    ) -> Result<Self> {
        nonzero("heads", heads)?;
        nonzero("head channels", head_channels)?;
        if queries.sequences() != keys.sequences() {
            return Err(Error::SequencePairs { queries: queries.sequences(), keys: keys.sequences() });
        }
        addressable("q", &[queries.tokens(), heads, head_channels])?;
        addressable("k", &[keys.tokens(), heads, head_channels])?;
        let scale = (1.0 / (head_channels as f64).sqrt()) as f32;
        Ok(AttentionProblem {
            queries,
            keys,
            heads,
            head_channels,
            scale: scale.to_bits(),
            mask: Mask::FULL,
            alignment: Alignment::End,
            mirrored: false,
            dtype,
        })
    }

    /// With another scale.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] for a scale that is infinite or not a number.
    pub fn with_scale(mut self, scale: f32) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::NotFinite { what: "scale", got: scale });
        }
        self.scale = scale.to_bits();
        Ok(self)
    }

    /// With only the keys that `mask` allows.
    pub const fn with_mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// With queries that stand elsewhere.
    pub const fn with_alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// The shape of the query sequences.
    pub const fn queries(&self) -> SequenceShape {
        self.queries
    }

    /// The shape of the key sequences.
    pub const fn keys(&self) -> SequenceShape {
        self.keys
    }

    /// Heads H.
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// Channels of one head, D.
    pub const fn head_channels(&self) -> usize {
        self.head_channels
    }

    /// Channels of q, k, v and y, H D.
    pub const fn channels(&self) -> usize {
        self.heads * self.head_channels
    }

    /// What the scores are multiplied by.
    pub const fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }

    /// Which keys a query sees.
    pub const fn mask(&self) -> Mask {
        self.mask
    }

    /// Where queries stand among the keys.
    pub const fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// The keys, counted in their sequence, that query t of `queries` sees in `keys`.
    pub(crate) fn seen(&self, queries: Sequence, keys: Sequence, t: usize) -> std::ops::Range<usize> {
        let room = |sequence: Sequence| (sequence.length + sequence.padding) as isize;
        let first = match self.alignment {
            Alignment::End => room(keys) - room(queries),
            Alignment::Past if self.mirrored => -(keys.past as isize),
            Alignment::Past => queries.past as isize,
        };
        self.mask.keys(first + t as isize, keys.length)
    }

    /// The same as the keys see it: they are the queries here, and see the queries that see them.
    #[cfg(feature = "cuda")]
    pub(crate) fn mirrored(&self) -> Self {
        AttentionProblem {
            queries: self.keys,
            keys: self.queries,
            mask: Mask::local(self.mask.right, self.mask.left),
            mirrored: !self.mirrored,
            ..*self
        }
    }

    /// Where the first of those that the kernels call queries stands, as they number it: 0 for the end of what they call keys, 1
    /// for the past of queries, 2 for that of keys, before the first of them.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn alignment_number(&self, mirrored: bool) -> u32 {
        match self.alignment {
            Alignment::End => 0,
            Alignment::Past => 1 + u32::from(mirrored != self.mirrored),
        }
    }

    /// Type of q, k, v and y.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Operations: 4 D for every query, head and key allowed. Padding counts as tokens; the lengths of a packed batch
    /// are data, so it counts as evenly divided, the least that its tokens can cost. So is how many tokens have gone by: queries
    /// count as the last ones.
    pub fn flops(&self) -> u64 {
        let queries = self.queries.mean_room().ceil() as i128;
        let keys = self.keys.mean_room().ceil() as i128;
        let position = keys - queries;
        let end = self
            .mask
            .right
            .map_or(queries * keys, |right| sum_of_clamped(position + right as i128 + 1, queries, keys));
        let first = self.mask.left.map_or(0, |left| sum_of_clamped(position - left as i128, queries, keys));
        let seen = u64::try_from(end - first).unwrap_or(u64::MAX);
        count(&[4, self.channels(), self.queries.sequences()]).saturating_mul(seen)
    }

    /// Bytes that must move: q, k, v and y, once each.
    pub fn bytes(&self) -> u64 {
        let tokens = 2 * count(&[self.queries.tokens()]) + 2 * count(&[self.keys.tokens()]);
        tokens * self.channels() as u64 * self.dtype.size() as u64
    }
}

/// The sum of clamp(start + i, 0, limit) over i < terms.
fn sum_of_clamped(start: i128, terms: i128, limit: i128) -> i128 {
    let rises = (-start).clamp(0, terms);
    let full = (limit - start).clamp(rises, terms);
    let rising = full - rises;
    rising * (start + rises) + rising * (rising - 1) / 2 + (terms - full) * limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sequences;

    #[test]
    fn flops_count_the_keys_that_are_seen() {
        let bounds = [None, Some(0), Some(1), Some(3), Some(50)];
        for (queries, keys) in [(1, 1), (4, 4), (3, 9), (9, 3), (0, 4), (4, 0)] {
            for (left, right) in bounds.iter().flat_map(|&l| bounds.iter().map(move |&r| (l, r))) {
                let mask = Mask::local(left, right);
                let shape = |time| Sequences::batch(2, time).unwrap().shape();
                let problem = AttentionProblem::new(shape(queries), shape(keys), 3, 5, DType::F32)
                    .unwrap()
                    .with_mask(mask);
                let seen: usize = (0..queries)
                    .map(|i| mask.keys(i as isize + keys as isize - queries as isize, keys).len())
                    .sum();
                assert_eq!(problem.flops(), (4 * 3 * 5 * 2 * seen) as u64, "{queries} x {keys} {mask:?}");
            }
        }
    }
}
