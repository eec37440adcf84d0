pub mod backward;

use lightspan::problem::SpanKeyProblem;
use lightspan::reference::{self, Estimate, SpanKeyInputs};
use lightspan::{DType, Device, Tensor, ops};
use proptest::prelude::*;

use crate::support::{
    ConvCase, Numbers, Values, assert_admitted, config, conv_case, devices, long_conv_case, overwritten,
};

/// A drawn call with its numbers: the depthwise convolution is that of the case, whose heads and normalisation the
/// key has no use for; its bias says whether there is a key bias.
pub struct Call {
    pub case: ConvCase,
    pub problem: SpanKeyProblem,
    pub x: Values,
    pub query: Values,
    pub depthwise: Values,
    pub pointwise: Values,
    pub key_bias: Option<Values>,
    pub history: Option<Values>,
}

impl Call {
    pub fn draw(case: &ConvCase, outputs: usize, output: DType) -> Self {
        let mut numbers = Numbers::new(case.seed);
        let channels = case.channels();
        let ConvCase { dtype, parameters, window, .. } = *case;
        let problem = SpanKeyProblem::new(case.sequences.shape(), channels, outputs, window, dtype)
            .and_then(|problem| {
                problem.with_parameters(parameters)?.with_history(case.history)?.with_output(output)
            })
            .unwrap()
            .with_key_bias(case.bias);
        let shape = problem.depthwise().history_shape();
        Call {
            problem,
            x: numbers.tokens(&case.sequences, channels, dtype, 2.0),
            query: numbers.tokens(&case.sequences, outputs, dtype, 2.0),
            depthwise: numbers.draw(&[channels, window.width()], parameters, 1.0),
            pointwise: numbers.draw(&[outputs, channels], parameters, 1.0),
            key_bias: case.bias.then(|| numbers.draw(&[outputs], parameters, 1.0)),
            history: case.history.then(|| numbers.history(&case.sequences, shape, dtype, 2.0)),
            case: case.clone(),
        }
    }

    pub fn inputs(&self) -> SpanKeyInputs<'_> {
        SpanKeyInputs {
            x: &self.x.data,
            query: &self.query.data,
            depthwise: &self.depthwise.data,
            pointwise: &self.pointwise.data,
            key_bias: self.key_bias.as_ref().map(|bias| &bias.data[..]),
            history: self.history.as_ref().map(|history| &history.data[..]),
        }
    }

    pub fn expected(&self) -> Vec<Estimate> {
        let sequences = &self.case.sequences;
        reference::every_token(sequences, self.problem.outputs(), |s, t| {
            reference::span_key(&self.problem, sequences, self.inputs(), (s, t))
        })
    }

    /// Calls `run` with the tensors and the options on a device.
    pub fn on<R>(
        &self,
        device: &Device,
        run: impl FnOnce(&ops::SpanKeyTensors<'_>, &ops::SpanKeyOptions<'_>) -> R,
    ) -> R {
        let tensor = |values: &Option<Values>| values.as_ref().map(|values| values.on(device));
        let (key_bias, history) = (tensor(&self.key_bias), tensor(&self.history));
        let [x, query, depthwise, pointwise] =
            [&self.x, &self.query, &self.depthwise, &self.pointwise].map(|values| values.on(device));
        let tensors =
            ops::SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
        let options = ops::SpanKeyOptions {
            key_bias: key_bias.as_ref(),
            sequences: Some(&self.case.sequences),
            history: history.as_ref(),
            output: Some(self.problem.output()),
        };
        run(&tensors, &options)
    }

    pub fn run(&self, device: &Device) -> Tensor {
        self.on(device, |tensors, options| {
            let z = ops::span_key(tensors, self.case.window, options).unwrap();
            overwritten(z, |z| ops::span_key_into(z, tensors, self.case.window, options))
        })
    }
}

pub fn check(case: &ConvCase, outputs: usize, wide: bool) -> Result<(), TestCaseError> {
    let call = Call::draw(case, outputs, if wide { DType::F32 } else { case.dtype });
    let expected = call.expected();
    for device in devices() {
        assert_admitted(&expected, &call.run(&device))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(case in conv_case(), outputs in 1usize..40, wide in any::<bool>()) {
        check(&case, outputs, wide)?;
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn equals_the_reference_over_many_tiles(
        case in long_conv_case(), outputs in 1usize..10, wide in any::<bool>()
    ) {
        check(&case, outputs, wide)?;
    }
}
