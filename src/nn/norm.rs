use crate::nn::Parameter;
use crate::ops::{self, NormOptions, Residual};
use crate::problem::NormKind;
use crate::{Result, Tensor};

/// Layer norm or RMS norm with its parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which of the two.
    pub kind: NormKind,
    /// `[C]`.
    pub weight: Parameter,
    /// `[C]`; T5's norms have none.
    pub bias: Option<Parameter>,
    /// What is added to the mean of squares.
    pub eps: f32,
}

impl Norm {
    /// x and y `[.., C]`.
    ///
    /// # Errors
    ///
    /// As [`ops::layer_norm`].
    pub fn forward(&self, x: &Tensor, residual: Residual<'_>) -> Result<Tensor> {
        let options = NormOptions { eps: Some(self.eps), bias: self.bias.as_deref(), residual };
        match self.kind {
            NormKind::Layer => ops::layer_norm(x, &self.weight, &options),
            NormKind::Rms => ops::rms_norm(x, &self.weight, &options),
        }
    }
}

/// Where the norm of a sublayer f with a residual stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "models", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum NormOrder {
    /// norm(x + f(x)): Vaswani et al. 2017, the translation models of Wu et al. 2019, ConvBERT.
    Post,
    /// x + f(norm(x)): the language model of Wu et al. 2019, T5.
    Pre,
    /// x + norm(f(x)): the text of Tay et al. 2021, section 4.
    NormThenAdd,
}

impl NormOrder {
    /// A sublayer with its residual and norm. The sublayer gets its input, and what it is to add to its output.
    pub(crate) fn around(
        self,
        norm: &Norm,
        x: &Tensor,
        sublayer: impl FnOnce(&Tensor, Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        // The sum is formed where it is rounded least and moves least: a norm reads what it needs in f32, and the last product
        // of a sublayer adds before it rounds.
        match self {
            NormOrder::Post => norm.forward(&sublayer(x, None)?, Residual::Before(x)),
            NormOrder::Pre => sublayer(&norm.forward(x, Residual::None)?, Some(x)),
            NormOrder::NormThenAdd => norm.forward(&sublayer(x, None)?, Residual::After(x)),
        }
    }
}
