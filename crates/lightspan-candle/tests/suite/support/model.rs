use candle_core::{D, Result, Tensor};
use candle_nn::{VarBuilder, layer_norm, ops};
use lightspan::Sequences;

use crate::support::to_f64;

/// A file of a model that another implementation computed: where `LIGHTSPAN_FIXTURES` says, on a machine without the sources.
pub fn fixture(folder: &str, name: &str) -> String {
    let fixtures = std::env::var("LIGHTSPAN_FIXTURES");
    let fixtures =
        fixtures.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures").to_owned());
    format!("{fixtures}/{folder}/{name}.safetensors")
}

/// A layer norm that gradients go through: candle's fast one ends them.
pub fn normalized(x: &Tensor, eps: f64, vb: VarBuilder<'_>) -> Result<Tensor> {
    let norm = layer_norm(x.dim(D::Minus1)?, eps, vb)?;
    let bias = norm.bias().expect("a layer norm has a bias");
    ops::layer_norm_slow(x, norm.weight(), bias, eps as f32)
}

/// Fails unless all numbers of tokens are those that another implementation has, to some roundoffs of f32 in each of its layers.
pub fn assert_same_model(name: &str, found: &Tensor, expected: &Tensor, sequences: &Sequences) -> Result<()> {
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let channels = found.dim(2)?;
    let (found, expected) = (to_f64(found)?, to_f64(expected)?);
    let mut largest = 0.0f64;
    for sequence in sequences.as_slice() {
        for i in sequence.first * channels..(sequence.first + sequence.length) * channels {
            let apart = (found[i] - expected[i]).abs();
            assert!(
                apart < 2e-5 * expected[i].abs().max(1.0),
                "{name}[{i}]: {} and {}",
                found[i],
                expected[i]
            );
            largest = largest.max(expected[i].abs());
        }
    }
    assert!(largest > 0.1, "{name} says nothing");
    Ok(())
}
