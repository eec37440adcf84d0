use lightspan::ops::{self, ConvOptions};
use lightspan::problem::{LightConvBackwardProblem, LightConvProblem, LightConvWanted};
use lightspan::reference::{self, Estimate, LightConvInputs};
use lightspan::{Device, Sequences, Tensor};

use super::inputs::{Array, Inputs, upload_optional, values};
use super::{Gradient, Operator, Result};

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

impl LightConv {
    fn inputs(&self) -> LightConvInputs<'_> {
        LightConvInputs {
            x: &self.x.values,
            weight: &self.weight.values,
            bias: values(self.bias.as_ref()),
            history: None,
            seed: None,
        }
    }

    /// The options of a call with this bias.
    fn options<'a>(&'a self, bias: Option<&'a Tensor>) -> ConvOptions<'a> {
        let normalize = self.problem.convolution().normalize();
        ConvOptions { bias, normalize, sequences: Some(&self.sequences), ..Default::default() }
    }
}

impl Operator for LightConv {
    fn shape(&self) -> &[usize] {
        &self.x.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        reference::every_token(&self.sequences, self.problem.convolution().channels(), |s, t| {
            reference::light_conv(&self.problem, &self.sequences, self.inputs(), (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let bias = upload_optional(self.bias.as_ref(), device)?;
        let (x, weight) = (self.x.upload(device)?, self.weight.upload(device)?);
        ops::light_conv(&x, &weight, self.problem.convolution().window(), &self.options(bias.as_ref()))
    }

    fn gradients(&self, dy: &Array) -> Vec<Gradient> {
        let problem = LightConvBackwardProblem::new(self.problem, LightConvWanted::ALL);
        let problem = problem.expect("fixtures have no history");
        let found = reference::light_conv_backward(&problem, &self.sequences, self.inputs(), &dy.values);
        let bias = self.bias.as_ref().map(|bias| Gradient::of("dbias", bias, found.bias));
        let all = [Gradient::of("dx", &self.x, found.x), Gradient::of("dweight", &self.weight, found.weight)];
        all.into_iter().chain(bias).collect()
    }

    fn run_backward(&self, device: &Device, dy: &Array) -> lightspan::Result<Vec<Tensor>> {
        let bias = upload_optional(self.bias.as_ref(), device)?;
        let (x, weight, dy) = (self.x.upload(device)?, self.weight.upload(device)?, dy.upload(device)?);
        let (window, options) = (self.problem.convolution().window(), self.options(bias.as_ref()));
        let found = ops::light_conv_backward(&x, &weight, &dy, window, &options, &LightConvWanted::ALL)?;
        Ok([found.x, found.weight, found.bias].into_iter().flatten().collect())
    }
}
