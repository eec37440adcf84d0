mod backward;

pub use backward::{LinearBackwardProblem, LinearWanted};

use crate::problem::{addressable, count, nonzero, same_or_f32};
use crate::{DType, Result};

/// What is done to each output of a linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// max(0, y); NaN stays NaN.
    Relu,
}

/// A linear layer: y = act(x W^T + bias), x `[rows, in]`, W `[out, in]`, bias `[out]`, y `[rows, out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearProblem {
    rows: usize,
    inputs: usize,
    outputs: usize,
    activation: Activation,
    dtype: DType,
    parameters: DType,
    bias: bool,
}

impl LinearProblem {
    /// A product of `rows` rows (any number, 0 included), no bias, no activation, everything of type `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`](crate::Error::ZeroSize) for no inputs or outputs,
    /// [`Error::TooLarge`](crate::Error::TooLarge) where a tensor could not be addressed.
    pub fn new(rows: usize, inputs: usize, outputs: usize, dtype: DType) -> Result<Self> {
        nonzero("linear inputs", inputs)?;
        nonzero("linear outputs", outputs)?;
        addressable("x", &[rows, inputs])?;
        addressable("y", &[rows, outputs])?;
        addressable("weight", &[outputs, inputs])?;
        let activation = Activation::default();
        Ok(LinearProblem { rows, inputs, outputs, activation, dtype, parameters: dtype, bias: false })
    }

    /// With an activation.
    pub const fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// With or without a bias `[out]`.
    pub const fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With weight and bias of type `dtype`: that of x, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::DType`](crate::Error::DType) for any other.
    pub fn with_parameters(mut self, dtype: DType) -> Result<Self> {
        same_or_f32("parameters", self.dtype, dtype)?;
        self.parameters = dtype;
        Ok(self)
    }

    /// Rows of x and y.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of x and W.
    pub const fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns of y, rows of W.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// What is done to each output.
    pub const fn activation(&self) -> Activation {
        self.activation
    }

    /// Type of x and y.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Type of weight and bias.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether a bias `[out]` is added.
    pub const fn has_bias(&self) -> bool {
        self.bias
    }

    /// Operations: 2 in out a row.
    pub fn flops(&self) -> u64 {
        count(&[2, self.rows, self.inputs, self.outputs])
    }

    /// Bytes that must move: x, y, weight and bias, once each.
    pub fn bytes(&self) -> u64 {
        let bias = if self.bias { self.outputs as u64 } else { 0 };
        let tokens = count(&[self.rows, self.inputs]) + count(&[self.rows, self.outputs]);
        let parameters = count(&[self.inputs, self.outputs]) + bias;
        tokens * self.dtype.size() as u64 + parameters * self.parameters.size() as u64
    }
}
