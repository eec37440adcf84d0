use std::ops::Range;

use crate::problem::Convolution;
use crate::reference::Estimate;
use crate::reference::estimate::{Sum, softmax, softmax_backward};
use crate::{Dropout, Normalize, Sequence, Sequences};

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

/// The weights of head `h` of one token, normalised from `logits` and some of them dropped, of the taps `in_range`.
/// `token` is the row of the token where weights are its own, else 0.
pub(crate) fn weights(
    conv: &Convolution,
    dropout: Option<Dropout>,
    (token, h): (usize, usize),
    logits: &[Estimate],
    in_range: Range<usize>,
) -> Vec<Estimate> {
    let weights = normalize(logits, conv.normalize(), in_range.clone());
    weights.into_iter().zip(in_range).map(|(weight, tap)| drop(dropout, (token, h), tap, weight)).collect()
}

/// A weight after dropout.
fn drop(dropout: Option<Dropout>, (token, h): (usize, usize), tap: usize, weight: Estimate) -> Estimate {
    match dropout {
        None => weight,
        Some(dropout) if dropout.keeps(token as u64, h, tap) => weight * f64::from(dropout.rate().scale()),
        Some(_) => Estimate::exact(0.0),
    }
}

/// The gradients of the weights of one window after normalisation, from those after dropout.
pub(crate) fn undropped(
    dropout: Option<Dropout>,
    (token, h): (usize, usize),
    in_range: Range<usize>,
    gradients: &[Sum],
) -> Vec<Sum> {
    let undrop = |(tap, &gradient): (usize, &Sum)| match dropout {
        None => gradient,
        Some(dropout) if dropout.keeps(token as u64, h, tap) => {
            gradient.scaled(f64::from(dropout.rate().scale()))
        }
        Some(_) => Sum::default(),
    };
    in_range.zip(gradients).map(undrop).collect()
}

/// The gradients of the logits `[K]` of one window from those of its weights after dropout, of the taps `in_range`.
pub(crate) fn logits_backward(
    conv: &Convolution,
    dropout: Option<Dropout>,
    (token, h): (usize, usize),
    logits: &[Estimate],
    in_range: Range<usize>,
    gradients: &[Sum],
) -> Vec<Estimate> {
    let gradients = undropped(dropout, (token, h), in_range.clone(), gradients);
    let width = conv.window().width();
    // What is out of range has a gradient of zero there, and a weight only under the softmax over all taps.
    let mut all = vec![Sum::default(); width];
    all[in_range.clone()].copy_from_slice(&gradients);
    let mut found = vec![Estimate::exact(0.0); width];
    match conv.normalize() {
        Normalize::None => found.iter_mut().zip(&all).for_each(|(found, g)| *found = g.estimate()),
        Normalize::Softmax => found = softmax_backward(&softmax(logits), &all),
        Normalize::SoftmaxInRange => found[in_range.clone()]
            .copy_from_slice(&softmax_backward(&softmax(&logits[in_range]), &gradients)),
    }
    found
}

/// Which weights are dropped, where some are.
///
/// # Panics
///
/// Where a problem with dropout has no seed.
pub(crate) fn dropout(conv: &Convolution, seed: Option<u64>) -> Option<Dropout> {
    conv.dropout().map(|rate| rate.seeded(seed.expect("a problem with dropout has a seed")))
}

/// One convolved token: bias + sum over the taps in range, with the weights of head `h` over the taps in range as
/// `weights(h, in_range)` says.
pub(crate) fn convolve(
    conv: &Convolution,
    sequences: &Sequences,
    tokens: Tokens<'_>,
    bias: Option<&[f64]>,
    (index, t): (usize, usize),
    weights: impl Fn(usize, Range<usize>) -> Vec<Estimate>,
) -> Vec<Estimate> {
    let (window, sequence) = (conv.window(), sequences.as_slice()[index]);
    let past = conv.past(sequence);
    let in_range = window.taps_in_range(t, sequence.length, past);
    let mut y = Vec::with_capacity(conv.channels());
    for h in 0..conv.heads() {
        let weights = weights(h, in_range.clone());
        for c in h * conv.head_channels()..(h + 1) * conv.head_channels() {
            let x = |j| tokens.at(conv, index, sequence, window.token(t, j), c);
            let terms = weights.iter().zip(in_range.clone()).map(|(&weight, j)| (weight, x(j)));
            y.push(Estimate::sum(bias.map_or(0.0, |bias| bias[c]), terms));
        }
    }
    y
}
