use crate::Sequences;
use crate::problem::SpanKeyBackwardProblem;
use crate::reference::estimate::Sum;
use crate::reference::gradients::{exact, token_rows, transposed};
use crate::reference::span_key::convolved;
use crate::reference::{Estimate, SpanKeyInputs};

/// The gradients of a [`span_key`](crate::reference::span_key).
#[derive(Clone, Debug)]
pub struct SpanKeyGradients {
    /// `[tokens, C]`.
    pub x: Vec<Estimate>,
    /// `[tokens, A]`.
    pub query: Vec<Estimate>,
    /// `[C, K]`.
    pub depthwise: Vec<Estimate>,
    /// `[A, C]`.
    pub pointwise: Vec<Estimate>,
    /// `[A]`.
    pub key_bias: Vec<Estimate>,
}

/// All gradients of [`span_key`](crate::reference::span_key) from dz `[tokens, A]`, wanted or not, by the formulas of
/// [`SpanKeyBackwardProblem`].
pub fn span_key_backward(
    problem: &SpanKeyBackwardProblem,
    sequences: &Sequences,
    inputs: SpanKeyInputs<'_>,
    dz: &[f64],
) -> SpanKeyGradients {
    backward_with(problem, sequences, inputs, &exact(dz))
}

/// The same with a dz that may be off.
pub(crate) fn backward_with(
    problem: &SpanKeyBackwardProblem,
    sequences: &Sequences,
    inputs: SpanKeyInputs<'_>,
    dz: &[Estimate],
) -> SpanKeyGradients {
    let (forward, conv) = (problem.forward(), problem.forward().depthwise());
    let (window, width, rows) = (conv.window(), conv.window().width(), conv.sequences().tokens());
    let (channels, outputs) = (conv.channels(), forward.outputs());
    let SpanKeyInputs { x, query, depthwise, pointwise, key_bias, .. } = inputs;
    let zero = Estimate::exact(0.0);
    let (mut d, mut dquery, mut dk) =
        (vec![zero; rows * channels], vec![zero; rows * outputs], vec![zero; rows * outputs]);
    for (s, sequence) in sequences.as_slice().iter().enumerate() {
        for t in 0..sequence.length {
            let row = sequence.first + t;
            let of_token = convolved(forward, sequences, inputs, (s, t));
            for a in 0..outputs {
                let terms =
                    of_token.iter().copied().zip(pointwise[a * channels..][..channels].iter().copied());
                let k = Estimate::sum(key_bias.map_or(0.0, |bias| bias[a]), terms);
                let at = row * outputs + a;
                dquery[at] = Estimate::dot([(k, dz[at])]).stored(conv.dtype());
                dk[at] = dz[at] * query[at];
            }
            d[row * channels..][..channels].copy_from_slice(&of_token);
        }
    }
    let column = |numbers: &[Estimate], size: usize, at: usize| -> Vec<Estimate> {
        token_rows(sequences).map(|row| numbers[row * size + at]).collect()
    };
    let parameter = |sum: Estimate| sum.stored(problem.parameters());
    let (mut dpointwise, mut dkey_bias) = (vec![], vec![]);
    for a in 0..outputs {
        let dk = column(&dk, outputs, a);
        for c in 0..channels {
            let d = column(&d, channels, c);
            dpointwise.push(parameter(Estimate::dot(dk.iter().copied().zip(d))));
        }
        dkey_bias.push(parameter(Estimate::total(dk)));
    }
    let mut dd = vec![zero; rows * channels];
    for row in token_rows(sequences) {
        for c in 0..channels {
            let terms = (0..outputs).map(|a| (dk[row * outputs + a], pointwise[a * channels + c]));
            dd[row * channels + c] = Estimate::sum(0.0, terms);
        }
    }
    let mut ddepthwise = vec![Sum::default(); channels * width];
    for sequence in sequences.as_slice() {
        for t in 0..sequence.length {
            for j in window.taps_in_range(t, sequence.length, 0) {
                let read = sequence.first + window.token(t, j) as usize;
                for c in 0..channels {
                    let dd = dd[(sequence.first + t) * channels + c];
                    ddepthwise[c * width + j].add(dd, x[read * channels + c]);
                }
            }
        }
    }
    let filter = |c: usize| depthwise[c * width..][..width].iter().copied().map(Estimate::exact);
    let dx =
        transposed(conv, sequences, &dd, |_, c, in_range| filter(c).collect::<Vec<_>>()[in_range].to_vec());
    SpanKeyGradients {
        x: dx.into_iter().map(|sum| sum.estimate().stored(conv.dtype())).collect(),
        query: dquery,
        depthwise: ddepthwise.into_iter().map(|sum| parameter(sum.estimate())).collect(),
        pointwise: dpointwise,
        key_bias: dkey_bias,
    }
}
