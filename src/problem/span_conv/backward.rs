use crate::DType;
use crate::Result;
use crate::problem::{
    DynamicConvBackwardProblem, DynamicConvWanted, SpanConvProblem, SpanKeyBackwardProblem, SpanKeyWanted,
    count,
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
    /// Bytes that must move: dy and what of the inputs is needed once, and each gradient that is wanted once. z and its
    /// gradient need never reach memory.
    pub fn bytes(&self) -> u64 {
        let (key, conv) = (self.forward.key(), self.forward.conv().convolution());
        let (of_key, of_conv) = (self.key.wanted(), self.conv.wanted());
        let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
        let tokens = |channels: usize| count(&[conv.sequences().tokens(), channels, conv.dtype().size()]);
        let (x, q) = (tokens(key.depthwise().channels()), tokens(conv.channels()));
        let (depthwise, pointwise) = (
            count(&[key.depthwise().channels(), conv.window().width()]),
            count(&[key.outputs(), key.depthwise().channels()]),
        );
        let logits = self.forward.conv().logits();
        let weight = count(&[logits, conv.channels()]);
        let weight_bias = if self.forward.has_weight_bias() { logits as u64 } else { 0 };
        let key_bias = if key.has_key_bias() { key.outputs() as u64 } else { 0 };
        // To make z again, all that z is made of.
        let made = (x + q, depthwise + pointwise + key_bias + weight + weight_bias);
        let gradients = [
            (of_key.depthwise, depthwise),
            (of_key.pointwise, pointwise),
            (of_key.key_bias, key_bias),
            (of_conv.weight, weight),
            (of_conv.weight_bias, weight_bias),
            (of_conv.bias, conv.channels() as u64),
        ];
        let parameters: u64 = gradients.iter().map(|&(wanted, numbers)| when(wanted, numbers)).sum();
        let taps = self.needs_forward_key();
        when(taps, made.0 + made.1 * conv.parameters().size() as u64)
            + when(taps || of_conv.bias, q)
            + when(self.conv.needs_logits(), q)
            + when(of_key.x, x)
            + when(of_key.query, q)
            + when(of_conv.x, q)
            + parameters * self.key.parameters().size() as u64
    }
}
