//! Problems: one checked description for each operator.
//!
//! A problem says everything about a call but its numbers: sizes, window, normalisation, types, the shape of its
//! sequences. It can only be made by constructors that return a typed error for what makes no sense, so nothing that
//! takes one checks it again. Problems are small, plain and hashable: they are the keys of every cache.
//!
//! Each also says what the operator costs at least: [`flops`](LightConvProblem::flops) counts a multiply-add as two,
//! [`bytes`](LightConvProblem::bytes) counts every input read once and every output written once.

mod append;
mod attention;
mod convolution;
mod dynamic_conv;
mod embedding;
mod history;
mod light_conv;
mod linear;
mod norm;
mod span_conv;
mod span_key;
mod top_k;

pub use append::AppendProblem;
pub use attention::{
    Alignment, AttentionBackwardProblem, AttentionKind, AttentionProblem, AttentionWanted, Mask,
};
pub use convolution::Convolution;
pub use dynamic_conv::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, Taps};
pub use embedding::EmbeddingProblem;
pub use history::HistoryProblem;
pub use light_conv::{LightConvBackwardProblem, LightConvProblem, LightConvWanted};
pub use linear::{Activation, LinearBackwardProblem, LinearProblem, LinearWanted};
pub use norm::{NormKind, NormProblem, NormResidual};
pub use span_conv::{SpanConvBackwardProblem, SpanConvProblem, SpanConvWanted};
pub use span_key::{SpanKeyBackwardProblem, SpanKeyProblem, SpanKeyWanted};
pub use top_k::TopKProblem;

use crate::{DType, Error, Result};

/// An error for a size of zero.
fn nonzero(what: &'static str, size: usize) -> Result<()> {
    if size == 0 { Err(Error::ZeroSize { what }) } else { Ok(()) }
}

/// An error where a tensor of these sizes could not be addressed in any type.
fn addressable(what: &'static str, sizes: &[usize]) -> Result<()> {
    sizes
        .iter()
        .try_fold(size_of::<f64>(), |bytes, &size| bytes.checked_mul(size))
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .map(|_| ())
        .ok_or_else(|| Error::TooLarge { what, sizes: sizes.to_vec() })
}

/// An error unless `got` is `dtype` or f32, the two types that go with tokens of `dtype`.
pub(crate) fn same_or_f32(tensor: &'static str, dtype: DType, got: DType) -> Result<()> {
    if got == dtype || got == DType::F32 {
        return Ok(());
    }
    let mut expected = vec![dtype, DType::F32];
    expected.dedup();
    Err(Error::DType { tensor, expected, got })
}

/// The product of sizes; the largest number there is where it is larger, in problems whose work no machine would finish.
fn count(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64))
}
