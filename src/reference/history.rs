use crate::Sequences;
use crate::problem::HistoryProblem;

/// next\[s, i\] = (history\[s\] followed by the tokens of sequence s)\[length + i\], i < (K - 1) r, for every sequence:
/// `[sequences, (K - 1) r, C]`. Numbers are only moved, so the result is exact.
pub fn history(problem: &HistoryProblem, sequences: &Sequences, x: &[f64], history: &[f64]) -> Vec<f64> {
    let [_, reach, channels] = problem.convolution().history_shape();
    let mut next = Vec::with_capacity(history.len());
    for (s, sequence) in sequences.as_slice().iter().enumerate() {
        for i in sequence.length..sequence.length + reach {
            let row = if i < reach {
                &history[(s * reach + i) * channels..][..channels]
            } else {
                &x[(sequence.first + i - reach) * channels..][..channels]
            };
            next.extend_from_slice(row);
        }
    }
    next
}
