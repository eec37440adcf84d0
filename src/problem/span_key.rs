mod backward;

pub use backward::{SpanKeyBackwardProblem, SpanKeyWanted};

use crate::problem::{Convolution, addressable, count, nonzero, same_or_f32};
use crate::{DType, Normalize, Result, SequenceShape, Window};

/// The span-aware key of ConvBERT times the query, which generates the kernel of span-based dynamic convolution.
///
/// z\[t\] = (pointwise (depthwise_K(x))\[t\] + key_bias) q\[t\], with x `[tokens, C]`, depthwise `[C, K]` (raw, no
/// bias), pointwise `[A, C]`, key_bias `[A]`, q and z `[tokens, A]` (Jiang et al. 2020, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanKeyProblem {
    /// The depthwise convolution: one head a channel, no normalisation.
    depthwise: Convolution,
    outputs: usize,
    output_dtype: DType,
    key_bias: bool,
}

impl SpanKeyProblem {
    /// A key of `outputs` channels A from x of `channels` channels C, without a bias; x, q, z and parameters of type
    /// `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`](crate::Error::ZeroSize) for no channels, [`Error::TooLarge`](crate::Error::TooLarge) where
    /// a tensor could not be addressed.
    pub fn new(
        sequences: SequenceShape,
        channels: usize,
        outputs: usize,
        window: Window,
        dtype: DType,
    ) -> Result<Self> {
        nonzero("key channels", outputs)?;
        addressable("pointwise", &[outputs, channels])?;
        addressable("query", &[sequences.tokens(), outputs])?;
        let depthwise =
            Convolution::new(sequences, channels, channels, window, dtype)?.with_normalize(Normalize::None);
        Ok(SpanKeyProblem { depthwise, outputs, output_dtype: dtype, key_bias: false })
    }

    /// With or without a key bias `[A]`.
    pub const fn with_key_bias(mut self, bias: bool) -> Self {
        self.key_bias = bias;
        self
    }

    /// With depthwise, pointwise and key_bias of type `dtype`: that of x, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::DType`](crate::Error::DType) for any other.
    pub fn with_parameters(mut self, dtype: DType) -> Result<Self> {
        self.depthwise = self.depthwise.with_parameters(dtype)?;
        Ok(self)
    }

    /// With z of type `dtype`: that of x, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::DType`](crate::Error::DType) for any other.
    pub fn with_output(mut self, dtype: DType) -> Result<Self> {
        same_or_f32("z", self.depthwise.dtype(), dtype)?;
        self.output_dtype = dtype;
        Ok(self)
    }

    /// With or without the tokens of x from before this call.
    ///
    /// # Errors
    ///
    /// As [`Convolution::with_history`].
    pub fn with_history(mut self, history: bool) -> Result<Self> {
        self.depthwise = self.depthwise.with_history(history)?;
        Ok(self)
    }

    /// The depthwise convolution of x: tokens, channels C and window.
    pub const fn depthwise(&self) -> &Convolution {
        &self.depthwise
    }

    /// Channels A of q and z.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// Type of z.
    pub const fn output(&self) -> DType {
        self.output_dtype
    }

    /// Whether a key bias `[A]` is added.
    pub const fn has_key_bias(&self) -> bool {
        self.key_bias
    }

    /// Operations: 2 K C + 2 C A + A a token.
    pub fn flops(&self) -> u64 {
        let tokens = self.depthwise.sequences().tokens();
        let pointwise = count(&[2, tokens, self.depthwise.channels(), self.outputs]);
        let query = count(&[tokens, self.outputs]);
        self.depthwise.flops().saturating_add(pointwise).saturating_add(query)
    }

    /// Bytes that must move: x, q, z, history and parameters, once each.
    pub fn bytes(&self) -> u64 {
        let conv = &self.depthwise;
        let (tokens, channels) = (conv.sequences().tokens(), conv.channels());
        let history = if conv.has_history() { count(&conv.history_shape()) } else { 0 };
        let inputs = count(&[tokens, channels]) + count(&[tokens, self.outputs]) + history;
        let z = count(&[tokens, self.outputs]) * self.output_dtype.size() as u64;
        let bias = if self.key_bias { self.outputs as u64 } else { 0 };
        let parameters = count(&[channels, conv.window().width()]) + count(&[self.outputs, channels]) + bias;
        inputs * conv.dtype().size() as u64 + z + parameters * conv.parameters().size() as u64
    }
}
