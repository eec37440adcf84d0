//! The numbers that layers begin with: those of fairseq's models.

use candle_core::Result;
use candle_nn::{Init, Linear, VarBuilder};

pub(crate) const ZERO: Init = Init::Const(0.0);

/// Uniform between -`limit` and `limit`.
pub(crate) fn uniform(limit: f64) -> Init {
    Init::Uniform { lo: -limit, up: limit }
}

/// Xavier's uniform distribution (Glorot and Bengio 2010), of a weight with so many numbers into an output and out of an input.
pub(crate) fn xavier(inputs: usize, outputs: usize, gain: f64) -> Init {
    uniform(gain * (6.0 / (inputs + outputs) as f64).sqrt())
}

/// What fairseq begins a linear layer with that has no numbers of its own: PyTorch's.
pub(crate) fn torch_linear(inputs: usize) -> Init {
    uniform(1.0 / (inputs as f64).sqrt())
}

/// A linear layer that begins with Xavier's distribution and this bias.
pub(crate) fn linear(
    inputs: usize,
    outputs: usize,
    gain: f64,
    bias: Init,
    vb: VarBuilder<'_>,
) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs), "weight", xavier(inputs, outputs, gain))?;
    Ok(Linear::new(weight, Some(vb.get_with_hints(outputs, "bias", bias)?)))
}
