use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder, ops};
use lightspan_candle::Sequences;

use crate::model::linear;

/// Self-attention in heads (Vaswani et al. 2017, section 3.2.2), of candle's own operations: what convolutions are held against.
#[derive(Debug)]
pub struct SelfAttention {
    input: Linear,
    output: Option<Linear>,
    heads: usize,
    causal: bool,
}

impl SelfAttention {
    /// From and to tokens of so many channels; a `causal` one sees nothing that comes later.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(channels: usize, heads: usize, causal: bool, vb: VarBuilder<'_>) -> Result<Self> {
        let output = Some(linear(channels, channels, vb.pp("output"))?);
        Ok(SelfAttention { output, ..Self::inner(channels, channels, heads, causal, vb)? })
    }

    /// Heads of `inner` channels in all, with no layer behind them.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn inner(
        channels: usize,
        inner: usize,
        heads: usize,
        causal: bool,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(SelfAttention { input: linear(channels, 3 * inner, vb.pp("input"))?, output: None, heads, causal })
    }

    /// y `[batch, time, C]` of x as y, whose padding nobody sees.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn forward(&self, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        self.attend(&self.projected(x)?, sequences)
    }

    /// Queries, keys and values side by side, `[batch, time, 3 inner]`.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn projected(&self, x: &Tensor) -> Result<Tensor> {
        self.input.forward(x)
    }

    /// y of what was projected.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn attend(&self, projected: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let (batch, time, channels) = projected.dims3()?;
        let inner = channels / 3;
        let each = inner / self.heads;
        let part = |i: usize| -> Result<Tensor> {
            let part = projected.narrow(D::Minus1, i * inner, inner)?;
            part.reshape((batch, time, self.heads, each))?.transpose(1, 2)?.contiguous()
        };
        let scores = part(0)?.matmul(&part(1)?.t()?.contiguous()?)?.affine((each as f64).powf(-0.5), 0.0)?;
        let weights =
            ops::softmax(&scores.broadcast_add(&self.hidden(time, sequences, projected)?)?, D::Minus1)?;
        let y = weights.matmul(&part(2)?)?.transpose(1, 2)?.reshape((batch, time, inner))?;
        self.output.as_ref().map_or(Ok(y.clone()), |output| output.forward(&y))
    }

    /// What is added to scores `[batch, heads, time, time]`: so little that nothing remains of what is hidden. In padding each query
    /// sees itself, so that there is something to sum.
    fn hidden(&self, time: usize, sequences: &Sequences, like: &Tensor) -> Result<Tensor> {
        let batch = sequences.as_slice().len();
        let mut hidden = vec![0f32; batch * time * time];
        for (sequence, hidden) in sequences.as_slice().iter().zip(hidden.chunks_exact_mut(time * time)) {
            for (query, hidden) in hidden.chunks_exact_mut(time).enumerate() {
                for (key, hidden) in hidden.iter_mut().enumerate() {
                    let seen = key < sequence.length && !(self.causal && key > query);
                    if !seen && key != query {
                        *hidden = f32::MIN / 2.0;
                    }
                }
            }
        }
        Tensor::from_vec(hidden, (batch, 1, time, time), like.device())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::training::Variables;

    /// What tokens see, by what changes when one of them does.
    fn seen(causal: bool, changed: usize, sequences: &Sequences) -> Vec<bool> {
        let variables = Variables::new(5, &Device::Cpu);
        let attention = SelfAttention::new(8, 2, causal, variables.builder()).unwrap();
        let run = |changed: Option<usize>| -> Vec<Vec<f32>> {
            let number = |i: usize| (i as f32 * 0.7).sin() + if changed == Some(i / 8) { 1.0 } else { 0.0 };
            let x = Tensor::from_vec((0..5 * 8).map(number).collect(), (1, 5, 8), &Device::Cpu).unwrap();
            attention.forward(&x, sequences).unwrap().squeeze(0).unwrap().to_vec2().unwrap()
        };
        run(None).into_iter().zip(run(Some(changed))).map(|(before, after)| before != after).collect()
    }

    #[test]
    fn tokens_see_what_they_may() {
        let (whole, padded) = (Sequences::batch(1, 5).unwrap(), Sequences::padded(5, &[3]).unwrap());
        assert_eq!(seen(false, 2, &whole), [true; 5]);
        assert_eq!(seen(true, 2, &whole), [false, false, true, true, true]);
        assert_eq!(seen(false, 3, &padded)[..3], [false; 3]);
        assert_eq!(seen(false, 2, &padded)[..3], [true; 3]);
    }
}
