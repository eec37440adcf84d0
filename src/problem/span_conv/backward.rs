use crate::DType;
use crate::Result;
use crate::problem::{
    DynamicConvBackwardProblem, DynamicConvWanted, SpanConvProblem, SpanKeyBackwardProblem, SpanKeyWanted,
};

/// Which gradients of a span-based convolution are wanted: those of inputs that the call does not have are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanConvWanted {
    /// That of x.
    pub x: bool,
    /// That of the query.
    pub query: bool,
    /// That of the depthwise filters of the key.
    pub depthwise: bool,
    /// That of the pointwise matrix of the key.
    pub pointwise: bool,
    /// That of the key bias.
    pub key_bias: bool,
    /// That of the values.
    pub value: bool,
    /// That of the generator W.
    pub weight: bool,
    /// That of the generator bias.
    pub weight_bias: bool,
    /// That of the bias.
    pub bias: bool,
    /// Type of the gradients of parameters, their own or f32; `None` is their own.
    pub parameters: Option<DType>,
}

impl SpanConvWanted {
    /// Every gradient, in the types of the inputs.
    pub const ALL: Self = SpanConvWanted {
        x: true,
        query: true,
        depthwise: true,
        pointwise: true,
        key_bias: true,
        value: true,
        weight: true,
        weight_bias: true,
        bias: true,
        parameters: None,
    };
    /// None of them.
    pub const NONE: Self = SpanConvWanted {
        x: false,
        query: false,
        depthwise: false,
        pointwise: false,
        key_bias: false,
        value: false,
        weight: false,
        weight_bias: false,
        bias: false,
        parameters: None,
    };
}

impl Default for SpanConvWanted {
    fn default() -> Self {
        SpanConvWanted::ALL
    }
}

/// The backward pass of a [`SpanConvProblem`]: that of the convolution of the values, whose gradient of z goes, in f32, into
/// that of the key. z itself is computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanConvBackwardProblem {
    forward: SpanConvProblem,
    key: SpanKeyBackwardProblem,
    conv: DynamicConvBackwardProblem,
}

impl SpanConvBackwardProblem {
    /// The gradients `wanted` of `forward`.
    ///
    /// # Errors
    ///
    /// As [`SpanKeyBackwardProblem::new`].
    pub fn new(forward: SpanConvProblem, wanted: SpanConvWanted) -> Result<Self> {
        let SpanConvWanted { x, query, depthwise, pointwise, key_bias, parameters, .. } = wanted;
        let key = SpanKeyWanted { x, query, depthwise, pointwise, key_bias, parameters };
        let key = SpanKeyBackwardProblem::new(*forward.key(), key)?;
        let SpanConvWanted { value, weight, weight_bias, bias, .. } = wanted;
        let found = key.wanted();
        let z = found.x || found.query || found.depthwise || found.pointwise || found.key_bias;
        let conv =
            DynamicConvWanted { x: value, logits: false, weight, weight_bias, query: z, bias, parameters };
        let conv = DynamicConvBackwardProblem::new(*forward.conv(), conv)?;
        Ok(SpanConvBackwardProblem { forward, key, conv })
    }

    /// The problem whose gradients these are.
    pub const fn forward(&self) -> &SpanConvProblem {
        &self.forward
    }

    /// The second part: from dz to the gradients of the key's inputs.
    pub const fn key(&self) -> &SpanKeyBackwardProblem {
        &self.key
    }

    /// The first part: from dy to dz, the gradient of its query, and those of its other inputs.
    pub const fn conv(&self) -> &DynamicConvBackwardProblem {
        &self.conv
    }

    /// Whether a gradient of the key's inputs is wanted: dz is then computed on the way.
    pub const fn needs_key(&self) -> bool {
        self.conv.wanted().query
    }

    /// Whether the key z is computed again: wherever the taps of the values are needed.
    pub(crate) fn needs_forward_key(&self) -> bool {
        self.conv.wanted().x || self.conv.needs_logits()
    }

    /// Operations of both, and of z, computed again.
    pub fn flops(&self) -> u64 {
        let z = if self.needs_forward_key() { self.forward.key().flops() } else { 0 };
        z.saturating_add(self.key.flops()).saturating_add(self.conv.flops())
    }
}
