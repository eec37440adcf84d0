use crate::problem::{addressable, count, nonzero, same_or_f32};
use crate::{DType, Error, Result};

/// What a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// Layer norm (Ba et al. 2016): the mean is taken off, and what is left divided by its root mean square.
    Layer,
    /// RMS norm (Zhang and Sennrich 2019): the row is divided by its root mean square as it is.
    Rms,
}

/// Where a residual is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NormResidual {
    /// There is none.
    #[default]
    None,
    /// Before: the norm is that of x + residual, the sum in f32.
    Before {
        /// Whether that sum is an output too, rounded to the type of x: what the next residual of a pre-norm layer is.
        sum: bool,
    },
    /// After: y = residual + norm(x).
    After,
}

/// Layer norm or RMS norm of each row of x `[tokens, C]`, with or without a residual of the same shape.
///
/// With s = x, or x + residual where that is added before, and means over the C channels of a row:
///
/// - layer norm: y = (s - m) / sqrt(v + eps) weight + bias, m = mean(s), v = mean((s - m)^2)
/// - RMS norm: y = s / sqrt(mean(s^2) + eps) weight + bias
///
/// and the residual is added to that where it comes after. Everything is formed in f32 and rounded once. The variance is
/// always that of the differences from the mean, so that a mean that is large against them does not spoil it. Sums are f32
/// too: a row whose sum, or sum of squares, passes the largest number of f32 has no norm (its outputs are zero, plus bias
/// and residual, or not numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NormProblem {
    kind: NormKind,
    tokens: usize,
    channels: usize,
    /// Bits of the f32, so that the problem can be a key.
    eps: u32,
    residual: NormResidual,
    dtype: DType,
    parameters: DType,
    bias: bool,
}

impl NormProblem {
    /// A norm of `tokens` rows (any number, 0 included), no bias, no residual, everything of type `dtype`; eps is 1e-5 for
    /// layer norm and 1e-6 for RMS norm.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for no channels, [`Error::TooLarge`] where a tensor could not be addressed.
    pub fn new(kind: NormKind, tokens: usize, channels: usize, dtype: DType) -> Result<Self> {
        nonzero("channels", channels)?;
        addressable("x", &[tokens, channels])?;
        addressable("weight", &[channels])?;
        let eps: f32 = match kind {
            NormKind::Layer => 1e-5,
            NormKind::Rms => 1e-6,
        };
        let residual = NormResidual::None;
        let eps = eps.to_bits();
        Ok(NormProblem { kind, tokens, channels, eps, residual, dtype, parameters: dtype, bias: false })
    }

    /// With another eps.
    ///
    /// # Errors
    ///
    /// [`Error::NotPositive`] unless it is a positive, finite and normal number: devices may take a smaller one for zero.
    pub fn with_eps(mut self, eps: f32) -> Result<Self> {
        if !eps.is_normal() || eps < 0.0 {
            return Err(Error::NotPositive { what: "eps", got: eps });
        }
        self.eps = eps.to_bits();
        Ok(self)
    }

    /// With a residual `[tokens, C]`.
    pub const fn with_residual(mut self, residual: NormResidual) -> Self {
        self.residual = residual;
        self
    }

    /// With or without a bias `[C]`.
    pub const fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
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

    /// Layer norm or RMS norm.
    pub const fn kind(&self) -> NormKind {
        self.kind
    }

    /// Rows of x and y.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers of a row, C.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// What is added to the mean of squares.
    pub const fn eps(&self) -> f32 {
        f32::from_bits(self.eps)
    }

    /// Where a residual is added.
    pub const fn residual(&self) -> NormResidual {
        self.residual
    }

    /// Whether there is a residual `[tokens, C]`.
    pub const fn has_residual(&self) -> bool {
        !matches!(self.residual, NormResidual::None)
    }

    /// Whether x + residual `[tokens, C]` is an output too.
    pub const fn has_sum(&self) -> bool {
        matches!(self.residual, NormResidual::Before { sum: true })
    }

    /// Type of x, the residual, y and the sum.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Type of weight and bias.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether a bias `[C]` is added.
    pub const fn has_bias(&self) -> bool {
        self.bias
    }

    /// Operations: for each number 4 (its square, the sum of squares, the products with one over the root and with the
    /// weight), 2 more for the mean of a layer norm and the difference from it, and one each for bias and residual.
    pub fn flops(&self) -> u64 {
        let mean = match self.kind {
            NormKind::Layer => 2,
            NormKind::Rms => 0,
        };
        let each = 4 + mean + usize::from(self.bias) + usize::from(self.has_residual());
        count(&[each, self.tokens, self.channels])
    }

    /// Bytes that must move: x, residual, weight, bias, y and the sum, once each.
    pub fn bytes(&self) -> u64 {
        let tensors = 2 + usize::from(self.has_residual()) + usize::from(self.has_sum());
        let rows = count(&[tensors, self.tokens, self.channels, self.dtype.size()]);
        let parameters = count(&[1 + usize::from(self.bias), self.channels, self.parameters.size()]);
        rows.saturating_add(parameters)
    }
}
