//! Whether an encoder computed what its layers mean.

use lightspan::models::Seq2Seq;
use lightspan::nn::Embeddings;
use lightspan::{DType, Device, Result, Sequences, Tensor, Tokens};

// The layers in f64 and plain loops, as the tests have them.
#[allow(dead_code)]
#[path = "../../../tests/suite/nn/reference.rs"]
mod reference;

/// Tokens that are looked at, at most: plain loops take a second for some tens of millions of parameters and 32 tokens.
const TOKENS: usize = 32;

/// How far off an output may be, of the largest of them.
///
/// Where operators are held to a bound that follows from their numbers, there is none for a whole encoder: what one layer rounds
/// goes through all layers after it. What is here is four times the most that the encoders of all sizes were seen to have.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 5e-6,
        DType::F16 => 8e-3,
        DType::BF16 => 6e-2,
        other => unreachable!("tensors have no type {other}"),
    }
}

/// The largest error of the encoder on the first tokens of a text, as a fraction of what is allowed: at most 1 if it is right,
/// infinite where a number that should be finite is not.
pub(crate) fn largest_error(model: &Seq2Seq, ids: &[u32], device: &Device) -> Result<f64> {
    let ids = &ids[..ids.len().min(TOKENS)];
    let tokens = Tokens::from_slice(ids, &[1, ids.len()], device)?;
    error_of(model, ids, &model.encode(&tokens, &Sequences::batch(1, ids.len())?)?)
}

/// The same of an output that is there.
pub(super) fn error_of(model: &Seq2Seq, ids: &[u32], y: &Tensor) -> Result<f64> {
    let mut x = embed(&model.source, ids)?;
    for layer in &model.encoder.layers {
        x = reference::encoder_layer(layer, &x, ids.len());
    }
    if let Some(norm) = &model.encoder.norm {
        x = reference::norm(norm, &x);
    }
    Ok(error(&x.concat(), &y.to_f32()?) / tolerance(y.dtype()))
}

/// Rows of the tables, added in f64.
fn embed(embeddings: &Embeddings, ids: &[u32]) -> Result<reference::Rows> {
    let table = embeddings.table.to_f32()?;
    let positions = embeddings.positions.as_ref().map(|table| table.to_f32()).transpose()?;
    let channels = table.len() / embeddings.table.shape()[0];
    let row = |(t, &id): (usize, &u32)| {
        let at = |c: usize| (embeddings.first_position + t) * channels + c;
        let position = |c: usize| positions.as_ref().map_or(0.0, |table| f64::from(table[at(c)]));
        let scaled = |c: usize| f64::from(embeddings.scale) * f64::from(table[id as usize * channels + c]);
        (0..channels).map(|c| scaled(c) + position(c)).collect()
    };
    Ok(ids.iter().enumerate().map(row).collect())
}

/// The largest difference, of the largest number.
fn error(expected: &[f64], got: &[f32]) -> f64 {
    let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let differences = expected.iter().zip(got).map(|(expected, &got)| (f64::from(got) - expected).abs());
    let worst = differences.fold(0.0, |worst: f64, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) });
    if expected.len() == got.len() { worst / largest } else { f64::INFINITY }
}

/// Whether all numbers are: outputs that were timed.
pub(crate) fn is_finite(y: &Tensor) -> Result<bool> {
    Ok(y.to_f32()?.iter().all(|y| y.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_of_the_largest_number() {
        assert_eq!(error(&[1.0, -4.0], &[1.5, -4.0]), 0.125);
        assert_eq!(error(&[1.0, -4.0], &[f32::NAN, -4.0]), f64::INFINITY);
        assert_eq!(error(&[1.0, -4.0], &[1.0, f32::INFINITY]), f64::INFINITY);
        assert_eq!(error(&[1.0, -4.0], &[1.0]), f64::INFINITY);
    }
}
