use std::ops::Range;

use crate::problem::Convolution;
use crate::reference::Estimate;
use crate::reference::estimate::softmax;
use crate::{Normalize, Sequence, Sequences};

/// The weights of one window: `logits` normalised, of which those `in_range` are in use.
pub(crate) fn normalize(logits: &[Estimate], normalize: Normalize, in_range: Range<usize>) -> Vec<Estimate> {
    match normalize {
        Normalize::None => logits[in_range].to_vec(),
        Normalize::Softmax => softmax(logits)[in_range].to_vec(),
        Normalize::SoftmaxInRange => softmax(&logits[in_range]),
    }
}

/// Tokens of one convolved tensor: those of this call, and those before them.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) x: &'a [f64],
    pub(crate) history: Option<&'a [f64]>,
}

impl Tokens<'_> {
    /// x at a position relative to the first token of sequence `index`; negative positions are history.
    fn at(
        &self,
        conv: &Convolution,
        index: usize,
        sequence: Sequence,
        position: isize,
        channel: usize,
    ) -> f64 {
        match usize::try_from(position) {
            Ok(position) => self.x[(sequence.first + position) * conv.channels() + channel],
            Err(_) => {
                let [_, reach, channels] = conv.history_shape();
                let row = index * reach + reach - position.unsigned_abs();
                self.history.expect("a problem with history has one")[row * channels + channel]
            }
        }
    }
}

/// One convolved token: bias + sum over the taps in range, with the logits of head `h` as `logits(h)` says.
pub(crate) fn convolve(
    conv: &Convolution,
    sequences: &Sequences,
    tokens: Tokens<'_>,
    bias: Option<&[f64]>,
    (index, t): (usize, usize),
    logits: impl Fn(usize) -> Vec<Estimate>,
) -> Vec<Estimate> {
    let (window, sequence) = (conv.window(), sequences.as_slice()[index]);
    let past = conv.past(sequence);
    let in_range = window.taps_in_range(t, sequence.length, past);
    let mut y = Vec::with_capacity(conv.channels());
    for h in 0..conv.heads() {
        let weights = normalize(&logits(h), conv.normalize(), in_range.clone());
        for c in h * conv.head_channels()..(h + 1) * conv.head_channels() {
            let x = |j| tokens.at(conv, index, sequence, window.token(t, j), c);
            let terms = weights.iter().zip(in_range.clone()).map(|(&weight, j)| (weight, x(j)));
            y.push(Estimate::sum(bias.map_or(0.0, |bias| bias[c]), terms));
        }
    }
    y
}
