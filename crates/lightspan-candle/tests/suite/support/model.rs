use std::collections::BTreeMap;

use candle_core::{D, DType, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap, layer_norm, ops};
use lightspan::Sequences;

use crate::support::{Numbers, to_f64};

/// A file of a model that another implementation computed: where `LIGHTSPAN_FIXTURES` says, on a machine without the sources.
pub fn fixture(folder: &str, name: &str) -> String {
    let fixtures = std::env::var("LIGHTSPAN_FIXTURES");
    let fixtures =
        fixtures.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures").to_owned());
    format!("{fixtures}/{folder}/{name}.safetensors")
}

/// The parameters of what has been built, in the order of their names.
pub fn parameters(variables: &VarMap) -> BTreeMap<String, Var> {
    variables.data().lock().unwrap().clone().into_iter().collect()
}

/// Parameters with numbers of our own, the same in each run and each type, in the place of what they began with.
pub fn settled(variables: &VarMap, dtype: DType) -> Result<BTreeMap<String, Var>> {
    let mut numbers = Numbers::new(23);
    let parameters = parameters(variables);
    for var in parameters.values() {
        let drawn = numbers.draw(var.dims(), lightspan::DType::F32, 0.5).tensor()?;
        // What bf16 and f16 both hold.
        var.set(&drawn.to_dtype(DType::BF16)?.to_dtype(DType::F16)?.to_dtype(dtype)?)?;
    }
    Ok(parameters)
}

/// A layer norm that gradients go through: candle's fast one ends them.
pub fn normalized(x: &Tensor, eps: f64, vb: VarBuilder<'_>) -> Result<Tensor> {
    let norm = layer_norm(x.dim(D::Minus1)?, eps, vb)?;
    let bias = norm.bias().expect("a layer norm has a bias");
    ops::layer_norm_slow(x, norm.weight(), bias, eps as f32)
}

/// Fails unless all numbers of tokens are those that another implementation has, to some roundoffs of f32 in each of its layers.
/// Roundoffs are in the measure of the largest number of a token: what is smaller has cancelled.
pub fn assert_same_model(name: &str, found: &Tensor, expected: &Tensor, sequences: &Sequences) -> Result<()> {
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let channels = found.dim(2)?;
    let (found, expected) = (to_f64(found)?, to_f64(expected)?);
    for sequence in sequences.as_slice() {
        for token in sequence.first..sequence.first + sequence.length {
            let of_token = token * channels..(token + 1) * channels;
            let largest = expected[of_token.clone()].iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            assert!(largest > 0.1, "{name} says nothing of token {token}");
            for i in of_token {
                let (found, expected) = (found[i], expected[i]);
                let near = (found - expected).abs() < 1e-5 * largest;
                assert!(near, "{name}[{i}]: {found} and {expected} of at most {largest}");
            }
        }
    }
    Ok(())
}
