//! Which layouts an operator reads where they lie.

use candle_core::{Layout, Result, Tensor};

/// Elements from one token to the next in a layout `[.., sizes of a token]`, the last `token_dims` of them those of a
/// token; `None` where tokens do not lie at equal distances without overlap, or a token's numbers not side by side.
pub(crate) fn stride(layout: &Layout, token_dims: usize) -> Option<usize> {
    let (dims, strides) = (layout.dims(), layout.stride());
    let token = dims.len().checked_sub(token_dims)?;
    // Where there is one of something, or nothing at all, its stride is of no account.
    let channels = contiguous(&dims[token..], &strides[token..])?;
    if dims.contains(&0) {
        return Some(channels);
    }
    let mut outer = dims[..token].iter().zip(&strides[..token]).rev().filter(|&(&dim, _)| dim > 1).peekable();
    let Some(&(_, &stride)) = outer.peek() else { return Some(channels) };
    let mut expected = stride;
    for (&dim, &stride) in outer {
        if stride != expected {
            return None;
        }
        expected = stride.checked_mul(dim)?;
    }
    (stride >= channels).then_some(stride)
}

/// The number of elements, if they lie side by side in order.
fn contiguous(dims: &[usize], strides: &[usize]) -> Option<usize> {
    let mut expected = 1usize;
    for (&dim, &stride) in dims.iter().zip(strides).rev() {
        if dim > 1 && stride != expected {
            return None;
        }
        expected = expected.checked_mul(dim)?;
    }
    Some(expected)
}

/// Tokens that an operator can read: as they lie, or else a copy, through which gradients flow.
pub(crate) fn readable(tensor: &Tensor, token_dims: usize) -> Result<Tensor> {
    match stride(tensor.layout(), token_dims) {
        Some(_) => Ok(tensor.clone()),
        None => tensor.contiguous(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn strides_of_what_lies_at_equal_distances() -> Result<()> {
        let x = Tensor::zeros((2, 5, 12), DType::F32, &Device::Cpu)?;
        let of = |x: &Tensor| stride(x.layout(), 1);
        assert_eq!(of(&x), Some(12));
        // Half of a gated layer, and a part of the batch.
        assert_eq!(of(&x.narrow(2, 6, 6)?), Some(12));
        assert_eq!(of(&x.narrow(0, 1, 1)?), Some(12));
        // A part of each sequence: the sequences are farther apart than its tokens say, unless there is one.
        assert_eq!(of(&x.narrow(1, 1, 3)?), None);
        assert_eq!(of(&x.narrow(1, 1, 3)?.narrow(0, 1, 1)?), Some(12));
        assert_eq!(of(&x.narrow(1, 1, 1)?), Some(60));
        assert_eq!(of(&x.narrow(1, 1, 1)?.narrow(0, 0, 1)?), Some(12));
        // Channels that do not lie side by side; tokens that overlap.
        assert_eq!(of(&x.transpose(1, 2)?), None);
        assert_eq!(of(&x.narrow(1, 0, 1)?.broadcast_as((2, 5, 12))?.narrow(1, 0, 3)?), None);
        assert_eq!(of(&Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu)?.broadcast_as((2, 5, 12))?), None);
        // One channel: every second token.
        assert_eq!(of(&x.narrow(2, 3, 1)?), Some(12));
        assert_eq!(of(&x.t()?.narrow(1, 4, 1)?), None);
        Ok(())
    }

    #[test]
    fn heads_and_taps_of_a_token_lie_together() -> Result<()> {
        let logits = Tensor::zeros((2, 5, 4, 3), DType::F32, &Device::Cpu)?;
        assert_eq!(stride(logits.layout(), 2), Some(12));
        assert_eq!(stride(logits.narrow(2, 1, 2)?.layout(), 2), Some(12));
        assert_eq!(stride(logits.narrow(3, 1, 2)?.layout(), 2), None);
        assert_eq!(stride(logits.layout(), 5), None);
        Ok(())
    }
}
