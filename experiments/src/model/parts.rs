use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, Linear, VarBuilder, ops};

/// A linear layer that begins with Xavier's distribution (Glorot and Bengio 2010) and a bias of zero.
///
/// # Errors
///
/// As candle has them.
pub fn linear(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let limit = (6.0 / (inputs + outputs) as f64).sqrt();
    let weight = vb.get_with_hints((outputs, inputs), "weight", Init::Uniform { lo: -limit, up: limit })?;
    Ok(Linear::new(weight, Some(vb.get_with_hints(outputs, "bias", Init::Const(0.0))?)))
}

/// Layer norm; candle's own has a path without gradients.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    /// Of so many channels.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Norm { weight: get("weight", 1.0)?, bias: get("bias", 0.0)? })
    }
}

impl Module for Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

/// Tokens and their positions, both learned, and the logits of tokens by the same table.
#[derive(Debug)]
pub struct Embedding {
    table: Tensor,
    positions: Tensor,
}

impl Embedding {
    /// Of so many tokens at so many positions.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(tokens: usize, positions: usize, channels: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: (channels as f64).powf(-0.5) };
        Ok(Embedding {
            table: vb.get_with_hints((tokens, channels), "embedding.weight", init)?,
            positions: vb.get_with_hints((positions, channels), "positions.weight", init)?,
        })
    }

    /// `[batch, time, C]` of ids `[batch, time]`.
    ///
    /// # Errors
    ///
    /// As candle has them: for ids that are none, and more time than there are positions.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, time) = ids.dims2()?;
        let channels = self.table.dim(1)?;
        let x = self.table.index_select(&ids.flatten_all()?, 0)?.reshape((batch, time, channels))?;
        x.broadcast_add(&self.positions.narrow(0, 0, time)?)?.affine((channels as f64).sqrt(), 0.0)
    }

    /// Logits `[rows, tokens]` of `[rows, C]`.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.table.t()?)
    }
}

/// The mean cross entropy of logits that are to be above zero where `expected` is 1; finite for any logits that are.
///
/// # Errors
///
/// As candle has them.
pub fn binary_cross_entropy(logits: &Tensor, expected: &Tensor) -> Result<Tensor> {
    // max(x, 0) - x z + ln(1 + exp(-|x|))
    let tail = logits.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?;
    ((logits.relu()? - (logits * expected)?)? + tail)?.mean_all()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn binary_cross_entropy_is_what_it_is() {
        let logits = Var::new(&[0.3f32, -2.0, 100.0, -100.0], &Device::Cpu).unwrap();
        let expected = Tensor::new(&[1f32, 0.0, 0.0, 1.0], &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(&logits, &expected).unwrap();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let of_first = -sigmoid(0.3).ln() - (1.0 - sigmoid(-2.0)).ln();
        let exact = (of_first + 200.0) / 4.0;
        assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - exact).abs() < 1e-4);
        let gradient = loss.backward().unwrap().get(&logits).unwrap().to_vec1::<f32>().unwrap();
        let exact =
            [(0.3, 1.0), (-2.0, 0.0), (100.0, 0.0), (-100.0, 1.0)].map(|(x, z)| (sigmoid(x) - z) / 4.0);
        for (got, exact) in gradient.into_iter().zip(exact) {
            assert!((f64::from(got) - exact).abs() < 1e-6, "{got} and not {exact}");
        }
    }
}
