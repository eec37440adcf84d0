//! Layers against what they mean, step by step in f64.

mod decoder;
mod draw;
mod encoder;
mod reference;

use lightspan::{DType, Sequences, Tensor};
use proptest::test_runner::TestCaseError;

use reference::Rows;

use crate::support::Values;

/// How far an output of a layer may be off, in roundoffs of its type of the largest number of the tensor: a layer rounds some ten
/// times, and its norms make errors larger where a row varies little.
fn tolerance(dtype: DType) -> f64 {
    // Operators are held to bounds of their own; here a step that is left out or done twice is to be seen.
    match dtype {
        DType::F32 => 500.0 * dtype.unit_roundoff(),
        _ => 25.0 * dtype.unit_roundoff(),
    }
}

/// The rows of each sequence.
fn split(values: &[f64], sequences: &Sequences, channels: usize) -> Vec<Rows> {
    let row = |row: usize| values[row * channels..][..channels].to_vec();
    let rows = sequences.as_slice().iter().map(|s| (s.first..s.first + s.length).map(row).collect());
    rows.collect()
}

fn rows_of(values: &Values, sequences: &Sequences) -> Vec<Rows> {
    split(&values.data, sequences, values.shape.last().copied().unwrap_or(1))
}

/// Fails unless each token of each sequence is what is expected.
fn assert_near(expected: &[Rows], got: &Tensor, sequences: &Sequences) -> Result<(), TestCaseError> {
    let got_numbers: Vec<f64> = got.to_f32().unwrap().into_iter().map(f64::from).collect();
    let found = split(&got_numbers, sequences, got.shape().last().copied().unwrap_or(1));
    let numbers = expected.iter().flatten().flatten();
    let largest = numbers.fold(0.0f64, |largest, y| largest.max(y.abs())).max(1e-3);
    let allowed = tolerance(got.dtype()) * largest * reference::magnified();
    for (s, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(expected.len(), found.len());
        for (t, (expected, found)) in expected.iter().zip(found).enumerate() {
            for (c, (expected, found)) in expected.iter().zip(found).enumerate() {
                if (expected - found).abs() <= allowed {
                    continue;
                }
                return Err(TestCaseError::fail(format!(
                    "sequence {s}, token {t}, channel {c} of {got:?}: got {found:e}, expected {expected:e} within {allowed:e}"
                )));
            }
        }
    }
    Ok(())
}
