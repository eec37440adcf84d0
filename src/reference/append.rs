use crate::Sequences;
use crate::problem::AppendProblem;

/// cache\[s, past + i\] = x\[s, i\], i < length, for every sequence; all else of the cache `[sequences, room, C]` stays as
/// it is. Numbers are only moved, so the result is exact.
pub fn append(problem: &AppendProblem, sequences: &Sequences, x: &[f64], cache: &mut [f64]) {
    let [_, room, channels] = problem.cache_shape();
    for (s, sequence) in sequences.as_slice().iter().enumerate() {
        for i in 0..sequence.length {
            let row = &x[(sequence.first + i) * channels..][..channels];
            cache[(s * room + sequence.past + i) * channels..][..channels].copy_from_slice(row);
        }
    }
}
