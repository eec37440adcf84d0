use crate::Sequences;
use crate::problem::{DynamicConvBackwardProblem, Taps};
use crate::reference::dynamic_conv::logits_of;
use crate::reference::estimate::Sum;
use crate::reference::gradients::{exact, sum_over_tokens, token_rows, transposed};
use crate::reference::taps::{dropout, logits_backward, weights};
use crate::reference::{DynamicConvInputs, Estimate, TapInputs};

/// The gradients of a [`dynamic_conv`](crate::reference::dynamic_conv); empty where there is no such input.
#[derive(Clone, Debug)]
pub struct DynamicConvGradients {
    /// `[tokens, C]`.
    pub x: Vec<Estimate>,
    /// `[tokens, H, K]`.
    pub logits: Vec<Estimate>,
    /// `[H K, Cq]`.
    pub weight: Vec<Estimate>,
    /// `[H K]`.
    pub weight_bias: Vec<Estimate>,
    /// `[tokens, Cq]`.
    pub query: Vec<Estimate>,
    /// `[C]`.
    pub bias: Vec<Estimate>,
}

/// All gradients of [`dynamic_conv`](crate::reference::dynamic_conv) from dy `[tokens, C]`, wanted or not, by the formulas
/// of [`DynamicConvBackwardProblem`].
pub fn dynamic_conv_backward(
    problem: &DynamicConvBackwardProblem,
    sequences: &Sequences,
    inputs: DynamicConvInputs<'_>,
    dy: &[f64],
) -> DynamicConvGradients {
    let forward = problem.forward();
    let query = match inputs.taps {
        TapInputs::Given(_) => &[],
        TapInputs::Generated { query, .. } => query.unwrap_or(inputs.x),
    };
    let logits = |row| logits_of(forward, inputs, row);
    backward_with(problem, sequences, inputs, dy, &exact(query), logits)
}

/// The same with a query that may be off, and the logits `[H K]` of the token in a row.
pub(crate) fn backward_with(
    problem: &DynamicConvBackwardProblem,
    sequences: &Sequences,
    inputs: DynamicConvInputs<'_>,
    dy: &[f64],
    query: &[Estimate],
    logits: impl Fn(usize) -> Vec<Estimate>,
) -> DynamicConvGradients {
    let conv = problem.forward().convolution();
    let (width, rows) = (conv.window().width(), conv.sequences().tokens());
    let dropout = dropout(conv, inputs.seed);
    let mut all = vec![vec![]; rows];
    token_rows(sequences).for_each(|row| all[row] = logits(row));
    let dlogits = dlogits(problem, sequences, inputs, dy, &all);
    let mut x = transposed(conv, sequences, &exact(dy), |row, h, in_range| {
        weights(conv, dropout, (row, h), &all[row][h * width..][..width], in_range)
    });
    let parameter = |sum: Estimate| sum.stored(problem.parameters());
    let (mut weight, mut weight_bias, mut dquery) = (vec![], vec![], vec![]);
    if let (
        TapInputs::Generated { weight: generator, .. },
        Taps::Generated { query_channels, query: separate, .. },
    ) = (inputs.taps, problem.forward().taps())
    {
        let count = problem.forward().logits();
        for i in 0..count {
            let column: Vec<_> = token_rows(sequences).map(|row| dlogits[row * count + i]).collect();
            for c in 0..query_channels {
                let queries = token_rows(sequences).map(|row| query[row * query_channels + c]);
                weight.push(parameter(Estimate::dot(column.iter().copied().zip(queries))));
            }
            weight_bias.push(parameter(Estimate::total(column)));
        }
        // W^T dlogits, added to the gradient of x where x is its own query: one rounding for both.
        let mut sums = vec![Sum::default(); rows * query_channels];
        let all = if separate.is_some() { &mut sums } else { &mut x };
        for row in token_rows(sequences) {
            for (i, &dlogit) in dlogits[row * count..][..count].iter().enumerate() {
                for (c, sum) in all[row * query_channels..][..query_channels].iter_mut().enumerate() {
                    sum.add(dlogit, generator[i * query_channels + c]);
                }
            }
        }
        if let Some(dtype) = separate {
            dquery = sums.into_iter().map(|sum| sum.estimate().stored(dtype)).collect();
        }
    }
    let bias = sum_over_tokens(sequences, conv.channels(), dy);
    DynamicConvGradients {
        x: x.into_iter().map(|sum| sum.estimate().stored(conv.dtype())).collect(),
        logits: dlogits.into_iter().map(parameter).collect(),
        weight,
        weight_bias,
        query: dquery,
        bias: bias.into_iter().map(|sum| parameter(sum.estimate())).collect(),
    }
}

/// The gradients of the logits `[tokens, H K]`, before they are stored.
fn dlogits(
    problem: &DynamicConvBackwardProblem,
    sequences: &Sequences,
    inputs: DynamicConvInputs<'_>,
    dy: &[f64],
    logits: &[Vec<Estimate>],
) -> Vec<Estimate> {
    let conv = problem.forward().convolution();
    let (window, channels, r) = (conv.window(), conv.channels(), conv.head_channels());
    let (width, dropout) = (window.width(), dropout(conv, inputs.seed));
    let mut found = vec![Estimate::exact(0.0); conv.sequences().tokens() * problem.forward().logits()];
    for sequence in sequences.as_slice() {
        for t in 0..sequence.length {
            let (row, in_range) = (sequence.first + t, window.taps_in_range(t, sequence.length, 0));
            for h in 0..conv.heads() {
                let mut gradients = vec![Sum::default(); in_range.len()];
                for (g, j) in gradients.iter_mut().zip(in_range.clone()) {
                    let read = sequence.first + window.token(t, j) as usize;
                    for c in h * r..(h + 1) * r {
                        g.add(Estimate::exact(dy[row * channels + c]), inputs.x[read * channels + c]);
                    }
                }
                let at = h * width;
                let logits = &logits[row][at..][..width];
                let head = logits_backward(conv, dropout, (row, h), logits, in_range.clone(), &gradients);
                found[row * problem.forward().logits() + at..][..width].copy_from_slice(&head);
            }
        }
    }
    found
}
