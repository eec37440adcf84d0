mod backward;

pub use backward::{DynamicConvBackwardProblem, DynamicConvWanted};

use crate::problem::{Convolution, addressable, count, nonzero, same_or_f32};
use crate::{DType, Result};

/// Where the taps of a dynamic convolution come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Taps {
    /// Logits `[tokens, H, K]` are given.
    Given,
    /// Logits are W q + w_bias for each token, with W `[H K, Cq]`.
    Generated {
        /// Channels Cq of the query: those of x where x is its own query.
        query_channels: usize,
        /// Type of a separate query; `None` where x is its own query.
        query: Option<DType>,
        /// Whether a generator bias `[H K]` is added.
        weight_bias: bool,
    },
}

/// Dynamic convolution: every token has a filter of its own for each head.
///
/// y\[t, c\] = bias\[c\] + sum_j normalize(logits)\[t, h(c), j\] x\[t + j r - P, c\], with
/// logits\[t, h, j\] = (W q\[t\] + w_bias)\[h K + j\] (Wu et al. 2019, equation 5), or given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DynamicConvProblem {
    convolution: Convolution,
    taps: Taps,
}

impl DynamicConvProblem {
    /// Taps generated from x itself, without a generator bias.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`](crate::Error::TooLarge) where the generator could not be addressed.
    pub fn generated(convolution: Convolution) -> Result<Self> {
        let query_channels = convolution.channels();
        let taps = Taps::Generated { query_channels, query: None, weight_bias: false };
        DynamicConvProblem { convolution, taps }.checked()
    }

    /// Taps given as logits `[tokens, H, K]` in the type of the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`](crate::Error::TooLarge) where the logits could not be addressed.
    pub fn given(convolution: Convolution) -> Result<Self> {
        DynamicConvProblem { convolution, taps: Taps::Given }.checked()
    }

    /// Generated from a separate query `[tokens, channels]` of type `dtype`: that of x, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`](crate::Error::ZeroSize) for no channels, [`Error::DType`](crate::Error::DType) for
    /// another type, [`Error::TooLarge`](crate::Error::TooLarge) where a tensor could not be addressed,
    /// [`Error::Surplus`](crate::Error::Surplus) where the logits are given.
    pub fn with_query(mut self, channels: usize, dtype: DType) -> Result<Self> {
        nonzero("query channels", channels)?;
        same_or_f32("query", self.convolution.dtype(), dtype)?;
        match &mut self.taps {
            Taps::Given => return Err(crate::Error::Surplus { tensor: "query" }),
            Taps::Generated { query_channels, query, .. } => {
                *query_channels = channels;
                *query = Some(dtype);
            }
        }
        self.checked()
    }

    /// With or without a generator bias `[H K]`.
    ///
    /// # Errors
    ///
    /// [`Error::Surplus`](crate::Error::Surplus) where the logits are given.
    pub fn with_weight_bias(self, bias: bool) -> Result<Self> {
        match self.taps {
            Taps::Given if bias => Err(crate::Error::Surplus { tensor: "weight_bias" }),
            _ => Ok(self.with_generator_bias(bias)),
        }
    }

    /// The same for taps that are generated; nothing for those that are given.
    pub(crate) const fn with_generator_bias(mut self, bias: bool) -> Self {
        if let Taps::Generated { weight_bias, .. } = &mut self.taps {
            *weight_bias = bias;
        }
        self
    }

    fn checked(self) -> Result<Self> {
        let tokens = self.convolution.sequences().tokens();
        addressable("logits", &[tokens, self.convolution.heads(), self.convolution.window().width()])?;
        if let Taps::Generated { query_channels, .. } = self.taps {
            addressable("query", &[tokens, query_channels])?;
            addressable("weight", &[self.logits(), query_channels])?;
        }
        Ok(self)
    }

    /// Tokens, heads and window.
    pub const fn convolution(&self) -> &Convolution {
        &self.convolution
    }

    /// Where the taps come from.
    pub const fn taps(&self) -> Taps {
        self.taps
    }

    /// Logits of one token, H K.
    pub const fn logits(&self) -> usize {
        self.convolution.heads() * self.convolution.window().width()
    }

    /// Operations: 2 K C a token, and 2 Cq H K more where the taps are generated.
    pub fn flops(&self) -> u64 {
        let tokens = self.convolution.sequences().tokens();
        let generation = match self.taps {
            Taps::Given => 0,
            Taps::Generated { query_channels, .. } => count(&[2, tokens, query_channels, self.logits()]),
        };
        self.convolution.flops().saturating_add(generation)
    }

    /// Bytes that must move: x, y, bias and history, and the logits or the generator and a separate query, once each.
    pub fn bytes(&self) -> u64 {
        let tokens = self.convolution.sequences().tokens();
        let parameter = self.convolution.parameters().size() as u64;
        let taps = match self.taps {
            Taps::Given => count(&[tokens, self.logits()]) * parameter,
            Taps::Generated { query_channels, query, weight_bias } => {
                let bias = if weight_bias { self.logits() as u64 } else { 0 };
                let query = query.map_or(0, |dtype| count(&[tokens, query_channels]) * dtype.size() as u64);
                (count(&[self.logits(), query_channels]) + bias) * parameter + query
            }
        };
        self.convolution.bytes() + taps
    }
}
