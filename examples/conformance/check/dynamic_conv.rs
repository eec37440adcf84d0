use lightspan::ops::{self, ConvOptions, DynamicConvOptions};
use lightspan::problem::DynamicConvProblem;
use lightspan::reference::{self, DynamicConvInputs, Estimate, TapInputs};
use lightspan::{Device, Sequences, Tensor};

use super::inputs::{Array, Inputs, upload_optional, values};
use super::{Operator, Result};

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

impl Operator for DynamicConv {
    fn shape(&self) -> &[usize] {
        &self.x.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        let taps = match &self.taps {
            Taps::Given { logits } => TapInputs::Given(&logits.values),
            Taps::Generated { weight, weight_bias, query } => TapInputs::Generated {
                weight: &weight.values,
                weight_bias: values(weight_bias.as_ref()),
                query: values(query.as_ref()),
            },
        };
        let bias = values(self.bias.as_ref());
        let inputs = DynamicConvInputs { x: &self.x.values, taps, bias, history: None, seed: None };
        reference::every_token(&self.sequences, self.problem.convolution().channels(), |s, t| {
            reference::dynamic_conv(&self.problem, &self.sequences, inputs, (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let conv = self.problem.convolution();
        let (heads, window, normalize) = (conv.heads(), conv.window(), conv.normalize());
        let x = self.x.upload(device)?;
        let bias = upload_optional(self.bias.as_ref(), device)?;
        let (bias, sequences) = (bias.as_ref(), Some(&self.sequences));
        match &self.taps {
            Taps::Given { logits } => {
                let options = ConvOptions { bias, normalize, sequences, history: None, dropout: None };
                ops::dynamic_conv_given(&x, &logits.upload(device)?, window, &options)
            }
            Taps::Generated { weight, weight_bias, query } => {
                let (weight_bias, query) = (
                    upload_optional(weight_bias.as_ref(), device)?,
                    upload_optional(query.as_ref(), device)?,
                );
                let (weight_bias, query) = (weight_bias.as_ref(), query.as_ref());
                let options = DynamicConvOptions {
                    query,
                    weight_bias,
                    bias,
                    normalize,
                    sequences,
                    history: None,
                    dropout: None,
                };
                ops::dynamic_conv(&x, &weight.upload(device)?, heads, window, &options)
            }
        }
    }
}
