//! What the gradients of several operators have in common.

use std::ops::Range;

use crate::Sequences;
use crate::problem::Convolution;
use crate::reference::Estimate;
use crate::reference::estimate::Sum;

/// The gradient of a convolution's tokens, `[tokens, C]`, from those of its outputs: token s is read by tap j of output
/// t = s - j r + P. `weights(row, h, in_range)` are those of the output in `row`.
pub(crate) fn transposed(
    conv: &Convolution,
    sequences: &Sequences,
    dy: &[Estimate],
    weights: impl Fn(usize, usize, Range<usize>) -> Vec<Estimate>,
) -> Vec<Sum> {
    let (window, channels) = (conv.window(), conv.channels());
    let mut sums = vec![Sum::default(); sequences.shape().tokens() * channels];
    for sequence in sequences.as_slice() {
        for t in 0..sequence.length {
            let (row, in_range) = (sequence.first + t, window.taps_in_range(t, sequence.length, 0));
            for h in 0..conv.heads() {
                let weights = weights(row, h, in_range.clone());
                for (weight, j) in weights.into_iter().zip(in_range.clone()) {
                    let read = sequence.first + window.token(t, j) as usize;
                    for c in h * conv.head_channels()..(h + 1) * conv.head_channels() {
                        sums[read * channels + c].add_both(weight, dy[row * channels + c]);
                    }
                }
            }
        }
    }
    sums
}

/// The sum over the tokens of all sequences of rows of `channels`.
pub(crate) fn sum_over_tokens(sequences: &Sequences, channels: usize, rows: &[f64]) -> Vec<Sum> {
    let mut sums = vec![Sum::default(); channels];
    for row in token_rows(sequences) {
        sums.iter_mut()
            .zip(&rows[row * channels..])
            .for_each(|(sum, &number)| sum.add(Estimate::exact(number), 1.0));
    }
    sums
}

/// The rows that are tokens, and not padding.
pub(crate) fn token_rows(sequences: &Sequences) -> impl Iterator<Item = usize> {
    sequences.as_slice().iter().flat_map(|sequence| sequence.first..sequence.first + sequence.length)
}

/// Numbers that are as they are given.
pub(crate) fn exact(numbers: &[f64]) -> Vec<Estimate> {
    numbers.iter().copied().map(Estimate::exact).collect()
}
