pub mod backward;

use lightspan::problem::SpanConvProblem;
use lightspan::reference::{self, Estimate, SpanConvInputs, SpanKeyInputs};
use lightspan::{Device, Tensor, ops};
use proptest::prelude::*;

use crate::support::{
    ConvCase, Numbers, Values, assert_admitted, config, conv_case, devices, long_conv_case, overwritten,
};

/// A drawn call with its numbers: the convolution of the values is that of the case; its bias says whether there is a
/// bias, and a key bias and a generator bias with it.
pub struct Call {
    pub case: ConvCase,
    pub problem: SpanConvProblem,
    pub x: Values,
    pub query: Values,
    pub value: Values,
    pub depthwise: Values,
    pub pointwise: Values,
    pub weight: Values,
    pub key_bias: Option<Values>,
    pub weight_bias: Option<Values>,
    pub bias: Option<Values>,
    pub history: Option<Values>,
    pub value_history: Option<Values>,
}

impl Call {
    /// `channels` are those of x; those of the case are those of the values.
    pub fn draw(case: &ConvCase, channels: usize) -> Self {
        let mut numbers = Numbers::new(case.seed);
        let ConvCase { dtype, parameters, window, bias, .. } = *case;
        let sequences = &case.sequences;
        let conv = case.convolution();
        let problem =
            SpanConvProblem::new(channels, conv).unwrap().with_key_bias(bias).with_weight_bias(bias);
        let (outputs, logits) = (case.channels(), problem.conv().logits());
        let scale = |terms: usize| 2.0 / (terms as f32).sqrt();
        let mut draw = |shape: &[usize], scale| numbers.draw(shape, parameters, scale);
        Call {
            problem,
            depthwise: draw(&[channels, window.width()], scale(window.width())),
            pointwise: draw(&[outputs, channels], scale(channels)),
            weight: draw(&[logits, outputs], scale(outputs)),
            key_bias: bias.then(|| draw(&[outputs], 1.0)),
            weight_bias: bias.then(|| draw(&[logits], 1.0)),
            bias: bias.then(|| draw(&[outputs], 1.0)),
            x: numbers.tokens(sequences, channels, dtype, 1.0),
            query: numbers.tokens(sequences, outputs, dtype, 1.0),
            value: numbers.tokens(sequences, outputs, dtype, 2.0),
            history: case
                .history
                .then(|| numbers.history(sequences, problem.key().depthwise().history_shape(), dtype, 1.0)),
            value_history: case.history.then(|| numbers.history(sequences, conv.history_shape(), dtype, 2.0)),
            case: case.clone(),
        }
    }

    pub fn inputs(&self) -> SpanConvInputs<'_> {
        fn data(values: &Option<Values>) -> Option<&[f64]> {
            values.as_ref().map(|values| &values.data[..])
        }
        SpanConvInputs {
            key: SpanKeyInputs {
                x: &self.x.data,
                query: &self.query.data,
                depthwise: &self.depthwise.data,
                pointwise: &self.pointwise.data,
                key_bias: data(&self.key_bias),
                history: data(&self.history),
            },
            value: &self.value.data,
            weight: &self.weight.data,
            weight_bias: data(&self.weight_bias),
            bias: data(&self.bias),
            value_history: data(&self.value_history),
            seed: self.case.dropout_seed(),
        }
    }

    pub fn expected(&self) -> Vec<Estimate> {
        let sequences = &self.case.sequences;
        reference::every_token(sequences, self.case.channels(), |s, t| {
            reference::span_conv(&self.problem, sequences, self.inputs(), (s, t))
        })
    }

    /// Calls `run` with the tensors and the options on a device.
    pub fn on<R>(
        &self,
        device: &Device,
        run: impl FnOnce(&ops::SpanConvTensors<'_>, &ops::SpanConvOptions<'_>) -> R,
    ) -> R {
        let tensor = |values: &Option<Values>| values.as_ref().map(|values| values.on(device));
        let [key_bias, weight_bias, bias] = [&self.key_bias, &self.weight_bias, &self.bias].map(tensor);
        let [x, query, value, depthwise, pointwise, weight] =
            [&self.x, &self.query, &self.value, &self.depthwise, &self.pointwise, &self.weight]
                .map(|values| values.on(device));
        let history = tensor(&self.history).zip(tensor(&self.value_history));
        let tensors = ops::SpanConvTensors {
            x: &x,
            query: (&query).into(),
            value: (&value).into(),
            depthwise: &depthwise,
            pointwise: &pointwise,
            weight: &weight,
        };
        let options = ops::SpanConvOptions {
            key_bias: key_bias.as_ref(),
            weight_bias: weight_bias.as_ref(),
            bias: bias.as_ref(),
            normalize: self.case.normalize,
            sequences: Some(&self.case.sequences),
            history: history.as_ref().map(|(x, value)| ops::SpanConvHistory { x, value }),
            dropout: self.case.dropout,
        };
        run(&tensors, &options)
    }

    pub fn run(&self, device: &Device) -> Tensor {
        let ConvCase { heads, window, .. } = self.case;
        self.on(device, |tensors, options| {
            let y = ops::span_conv(tensors, heads, window, options).unwrap();
            overwritten(y, |y| ops::span_conv_into(y, tensors, heads, window, options))
        })
    }
}

pub fn check(case: &ConvCase, channels: usize) -> Result<(), TestCaseError> {
    let call = Call::draw(case, channels);
    let expected = call.expected();
    for device in devices() {
        assert_admitted(&expected, &call.run(&device))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(case in conv_case(), channels in 1usize..40) {
        check(&case, channels)?;
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn equals_the_reference_over_many_tiles(case in long_conv_case(), channels in 1usize..10) {
        check(&case, channels)?;
    }
}
