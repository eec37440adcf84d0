//! What stands in padding is to change nothing: no output, and no gradient. The convolutions never read it, but linear layers
//! and normalisations are candle's own, over all rows, and their gradients sum over rows: zero times NaN is NaN.

use candle_core::{Result, Tensor};
use lightspan::Sequences;

use crate::check::Named;
use crate::error::carry;

/// The tokens x of a layer with zeros in their padding; an error unless they are those of the sequences.
pub(crate) fn cleared(layer: &'static str, x: &Tensor, sequences: Option<&Sequences>) -> Result<Tensor> {
    let Some(sequences) = sequences else { return Ok(x.clone()) };
    Named::new(layer, "x", x)?.tokens(Some(sequences)).map_err(carry(layer))?;
    zeroed(x, sequences)
}

/// The tokens `[.., C]` of sequences with zeros in their padding, to which no gradient flows. Where there is no padding nothing
/// is copied.
pub(crate) fn zeroed(tokens: &Tensor, sequences: &Sequences) -> Result<Tensor> {
    if sequences.as_slice().iter().all(|sequence| sequence.padding == 0) {
        return Ok(tokens.clone());
    }
    let mut rows = tokens.dims().to_vec();
    if let Some(channels) = rows.last_mut() {
        *channels = 1;
    }
    let mask = mask(sequences, tokens)?.reshape(rows)?.broadcast_as(tokens.shape())?;
    let zero = Tensor::zeros((), tokens.dtype(), tokens.device())?.broadcast_as(tokens.shape())?;
    mask.where_cond(tokens, &zero)
}

/// For each row of tokens 1 where it belongs to a sequence, and 0 where it is padding.
pub(crate) fn mask(sequences: &Sequences, tokens: &Tensor) -> Result<Tensor> {
    let mut mask = vec![0u8; sequences.shape().tokens()];
    for sequence in sequences.as_slice() {
        mask[sequence.first..sequence.first + sequence.length].fill(1);
    }
    let count = mask.len();
    Tensor::from_vec(mask, count, tokens.device())
}
