use std::collections::BTreeMap;

use crate::Sequences;
use crate::problem::LightConvBackwardProblem;
use crate::reference::estimate::Sum;
use crate::reference::gradients::{exact, sum_over_tokens, transposed};
use crate::reference::light_conv::logits;
use crate::reference::taps::{dropout, logits_backward, weights};
use crate::reference::{Estimate, LightConvInputs};

/// The gradients of a [`light_conv`](crate::reference::light_conv).
#[derive(Clone, Debug)]
pub struct LightConvGradients {
    /// `[tokens, C]`.
    pub x: Vec<Estimate>,
    /// `[H, K]`.
    pub weight: Vec<Estimate>,
    /// `[C]`.
    pub bias: Vec<Estimate>,
}

/// All gradients of [`light_conv`](crate::reference::light_conv) from dy `[tokens, C]`, wanted or not, by the formulas of
/// [`LightConvBackwardProblem`].
pub fn light_conv_backward(
    problem: &LightConvBackwardProblem,
    sequences: &Sequences,
    inputs: LightConvInputs<'_>,
    dy: &[f64],
) -> LightConvGradients {
    let conv = problem.forward().convolution();
    let (window, width, channels) = (conv.window(), conv.window().width(), conv.channels());
    let LightConvInputs { x, weight, seed, .. } = inputs;
    let dropout = dropout(conv, seed);
    let head_logits: Vec<_> = weight.chunks_exact(width).map(logits).collect();

    // g[h, j], apart for the tokens that have other taps in range: their weights may differ.
    let mut gradients = BTreeMap::<(usize, usize), Vec<Sum>>::new();
    for sequence in sequences.as_slice() {
        for t in 0..sequence.length {
            let in_range = window.taps_in_range(t, sequence.length, 0);
            let all = gradients
                .entry((in_range.start, in_range.end))
                .or_insert_with(|| vec![Sum::default(); conv.heads() * in_range.len()]);
            for c in 0..channels {
                let of_head = &mut all[c / conv.head_channels() * in_range.len()..];
                for (g, j) in of_head.iter_mut().zip(in_range.clone()) {
                    let read = sequence.first + window.token(t, j) as usize;
                    let dy = dy[(sequence.first + t) * channels + c];
                    g.add(Estimate::exact(dy), x[read * channels + c]);
                }
            }
        }
    }
    let mut dweight = vec![vec![]; conv.heads() * width];
    for (&(start, end), all) in &gradients {
        for (h, logits) in head_logits.iter().enumerate() {
            let of_head = &all[h * (end - start)..][..end - start];
            let found = logits_backward(conv, dropout, (0, h), logits, start..end, of_head);
            dweight[h * width..].iter_mut().zip(found).for_each(|(terms, found)| terms.push(found));
        }
    }
    LightConvGradients {
        x: transposed(conv, sequences, &exact(dy), |_, h, in_range| {
            weights(conv, dropout, (0, h), &head_logits[h], in_range)
        })
        .into_iter()
        .map(|sum| sum.estimate().stored(conv.dtype()))
        .collect(),
        weight: dweight
            .into_iter()
            .map(|terms| Estimate::total(terms).stored(problem.parameters()))
            .collect(),
        bias: sum_over_tokens(sequences, channels, dy)
            .into_iter()
            .map(|sum| sum.estimate().stored(problem.parameters()))
            .collect(),
    }
}
