use candle_core::Tensor;
use lightspan::problem::{SpanConvBackwardProblem, SpanConvProblem, SpanConvWanted};
use lightspan::reference::{self, SpanConvInputs, SpanKeyInputs};
use lightspan_candle::{SpanConvOptions, SpanConvTensors, span_conv};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::{Call, ConvCase, Numbers, Unfused, Values, check, config, conv_case};

/// x of `channels`, query, value, depthwise, pointwise, weight, key_bias, weight_bias and bias.
fn call(case: &ConvCase, channels: usize, [key_bias, weight_bias]: [bool; 2]) -> Call {
    let mut numbers = Numbers::new(case.seed);
    let (outputs, sequences) = (case.channels(), &case.sequences);
    let logits = case.heads * case.width();
    let x = numbers.tokens(sequences, &[channels], case.dtype, 1.0);
    let query = numbers.tokens(sequences, &[outputs], case.dtype, 1.0);
    let value = numbers.tokens(sequences, &[outputs], case.dtype, 1.0);
    let depthwise = numbers.draw(&[channels, case.width()], case.parameters, 1.0);
    let pointwise = numbers.draw(&[outputs, channels], case.parameters, 1.0);
    let weight = numbers.draw(&[logits, outputs], case.parameters, 0.5);
    let key_bias = key_bias.then(|| numbers.draw(&[outputs], case.parameters, 1.0));
    let weight_bias = weight_bias.then(|| numbers.draw(&[logits], case.parameters, 1.0));
    let bias = case.bias.then(|| numbers.draw(&[outputs], case.parameters, 1.0));
    let dy = numbers.tokens(sequences, &[outputs], case.dtype, 1.0);

    let problem = SpanConvProblem::new(channels, case.convolution())
        .unwrap()
        .with_key_bias(key_bias.is_some())
        .with_weight_bias(weight_bias.is_some());
    let backward = SpanConvBackwardProblem::new(problem, SpanConvWanted::ALL).unwrap();
    fn data(values: &Option<Values>) -> Option<&[f64]> {
        values.as_ref().map(|values| &values.data[..])
    }
    let inputs = SpanConvInputs {
        key: SpanKeyInputs {
            x: &x.data,
            query: &query.data,
            depthwise: &depthwise.data,
            pointwise: &pointwise.data,
            key_bias: data(&key_bias),
            history: None,
        },
        value: &value.data,
        weight: &weight.data,
        weight_bias: data(&weight_bias),
        bias: data(&bias),
        value_history: None,
        seed: case.dropout_seed(),
    };
    let output = reference::every_token(sequences, outputs, |s, t| {
        reference::span_conv(&problem, sequences, inputs, (s, t))
    });
    let found = reference::span_conv_backward(&backward, sequences, inputs, &dy.data);
    let (key, conv) = (found.key, found.conv);
    Call {
        output,
        gradients: vec![
            key.x,
            key.query,
            conv.x,
            key.depthwise,
            key.pointwise,
            conv.weight,
            key.key_bias,
            conv.weight_bias,
            conv.bias,
        ],
        inputs: vec![
            Some(("x", x)),
            Some(("query", query)),
            Some(("value", value)),
            Some(("depthwise", depthwise)),
            Some(("pointwise", pointwise)),
            Some(("weight", weight)),
            key_bias.map(|bias| ("key_bias", bias)),
            weight_bias.map(|bias| ("weight_bias", bias)),
            bias.map(|bias| ("bias", bias)),
        ],
        dy,
        tracked: case.tracked,
        seed: case.seed,
    }
}

fn equals_composition(case: &ConvCase, channels: usize, biases: [bool; 2]) -> Result<(), TestCaseError> {
    let ConvCase { sequences, window, normalize, dropout, .. } = case.clone();
    let unfused = Unfused { sequences: &sequences, window, normalize, dropout };
    let six = |inputs: &[Option<Tensor>]| [0, 1, 2, 3, 4, 5].map(|i: usize| inputs[i].clone().unwrap());
    let ours = |inputs: &[Option<Tensor>]| {
        let [x, query, value, depthwise, pointwise, weight] = &six(inputs);
        let options = SpanConvOptions {
            key_bias: inputs[6].as_ref(),
            weight_bias: inputs[7].as_ref(),
            bias: inputs[8].as_ref(),
            normalize,
            sequences: case.told(),
            dropout,
        };
        let tensors = SpanConvTensors { x, query, value, depthwise, pointwise, weight };
        span_conv(&tensors, case.heads, window, &options)
    };
    let composed = |inputs: &[Option<Tensor>]| {
        let [x, query, value, depthwise, pointwise, weight] = &six(inputs);
        let z = unfused.key(x, query, depthwise, pointwise, inputs[6].as_ref())?;
        let logits = unfused.generate(&z, weight, inputs[7].as_ref())?;
        unfused.convolve(value, &logits, inputs[8].as_ref())
    };
    check(&call(case, channels, biases), &ours, &composed)
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn equals_what_candle_composes(
        case in conv_case(),
        channels in 1usize..10,
        biases in any::<[bool; 2]>(),
    ) {
        equals_composition(&case, channels, biases)?;
    }
}
