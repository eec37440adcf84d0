//! Whether an operator computed what it means.

use std::collections::BTreeSet;

use lightspan::reference::{
    AttentionInputs, DynamicConvInputs, Estimate, LightConvInputs, SpanConvInputs, SpanKeyInputs, TapInputs,
    attention, dynamic_conv, light_conv, span_conv,
};
use lightspan::{Result, Tensor};

use super::operator::{Problem, Track};

/// The largest error of y in a sample of its tokens, as a fraction of what the reference allows there: at most 1 if y
/// is right, infinite where a number that should be finite is not.
pub(crate) fn largest_error(problem: &Problem, track: &Track<'_>, y: &Tensor) -> Result<f64> {
    let y = wide(y)?;
    let channels = track.setting.channels;
    let token = reference(problem, track)?;
    let mut largest: f64 = 0.0;
    for (sequence, t) in sample(track.setting.batch, track.length) {
        let got = &y[(sequence * track.length + t) * channels..][..channels];
        for (expected, &got) in token((sequence, t)).iter().zip(got) {
            largest = largest.max(error(*expected, got));
        }
    }
    Ok(largest)
}

/// How far `got` is off, as a fraction of the bound.
fn error(expected: Estimate, got: f64) -> f64 {
    let fraction = (got - expected.value).abs() / expected.bound;
    if fraction.is_nan() { f64::INFINITY } else { fraction }
}

/// The reference outputs of one token (sequence, t).
type Token<'a> = Box<dyn Fn((usize, usize)) -> Vec<Estimate> + 'a>;

/// What the reference says, from exactly the numbers that the tensors hold.
fn reference<'a>(problem: &'a Problem, track: &'a Track<'_>) -> Result<Token<'a>> {
    let Track { parameters, sequences, .. } = track;
    Ok(match problem {
        Problem::LightConv(problem) => {
            let (x, weight) = (wide(&track.x)?, wide(&parameters.light)?);
            Box::new(move |at| {
                let inputs =
                    LightConvInputs { x: &x, weight: &weight, bias: None, history: None, seed: None };
                light_conv(problem, sequences, inputs, at)
            })
        }
        Problem::DynamicConv(problem) => {
            let (x, weight) = (wide(&track.x)?, wide(&parameters.generator)?);
            Box::new(move |at| {
                let taps = TapInputs::Generated { weight: &weight, weight_bias: None, query: None };
                let inputs = DynamicConvInputs { x: &x, taps, bias: None, history: None, seed: None };
                dynamic_conv(problem, sequences, inputs, at)
            })
        }
        Problem::SpanConv(problem) => {
            let (x, query, value) = (wide(&track.x)?, wide(&track.q)?, wide(&track.v)?);
            let (depthwise, pointwise) = (wide(&parameters.depthwise)?, wide(&parameters.pointwise)?);
            let weight = wide(&parameters.generator)?;
            Box::new(move |at| {
                let key = SpanKeyInputs {
                    x: &x,
                    query: &query,
                    depthwise: &depthwise,
                    pointwise: &pointwise,
                    key_bias: None,
                    history: None,
                };
                let inputs = SpanConvInputs {
                    key,
                    value: &value,
                    weight: &weight,
                    weight_bias: None,
                    bias: None,
                    value_history: None,
                    seed: None,
                };
                span_conv(problem, sequences, inputs, at)
            })
        }
        Problem::Attention(problem) => {
            let (q, k, v) = (wide(&track.q)?, wide(&track.k)?, wide(&track.v)?);
            Box::new(move |at| {
                let inputs = AttentionInputs { q: &q, k: &k, v: &v };
                attention(problem, sequences, sequences, inputs, at)
            })
        }
    })
}

fn wide(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_f32()?.into_iter().map(f64::from).collect())
}

/// Tokens (sequence, t) of the first and the last sequence: both edges, next to them, and between. Few, as the
/// reference of attention reads every key.
fn sample(sequences: usize, length: usize) -> Vec<(usize, usize)> {
    let last = length - 1;
    let tokens: BTreeSet<usize> = [0, 1, length / 3, length / 2, last.saturating_sub(1), last]
        .into_iter()
        .filter(|&t| t < length)
        .collect();
    let sequences = BTreeSet::from([0, sequences - 1]);
    sequences.into_iter().flat_map(|i| tokens.iter().map(move |&t| (i, t))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_hold_both_edges() {
        assert_eq!(sample(1, 1), [(0, 0)]);
        assert_eq!(sample(2, 2), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(sample(1, 90), [(0, 0), (0, 1), (0, 30), (0, 45), (0, 88), (0, 89)]);
    }

    #[test]
    fn what_is_not_a_number_is_infinitely_wrong() {
        let expected = Estimate { value: 1.0, bound: 0.5 };
        assert_eq!(error(expected, 1.25), 0.5);
        assert_eq!(error(expected, f64::NAN), f64::INFINITY);
        assert_eq!(error(expected, f64::INFINITY), f64::INFINITY);
    }
}
