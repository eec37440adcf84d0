use lightspan::ops::{self, ConvOptions};
use lightspan::problem::LightConvProblem;
use lightspan::reference::{self, Estimate, LightConvInputs};
use lightspan::{Device, Sequences, Tensor};

use super::inputs::{Array, Inputs, upload_optional, values};
use super::{Operator, Result};

pub(crate) struct LightConv {
    problem: LightConvProblem,
    sequences: Sequences,
    x: Array,
    weight: Array,
    bias: Option<Array>,
}

impl LightConv {
    pub(crate) fn read(inputs: &Inputs<'_>) -> Result<Self> {
        let [batch, time, channels] = inputs.sizes("x")?;
        let sequences = inputs.sequences("lengths", batch, time)?;
        let conv = inputs.convolution(&sequences, channels)?.with_bias(inputs.has("bias"));
        let problem = LightConvProblem::new(conv);
        Ok(LightConv {
            x: inputs.tokens("x", &[batch, time, channels])?,
            weight: inputs.parameter("weight", &problem.weight_shape())?,
            bias: inputs.optional_parameter("bias", &[channels])?,
            problem,
            sequences,
        })
    }
}

impl Operator for LightConv {
    fn shape(&self) -> &[usize] {
        &self.x.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        let inputs = LightConvInputs {
            x: &self.x.values,
            weight: &self.weight.values,
            bias: values(self.bias.as_ref()),
            history: None,
            seed: None,
        };
        reference::every_token(&self.sequences, self.problem.convolution().channels(), |s, t| {
            reference::light_conv(&self.problem, &self.sequences, inputs, (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let conv = self.problem.convolution();
        let bias = upload_optional(self.bias.as_ref(), device)?;
        let options = ConvOptions {
            bias: bias.as_ref(),
            normalize: conv.normalize(),
            sequences: Some(&self.sequences),
            history: None,
            dropout: None,
        };
        ops::light_conv(&self.x.upload(device)?, &self.weight.upload(device)?, conv.window(), &options)
    }
}
