mod backward;

pub use backward::{LinearBackwardProblem, LinearWanted};

use crate::problem::{addressable, count, nonzero, same_or_f32};
use crate::{DType, Error, Result};

/// What is done to each output of a linear layer, before a residual is added. NaN stays NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// max(0, a).
    Relu,
    /// a Phi(a), with Phi the distribution function of the normal distribution, (1 + erf(a / sqrt 2)) / 2 (Hendrycks and
    /// Gimpel 2016). Minus infinity becomes zero.
    Gelu,
    /// The form of the same paper without erf: a (1 + tanh(sqrt(2 / pi) (a + 0.044715 a^3))) / 2. Minus infinity becomes zero.
    GeluTanh,
    /// A gated linear unit (Dauphin et al. 2017): W has the rows of two layers, and y = a sigmoid(b), a the outputs of the
    /// first half of them and b those of the second.
    Glu,
}

impl Activation {
    /// Every one there is.
    pub const ALL: [Self; 5] =
        [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Glu];

    /// Sums that an output is made of, each with a row of W: two for a GLU.
    pub(crate) const fn halves(self) -> usize {
        match self {
            Activation::Glu => 2,
            _ => 1,
        }
    }

    /// Its name, for messages.
    const fn name(self) -> &'static str {
        match self {
            Activation::Identity => "no activation",
            Activation::Relu => "a ReLU",
            Activation::Gelu => "a GELU",
            Activation::GeluTanh => "a GELU by tanh",
            Activation::Glu => "a GLU",
        }
    }
}

/// A linear layer: y = residual + act(x W^T + bias), x `[rows, in]`, W `[out, in]`, bias `[out]`, y and residual
/// `[rows, out]`. All is formed in f32 and rounded once.
///
/// - With a GLU, W is `[2 out, in]` and bias `[2 out]`: y = residual + a sigmoid(b), a = x W\[..out\]^T + bias\[..out\] and
///   b = x W\[out..\]^T + bias\[out..\].
/// - With g groups (as a grouped convolution of width 1; the grouped linear layer of ConvBERT, Jiang et al. 2020), W is
///   `[out, in / g]`, and group i of the outputs, out / g of them side by side, reads group i of the inputs:
///   y\[n, o\] = residual\[n, o\] + act(sum_k x\[n, i in / g + k\] W\[o, k\] + bias\[o\]), i = o / (out / g).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearProblem {
    rows: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
    activation: Activation,
    dtype: DType,
    parameters: DType,
    bias: bool,
    residual: bool,
}

impl LinearProblem {
    /// A product of `rows` rows (any number, 0 included), one group, no bias, no activation, no residual, everything of type
    /// `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for no inputs or outputs, [`Error::TooLarge`] where a tensor could not be addressed.
    pub fn new(rows: usize, inputs: usize, outputs: usize, dtype: DType) -> Result<Self> {
        nonzero("linear inputs", inputs)?;
        nonzero("linear outputs", outputs)?;
        addressable("x", &[rows, inputs])?;
        addressable("y", &[rows, outputs])?;
        addressable("weight", &[outputs, inputs])?;
        Ok(LinearProblem {
            rows,
            inputs,
            outputs,
            groups: 1,
            activation: Activation::default(),
            dtype,
            parameters: dtype,
            bias: false,
            residual: false,
        })
    }

    /// With an activation.
    ///
    /// # Errors
    ///
    /// For a GLU: [`Error::TooLarge`] where its weight could not be addressed, [`Error::GroupedGlu`] beside groups.
    pub fn with_activation(mut self, activation: Activation) -> Result<Self> {
        self.activation = activation;
        self.check()
    }

    /// With so many groups of inputs and outputs.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for none, [`Error::Groups`] where they do not divide inputs and outputs, [`Error::GroupedGlu`] for
    /// more than one beside a GLU.
    pub fn with_groups(mut self, groups: usize) -> Result<Self> {
        nonzero("groups", groups)?;
        for (what, size) in [("inputs", self.inputs), ("outputs", self.outputs)] {
            if !size.is_multiple_of(groups) {
                return Err(Error::Groups { groups, what, size });
            }
        }
        self.groups = groups;
        self.check()
    }

    fn check(self) -> Result<Self> {
        if self.activation == Activation::Glu && self.groups > 1 {
            return Err(Error::GroupedGlu { groups: self.groups });
        }
        addressable("weight", &[self.activation.halves(), self.outputs, self.group_inputs()])?;
        Ok(self)
    }

    /// With or without a bias, a number for each row of W.
    pub const fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With or without a residual `[rows, out]` in the type of x.
    pub const fn with_residual(mut self, residual: bool) -> Self {
        self.residual = residual;
        self
    }

    /// With weight and bias of type `dtype`: that of x, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::DType`] for any other.
    pub fn with_parameters(mut self, dtype: DType) -> Result<Self> {
        same_or_f32("parameters", self.dtype, dtype)?;
        self.parameters = dtype;
        Ok(self)
    }

    /// Rows of x and y.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of x.
    pub const fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns of y.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// Groups of inputs and outputs.
    pub const fn groups(&self) -> usize {
        self.groups
    }

    /// Inputs of a group: columns of W.
    pub const fn group_inputs(&self) -> usize {
        self.inputs / self.groups
    }

    /// Outputs of a group.
    pub const fn group_outputs(&self) -> usize {
        self.outputs / self.groups
    }

    /// Rows of W, and numbers of a bias: the outputs, or twice as many for a GLU.
    pub const fn weight_rows(&self) -> usize {
        self.outputs * self.activation.halves()
    }

    /// What is done to each output.
    pub const fn activation(&self) -> Activation {
        self.activation
    }

    /// Type of x, y and residual.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Type of weight and bias.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether a bias is added.
    pub const fn has_bias(&self) -> bool {
        self.bias
    }

    /// Whether a residual `[rows, out]` is added.
    pub const fn has_residual(&self) -> bool {
        self.residual
    }

    /// What of it has no backward pass, if anything.
    pub(crate) fn without_backward(&self) -> Option<&'static str> {
        match self.activation {
            Activation::Identity | Activation::Relu if self.groups > 1 => Some("groups"),
            Activation::Relu if self.residual => Some("a ReLU beside a residual"),
            Activation::Identity | Activation::Relu => None,
            other => Some(other.name()),
        }
    }

    /// Operations: 2 for each number of W a row. What is done to the sums is not counted.
    pub fn flops(&self) -> u64 {
        count(&[2, self.rows, self.weight_rows(), self.group_inputs()])
    }

    /// Bytes that must move: x, y, residual, weight and bias, once each.
    pub fn bytes(&self) -> u64 {
        let bias = if self.bias { self.weight_rows() as u64 } else { 0 };
        let of_y = count(&[self.rows, self.outputs]);
        let tokens = count(&[self.rows, self.inputs]) + of_y + if self.residual { of_y } else { 0 };
        let parameters = count(&[self.weight_rows(), self.group_inputs()]) + bias;
        tokens * self.dtype.size() as u64 + parameters * self.parameters.size() as u64
    }
}
