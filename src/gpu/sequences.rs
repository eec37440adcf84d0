use std::sync::{Mutex, Weak};

use crate::gpu::{lock, word};
use crate::{Layout, Result, Sequence, SequenceShape, Sequences};

/// Whether the sequences of a shape are listed, although none of them began before this call: those of a whole batch are
/// known without a list.
pub(crate) fn listed(shape: SequenceShape) -> bool {
    !matches!(shape.layout(), Layout::Batch { .. })
}

/// The list of sequences as kernels read it, four words each: first row, tokens, rows, tokens gone by. None where kernels
/// need no list.
pub(crate) fn words(sequences: &Sequences) -> Result<Option<Vec<u32>>> {
    let shape = sequences.shape();
    if !listed(shape) && !sequences.continues() || shape.sequences() == 0 {
        return Ok(None);
    }
    let mut words = Vec::with_capacity(4 * shape.sequences());
    for sequence in sequences.as_slice() {
        let room = sequence.length + sequence.padding;
        for size in [sequence.first, sequence.length, room] {
            words.push(word("tokens of", "the sequences", size)?);
        }
        // Only the last of them are in reach of a window, and no window reaches so far.
        words.push(sequence.past.min(i32::MAX as usize) as u32);
    }
    Ok(Some(words))
}

/// The first step of a search among so many packed sequences for the one that has a row: the largest power of two below
/// their number, or 0 where there is but one. Every row takes the same steps, each half of the one before.
pub(crate) fn bisection(sequences: usize) -> usize {
    sequences.checked_sub(1).and_then(usize::checked_ilog2).map_or(0, |log| 1 << log)
}

/// Sequences in the memory of a device, for as long as someone has the sequences.
pub(crate) struct Uploads<T>(Mutex<Vec<(Weak<[Sequence]>, T)>>);

impl<T> Default for Uploads<T> {
    fn default() -> Self {
        Uploads(Mutex::default())
    }
}

impl<T: Clone> Uploads<T> {
    /// What was uploaded of `sequences`, or is now.
    pub(crate) fn of(&self, sequences: &Sequences, upload: impl FnOnce() -> Result<T>) -> Result<T> {
        let of = sequences.downgrade();
        let find = |known: &[(Weak<[Sequence]>, T)]| {
            known.iter().find(|(other, _)| other.ptr_eq(&of)).map(|(_, found)| found.clone())
        };
        if let Some(found) = find(&lock(&self.0)) {
            return Ok(found);
        }
        // Nobody waits for the device meanwhile; what another thread uploaded in this time is taken instead.
        let uploaded = upload()?;
        let mut known = lock(&self.0);
        known.retain(|(of, _)| of.strong_count() > 0);
        Ok(find(&known).unwrap_or_else(|| {
            known.push((of.clone(), uploaded.clone()));
            uploaded
        }))
    }
}
