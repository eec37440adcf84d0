use crate::nn::{EncoderLayer, Norm};
use crate::ops::Residual;
use crate::{Result, Sequences, Tensor};

/// Layers one after another, and a norm at the end where norms stand before their layers.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// In the order in which they are met.
    pub layers: Vec<EncoderLayer>,
    /// Of what the last layer gives.
    pub norm: Option<Norm>,
}

impl Encoder {
    /// y as x; see [`EncoderLayer::forward`].
    ///
    /// # Errors
    ///
    /// As the operators of the layers.
    pub fn forward(&self, x: Tensor, sequences: &Sequences, keys: &Sequences) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(&x, sequences, keys)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(&x, Residual::None),
            None => Ok(x),
        }
    }
}
