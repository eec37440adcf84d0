use candle_core::{D, DType, Error as CandleError, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder, ops};
use lightspan::{Dims, Error, Layout, Sequences, bf16, f16};

use crate::error::carry;
use crate::nn::config::check_heads;
use crate::nn::{init, padding};

/// Attention of a decoder's tokens to an encoder's, of candle's own operations: `q_proj`, `k_proj`, `v_proj` and `out_proj`.
#[derive(Debug)]
pub struct CrossAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

const NAME: &str = "cross_attention";

/// Attention of `channels` in `heads` to a memory of as many channels.
///
/// # Errors
///
/// For heads that do not divide the channels, and parameters that are missing or of another shape.
pub fn cross_attention(channels: usize, heads: usize, vb: VarBuilder<'_>) -> Result<CrossAttention> {
    check_heads(NAME, channels, heads)?;
    // The gain makes of Xavier's distribution that of q, k and v as one layer, with three times the outputs.
    let (gain, bias) = (0.5f64.sqrt(), init::torch_linear(channels));
    let projection = |name| init::linear(channels, channels, gain, bias, vb.pp(name));
    Ok(CrossAttention {
        q_proj: projection("q_proj")?,
        k_proj: projection("k_proj")?,
        v_proj: projection("v_proj")?,
        out_proj: init::linear(channels, channels, 1.0, init::ZERO, vb.pp("out_proj"))?,
        heads,
    })
}

impl CrossAttention {
    /// y as x `[batch, time, C]`, of a memory `[batch, its time, C]`; where its `sequences` are given, a padded batch, no token
    /// sees its padding, whatever stands there, and no gradient comes from it. A token that has nothing to see gets the bias of
    /// `out_proj`.
    ///
    /// x has no sequences here: what stands in padding of its own comes to no other token of y, but to the gradients of the
    /// parameters, to which all tokens of x add. It is to be finite, as [`DecoderLayer`](crate::nn::DecoderLayer) makes it.
    ///
    /// # Errors
    ///
    /// For shapes that do not fit, and for packed sequences: their tensors have no batch.
    pub fn forward_with(&self, x: &Tensor, memory: &Tensor, sequences: Option<&Sequences>) -> Result<Tensor> {
        let (batch, time, channels) = x.dims3()?;
        let heads = |x: &Tensor| -> Result<Tensor> {
            let (batch, time, channels) = x.dims3()?;
            x.reshape((batch, time, self.heads, channels / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let padded = sequences.filter(|s| s.as_slice().iter().any(|sequence| sequence.padding > 0));
        let memory = match sequences {
            None => memory.clone(),
            Some(sequences) => {
                fits(memory, sequences)?;
                padding::zeroed(memory, sequences)?
            }
        };
        let q = (self.q_proj.forward(x)? * ((channels / self.heads) as f64).powf(-0.5))?;
        let (q, k) = (heads(&q)?, heads(&self.k_proj.forward(&memory)?)?);
        let v = heads(&self.v_proj.forward(&memory)?)?;
        let scores = q.matmul(&k.transpose(2, 3)?.contiguous()?)?;
        let weights = match padded {
            None => ops::softmax(&scores, D::Minus1)?,
            Some(sequences) => {
                let (batch, time, _) = memory.dims3()?;
                let seen = padding::mask(sequences, &memory)?.reshape((batch, 1, 1, time))?;
                let seen = seen.broadcast_as(scores.shape())?;
                // What is not seen counts as the smallest number there is, and then as nothing.
                let unseen = smallest(&scores)?.broadcast_as(scores.shape())?;
                let weights = ops::softmax(&seen.where_cond(&scores, &unseen)?, D::Minus1)?;
                seen.where_cond(&weights, &weights.zeros_like()?)?
            }
        };
        let y = weights.matmul(&v)?.transpose(1, 2)?.reshape((batch, time, channels))?;
        self.out_proj.forward(&y)
    }
}

/// The smallest number of the type of a tensor.
fn smallest(like: &Tensor) -> Result<Tensor> {
    let number = match like.dtype() {
        DType::F16 => f64::from(f16::MIN),
        DType::BF16 => f64::from(bf16::MIN),
        DType::F32 => f64::from(f32::MIN),
        DType::F64 => f64::MIN,
        other => return Err(CandleError::UnsupportedDTypeForOp(other, NAME).bt()),
    };
    Tensor::new(number, like.device())?.to_dtype(like.dtype())
}

/// An error unless a memory is a batch of these sequences.
fn fits(memory: &Tensor, sequences: &Sequences) -> Result<()> {
    let (_, _, channels) = memory.dims3()?;
    let fits = sequences.shape().tensor(channels) == memory.dims();
    if !fits || sequences.shape().layout() == Layout::Packed {
        let expected = Dims::from([Some(sequences.shape().sequences()), None, Some(channels)]);
        let got = Dims::from(memory.dims());
        return Err(carry(NAME)(Error::Shape { tensor: "memory", expected, got }));
    }
    Ok(())
}
