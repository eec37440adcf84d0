mod backward;

pub use backward::{SpanConvBackwardProblem, SpanConvWanted};

use crate::problem::{Convolution, DynamicConvProblem, SpanKeyProblem, Taps};
use crate::{DType, Normalize, Result};

/// Span-based dynamic convolution (Jiang et al. 2020, section 3.2): [`SpanKeyProblem`], then the
/// [`DynamicConvProblem`] of the values v `[tokens, A]` whose kernel is generated from z, one window for both.
///
/// The key goes from one to the other in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanConvProblem {
    key: SpanKeyProblem,
    conv: DynamicConvProblem,
}

impl SpanConvProblem {
    /// The values have the A channels of the key, in `values.heads()` heads; `key` and `values` share their sequences
    /// and window.
    ///
    /// `values` is the convolution of v: its sequences, window, types and history are also those of the key.
    /// `channels` is C, the channels of x.
    ///
    /// # Errors
    ///
    /// As [`SpanKeyProblem::new`] and [`DynamicConvProblem::generated`].
    pub fn new(channels: usize, values: Convolution) -> Result<Self> {
        let key = SpanKeyProblem::new(
            values.sequences(),
            channels,
            values.channels(),
            values.window(),
            values.dtype(),
        )?
        .with_parameters(values.parameters())?
        .with_output(DType::F32)?
        .with_history(values.has_history())?;
        let conv = DynamicConvProblem::generated(values)?.with_query(values.channels(), DType::F32)?;
        Ok(SpanConvProblem { key, conv })
    }

    /// With or without a key bias `[A]`.
    pub const fn with_key_bias(mut self, bias: bool) -> Self {
        self.key = self.key.with_key_bias(bias);
        self
    }

    /// With or without a generator bias `[H K]`.
    pub const fn with_weight_bias(mut self, bias: bool) -> Self {
        self.conv = self.conv.with_generator_bias(bias);
        self
    }

    /// Whether a generator bias `[H K]` is added.
    pub const fn has_weight_bias(&self) -> bool {
        matches!(self.conv.taps(), Taps::Generated { weight_bias: true, .. })
    }

    /// The first operator: x and q to z.
    pub const fn key(&self) -> &SpanKeyProblem {
        &self.key
    }

    /// The second operator: v convolved with kernels generated from z.
    pub const fn conv(&self) -> &DynamicConvProblem {
        &self.conv
    }

    /// How the weights over the values are normalised.
    pub const fn normalize(&self) -> Normalize {
        self.conv.convolution().normalize()
    }

    /// Operations of both.
    pub fn flops(&self) -> u64 {
        self.key.flops().saturating_add(self.conv.flops())
    }

    /// Bytes that must move: the inputs and outputs of both, but for z, which need never reach memory.
    pub fn bytes(&self) -> u64 {
        let conv = self.conv.convolution();
        let z = (conv.sequences().tokens() * conv.channels()) as u64 * DType::F32.size() as u64;
        self.key.bytes() + self.conv.bytes() - 2 * z
    }
}
