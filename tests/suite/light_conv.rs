pub mod backward;

use lightspan::problem::LightConvProblem;
use lightspan::reference::{self, Estimate, LightConvInputs};
use lightspan::{Device, Tensor, ops};
use proptest::prelude::*;

use crate::support::{
    ConvCase, Numbers, Values, assert_admitted, config, conv_case, devices, long_conv_case, overwritten,
};

/// A drawn call with its numbers.
pub struct Call {
    pub case: ConvCase,
    pub x: Values,
    pub weight: Values,
    pub bias: Option<Values>,
    pub history: Option<Values>,
}

impl Call {
    pub fn draw(case: &ConvCase) -> Self {
        let mut numbers = Numbers::new(case.seed);
        let (problem, channels) = (LightConvProblem::new(case.convolution()), case.channels());
        let shape = problem.convolution().history_shape();
        Call {
            x: numbers.tokens(&case.sequences, channels, case.dtype, 2.0),
            weight: numbers.draw(&problem.weight_shape(), case.parameters, 3.0),
            bias: case.bias.then(|| numbers.draw(&[channels], case.parameters, 1.0)),
            history: case.history.then(|| numbers.history(&case.sequences, shape, case.dtype, 2.0)),
            case: case.clone(),
        }
    }

    pub fn inputs(&self) -> LightConvInputs<'_> {
        LightConvInputs {
            x: &self.x.data,
            weight: &self.weight.data,
            bias: self.bias.as_ref().map(|bias| &bias.data[..]),
            history: self.history.as_ref().map(|history| &history.data[..]),
            seed: self.case.dropout_seed(),
        }
    }

    pub fn expected(&self) -> Vec<Estimate> {
        let problem = LightConvProblem::new(self.case.convolution());
        let sequences = &self.case.sequences;
        reference::every_token(sequences, self.case.channels(), |s, t| {
            reference::light_conv(&problem, sequences, self.inputs(), (s, t))
        })
    }

    /// Calls `run` with x, the weight and the options on a device.
    pub fn on<R>(
        &self,
        device: &Device,
        run: impl FnOnce(&Tensor, &Tensor, &ops::ConvOptions<'_>) -> R,
    ) -> R {
        let tensor = |values: &Option<Values>| values.as_ref().map(|values| values.on(device));
        let (bias, history) = (tensor(&self.bias), tensor(&self.history));
        let options = ops::ConvOptions {
            bias: bias.as_ref(),
            normalize: self.case.normalize,
            sequences: Some(&self.case.sequences),
            history: history.as_ref(),
            dropout: self.case.dropout,
        };
        run(&self.x.on(device), &self.weight.on(device), &options)
    }

    pub fn run(&self, device: &Device) -> Tensor {
        let window = self.case.window;
        self.on(device, |x, weight, options| {
            let y = ops::light_conv(x, weight, window, options).unwrap();
            overwritten(y, |y| ops::light_conv_into(y, x, weight, window, options))
        })
    }
}

pub fn check(case: &ConvCase) -> Result<(), TestCaseError> {
    let call = Call::draw(case);
    let expected = call.expected();
    for device in devices() {
        assert_admitted(&expected, &call.run(&device))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn equals_the_reference(case in conv_case()) {
        check(&case)?;
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn equals_the_reference_over_many_tiles(case in long_conv_case()) {
        check(&case)?;
    }
}
