use lightspan::ops::{self, SpanConvOptions, SpanConvTensors};
use lightspan::problem::SpanConvProblem;
use lightspan::reference::{self, Estimate, SpanConvInputs, SpanKeyInputs};
use lightspan::{Device, Sequences, Tensor};

use super::inputs::{Array, Inputs};
use super::{Operator, Result};

pub(crate) struct SpanConv {
    problem: SpanConvProblem,
    sequences: Sequences,
    x: Array,
    query: Array,
    value: Array,
    depthwise: Array,
    pointwise: Array,
    key_bias: Array,
    weight: Array,
    weight_bias: Array,
}

impl SpanConv {
    pub(crate) fn read(inputs: &Inputs<'_>) -> Result<Self> {
        let [batch, time, channels] = inputs.sizes("x")?;
        let [_, _, outputs] = inputs.sizes("value")?;
        let sequences = inputs.sequences("lengths", batch, time)?;
        let conv = inputs.convolution(&sequences, outputs)?;
        let problem = SpanConvProblem::new(channels, conv)?.with_key_bias(true).with_weight_bias(true);
        let (width, logits) = (conv.window().width(), problem.conv().logits());
        Ok(SpanConv {
            x: inputs.tokens("x", &[batch, time, channels])?,
            query: inputs.tokens("query", &[batch, time, outputs])?,
            value: inputs.tokens("value", &[batch, time, outputs])?,
            depthwise: inputs.parameter("depthwise", &[channels, width])?,
            pointwise: inputs.parameter("pointwise", &[outputs, channels])?,
            key_bias: inputs.parameter("key_bias", &[outputs])?,
            weight: inputs.parameter("weight", &[logits, outputs])?,
            weight_bias: inputs.parameter("weight_bias", &[logits])?,
            problem,
            sequences,
        })
    }
}

impl Operator for SpanConv {
    fn shape(&self) -> &[usize] {
        &self.value.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        let key = SpanKeyInputs {
            x: &self.x.values,
            query: &self.query.values,
            depthwise: &self.depthwise.values,
            pointwise: &self.pointwise.values,
            key_bias: Some(&self.key_bias.values),
            history: None,
        };
        let inputs = SpanConvInputs {
            key,
            value: &self.value.values,
            weight: &self.weight.values,
            weight_bias: Some(&self.weight_bias.values),
            bias: None,
            value_history: None,
            seed: None,
        };
        reference::every_token(&self.sequences, self.problem.key().outputs(), |s, t| {
            reference::span_conv(&self.problem, &self.sequences, inputs, (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let conv = self.problem.conv().convolution();
        let (key_bias, weight_bias) = (self.key_bias.upload(device)?, self.weight_bias.upload(device)?);
        let tensors = SpanConvTensors {
            x: &self.x.upload(device)?,
            query: &self.query.upload(device)?,
            value: &self.value.upload(device)?,
            depthwise: &self.depthwise.upload(device)?,
            pointwise: &self.pointwise.upload(device)?,
            weight: &self.weight.upload(device)?,
        };
        let options = SpanConvOptions {
            key_bias: Some(&key_bias),
            weight_bias: Some(&weight_bias),
            bias: None,
            normalize: conv.normalize(),
            sequences: Some(&self.sequences),
            history: None,
            dropout: None,
        };
        ops::span_conv(&tensors, conv.heads(), conv.window(), &options)
    }
}
