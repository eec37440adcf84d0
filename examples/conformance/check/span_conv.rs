use lightspan::ops::{self, SpanConvGradients, SpanConvOptions, SpanConvTensors};
use lightspan::problem::{SpanConvBackwardProblem, SpanConvProblem, SpanConvWanted};
use lightspan::reference::{self, Estimate, SpanConvInputs, SpanKeyInputs};
use lightspan::{Device, Sequences, Tensor};

use super::inputs::{Array, Inputs};
use super::{Gradient, Operator, Result};

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

impl SpanConv {
    fn inputs(&self) -> SpanConvInputs<'_> {
        let key = SpanKeyInputs {
            x: &self.x.values,
            query: &self.query.values,
            depthwise: &self.depthwise.values,
            pointwise: &self.pointwise.values,
            key_bias: Some(&self.key_bias.values),
            history: None,
        };
        SpanConvInputs {
            key,
            value: &self.value.values,
            weight: &self.weight.values,
            weight_bias: Some(&self.weight_bias.values),
            bias: None,
            value_history: None,
            seed: None,
        }
    }

    /// Calls `run` with the tensors and the options on a device.
    fn on<R>(
        &self,
        device: &Device,
        run: impl FnOnce(&SpanConvTensors<'_>, &SpanConvOptions<'_>) -> lightspan::Result<R>,
    ) -> lightspan::Result<R> {
        let (key_bias, weight_bias) = (self.key_bias.upload(device)?, self.weight_bias.upload(device)?);
        let (query, value) = (self.query.upload(device)?, self.value.upload(device)?);
        let tensors = SpanConvTensors {
            x: &self.x.upload(device)?,
            query: (&query).into(),
            value: (&value).into(),
            depthwise: &self.depthwise.upload(device)?,
            pointwise: &self.pointwise.upload(device)?,
            weight: &self.weight.upload(device)?,
        };
        let options = SpanConvOptions {
            key_bias: Some(&key_bias),
            weight_bias: Some(&weight_bias),
            normalize: self.problem.normalize(),
            sequences: Some(&self.sequences),
            ..Default::default()
        };
        run(&tensors, &options)
    }
}

impl Operator for SpanConv {
    fn shape(&self) -> &[usize] {
        &self.value.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        reference::every_token(&self.sequences, self.problem.key().outputs(), |s, t| {
            reference::span_conv(&self.problem, &self.sequences, self.inputs(), (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let conv = self.problem.conv().convolution();
        self.on(device, |tensors, options| ops::span_conv(tensors, conv.heads(), conv.window(), options))
    }

    fn gradients(&self, dy: &Array) -> Vec<Gradient> {
        let problem = SpanConvBackwardProblem::new(self.problem, SpanConvWanted::ALL);
        let problem = problem.expect("fixtures have no history");
        let found = reference::span_conv_backward(&problem, &self.sequences, self.inputs(), &dy.values);
        vec![
            Gradient::of("dx", &self.x, found.key.x),
            Gradient::of("dquery", &self.query, found.key.query),
            Gradient::of("ddepthwise", &self.depthwise, found.key.depthwise),
            Gradient::of("dpointwise", &self.pointwise, found.key.pointwise),
            Gradient::of("dkey_bias", &self.key_bias, found.key.key_bias),
            Gradient::of("dvalue", &self.value, found.conv.x),
            Gradient::of("dweight", &self.weight, found.conv.weight),
            Gradient::of("dweight_bias", &self.weight_bias, found.conv.weight_bias),
        ]
    }

    fn run_backward(&self, device: &Device, dy: &Array) -> lightspan::Result<Vec<Tensor>> {
        let (dy, conv) = (dy.upload(device)?, self.problem.conv().convolution());
        let found = self.on(device, |tensors, options| {
            let (heads, window) = (conv.heads(), conv.window());
            ops::span_conv_backward(tensors, &dy, heads, window, options, &SpanConvWanted::ALL)
        })?;
        let SpanConvGradients { x, query, depthwise, pointwise, key_bias, .. } = found;
        let SpanConvGradients { value, weight, weight_bias, .. } = found;
        let all = [x, query, depthwise, pointwise, key_bias, value, weight, weight_bias];
        Ok(all.into_iter().flatten().collect())
    }
}
