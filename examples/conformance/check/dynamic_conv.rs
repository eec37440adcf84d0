use lightspan::ops::{self, ConvOptions, DynamicConvGradients, DynamicConvOptions};
use lightspan::problem::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted};
use lightspan::reference::{self, DynamicConvInputs, Estimate, TapInputs};
use lightspan::{Device, Sequences, Tensor};

use super::inputs::{Array, Inputs, upload_optional, values};
use super::{Gradient, Operator, Result};

pub(crate) struct DynamicConv {
    problem: DynamicConvProblem,
    sequences: Sequences,
    x: Array,
    taps: Taps,
    bias: Option<Array>,
}

/// Where the kernels come from.
enum Taps {
    Given { logits: Array },
    Generated { weight: Array, weight_bias: Option<Array>, query: Option<Array> },
}

impl DynamicConv {
    pub(crate) fn read(inputs: &Inputs<'_>) -> Result<Self> {
        let [batch, time, channels] = inputs.sizes("x")?;
        let sequences = inputs.sequences("lengths", batch, time)?;
        let conv = inputs.convolution(&sequences, channels)?.with_bias(inputs.has("bias"));
        let x = inputs.tokens("x", &[batch, time, channels])?;
        let (problem, taps) = match (inputs.has("logits"), inputs.has("weight")) {
            (true, false) => {
                let shape = [batch, time, conv.heads(), conv.window().width()];
                let logits = inputs.parameter("logits", &shape)?;
                (DynamicConvProblem::given(conv)?, Taps::Given { logits })
            }
            (false, true) => {
                let mut problem =
                    DynamicConvProblem::generated(conv)?.with_weight_bias(inputs.has("weight_bias"))?;
                let mut query_channels = channels;
                let query = match inputs.has("query") {
                    true => {
                        query_channels = inputs.sizes::<3>("query")?[2];
                        problem = problem.with_query(query_channels, x.dtype())?;
                        Some(inputs.tokens("query", &[batch, time, query_channels])?)
                    }
                    false => None,
                };
                let weight = inputs.parameter("weight", &[problem.logits(), query_channels])?;
                let weight_bias = inputs.optional_parameter("weight_bias", &[problem.logits()])?;
                (problem, Taps::Generated { weight, weight_bias, query })
            }
            (true, true) => return Err("there are both logits and a weight that generates them".into()),
            (false, false) => return Err("tensor weight is missing, and there are no logits either".into()),
        };
        let bias = inputs.optional_parameter("bias", &[channels])?;
        Ok(DynamicConv { problem, sequences, x, taps, bias })
    }
}

impl DynamicConv {
    fn inputs(&self) -> DynamicConvInputs<'_> {
        let taps = match &self.taps {
            Taps::Given { logits } => TapInputs::Given(&logits.values),
            Taps::Generated { weight, weight_bias, query } => TapInputs::Generated {
                weight: &weight.values,
                weight_bias: values(weight_bias.as_ref()),
                query: values(query.as_ref()),
            },
        };
        let bias = values(self.bias.as_ref());
        DynamicConvInputs { x: &self.x.values, taps, bias, history: None, seed: None }
    }

    /// Calls `given` or `generated` with the tensors on a device: x, the logits or the generator, and the options.
    fn on<R>(
        &self,
        device: &Device,
        given: impl FnOnce(&Tensor, &Tensor, &ConvOptions<'_>) -> lightspan::Result<R>,
        generated: impl FnOnce(&Tensor, &Tensor, &DynamicConvOptions<'_>) -> lightspan::Result<R>,
    ) -> lightspan::Result<R> {
        let normalize = self.problem.convolution().normalize();
        let (x, bias) = (self.x.upload(device)?, upload_optional(self.bias.as_ref(), device)?);
        let (bias, sequences) = (bias.as_ref(), Some(&self.sequences));
        match &self.taps {
            Taps::Given { logits } => {
                let options = ConvOptions { bias, normalize, sequences, ..Default::default() };
                given(&x, &logits.upload(device)?, &options)
            }
            Taps::Generated { weight, weight_bias, query } => {
                let weight_bias = upload_optional(weight_bias.as_ref(), device)?;
                let query = upload_optional(query.as_ref(), device)?;
                let (weight_bias, query) = (weight_bias.as_ref(), query.as_ref());
                let options = DynamicConvOptions {
                    query,
                    weight_bias,
                    bias,
                    normalize,
                    sequences,
                    ..Default::default()
                };
                generated(&x, &weight.upload(device)?, &options)
            }
        }
    }
}

impl Operator for DynamicConv {
    fn shape(&self) -> &[usize] {
        &self.x.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        reference::every_token(&self.sequences, self.problem.convolution().channels(), |s, t| {
            reference::dynamic_conv(&self.problem, &self.sequences, self.inputs(), (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let (heads, window) = (self.problem.convolution().heads(), self.problem.convolution().window());
        self.on(
            device,
            |x, logits, options| ops::dynamic_conv_given(x, logits, window, options),
            |x, weight, options| ops::dynamic_conv(x, weight, heads, window, options),
        )
    }

    fn gradients(&self, dy: &Array) -> Vec<Gradient> {
        let problem = DynamicConvBackwardProblem::new(self.problem, DynamicConvWanted::ALL);
        let problem = problem.expect("fixtures have no history");
        let found = reference::dynamic_conv_backward(&problem, &self.sequences, self.inputs(), &dy.values);
        let optional = |name, like: &Option<Array>, estimates| {
            like.as_ref().map(|like| Gradient::of(name, like, estimates))
        };
        let mut all = vec![Gradient::of("dx", &self.x, found.x)];
        match &self.taps {
            Taps::Given { logits } => all.push(Gradient::of("dlogits", logits, found.logits)),
            Taps::Generated { weight, weight_bias, query } => {
                all.push(Gradient::of("dweight", weight, found.weight));
                all.extend(optional("dweight_bias", weight_bias, found.weight_bias));
                all.extend(optional("dquery", query, found.query));
            }
        }
        all.extend(optional("dbias", &self.bias, found.bias));
        all
    }

    fn run_backward(&self, device: &Device, dy: &Array) -> lightspan::Result<Vec<Tensor>> {
        let (heads, window) = (self.problem.convolution().heads(), self.problem.convolution().window());
        let (dy, wanted) = (dy.upload(device)?, DynamicConvWanted::ALL);
        let found = self.on(
            device,
            |x, logits, options| ops::dynamic_conv_given_backward(x, logits, &dy, window, options, &wanted),
            |x, weight, options| ops::dynamic_conv_backward(x, weight, &dy, heads, window, options, &wanted),
        )?;
        let DynamicConvGradients { x, logits, weight, weight_bias, query, bias } = found;
        Ok([x, logits, weight, weight_bias, query, bias].into_iter().flatten().collect())
    }
}
