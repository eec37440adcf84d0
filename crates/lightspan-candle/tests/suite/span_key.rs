use candle_core::Tensor;
use lightspan::DType;
use lightspan::problem::{SpanKeyBackwardProblem, SpanKeyProblem, SpanKeyWanted};
use lightspan::reference::{self, SpanKeyInputs};
use lightspan_candle::{SpanKeyOptions, SpanKeyTensors, span_key};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::{Call, ConvCase, Numbers, Unfused, candle, check, config, conv_case};

/// x of `channels`, query, depthwise, pointwise and key_bias; z in f32 where `wide` says so.
fn call(case: &ConvCase, channels: usize, wide: bool) -> Call {
    let mut numbers = Numbers::new(case.seed);
    let (outputs, sequences) = (case.channels(), &case.sequences);
    let output_dtype = if wide { DType::F32 } else { case.dtype };
    let x = numbers.tokens(sequences, &[channels], case.dtype, 1.0);
    let query = numbers.tokens(sequences, &[outputs], case.dtype, 1.0);
    let depthwise = numbers.draw(&[channels, case.width()], case.parameters, 1.0);
    let pointwise = numbers.draw(&[outputs, channels], case.parameters, 1.0);
    let key_bias = case.bias.then(|| numbers.draw(&[outputs], case.parameters, 1.0));
    let dy = numbers.tokens(sequences, &[outputs], output_dtype, 1.0);

    let problem = SpanKeyProblem::new(sequences.shape(), channels, outputs, case.window, case.dtype)
        .and_then(|problem| problem.with_parameters(case.parameters))
        .and_then(|problem| problem.with_key_bias(case.bias).with_output(output_dtype))
        .unwrap();
    let backward = SpanKeyBackwardProblem::new(problem, SpanKeyWanted::ALL).unwrap();
    let inputs = SpanKeyInputs {
        x: &x.data,
        query: &query.data,
        depthwise: &depthwise.data,
        pointwise: &pointwise.data,
        key_bias: key_bias.as_ref().map(|bias| &bias.data[..]),
        history: None,
    };
    let output = reference::every_token(sequences, outputs, |s, t| {
        reference::span_key(&problem, sequences, inputs, (s, t))
    });
    let found = reference::span_key_backward(&backward, sequences, inputs, &dy.data);
    Call {
        output,
        gradients: vec![found.x, found.query, found.depthwise, found.pointwise, found.key_bias],
        inputs: vec![
            Some(("x", x)),
            Some(("query", query)),
            Some(("depthwise", depthwise)),
            Some(("pointwise", pointwise)),
            key_bias.map(|bias| ("key_bias", bias)),
        ],
        dy,
        tracked: case.tracked,
        seed: case.seed,
    }
}

fn equals_composition(case: &ConvCase, channels: usize, wide: bool) -> Result<(), TestCaseError> {
    let ConvCase { sequences, window, normalize, .. } = case.clone();
    let unfused = Unfused { sequences: &sequences, window, normalize, dropout: None };
    let ours = |inputs: &[Option<Tensor>]| {
        let [x, query, depthwise, pointwise] = [0, 1, 2, 3].map(|i: usize| inputs[i].as_ref().unwrap());
        let tensors = SpanKeyTensors { x, query, depthwise, pointwise };
        let output = wide.then_some(candle(DType::F32));
        let options = SpanKeyOptions { key_bias: inputs[4].as_ref(), sequences: case.told(), output };
        span_key(&tensors, window, &options)
    };
    let composed = |inputs: &[Option<Tensor>]| {
        let [x, query, depthwise, pointwise] = [0, 1, 2, 3].map(|i: usize| inputs[i].as_ref().unwrap());
        unfused.key(x, query, depthwise, pointwise, inputs[4].as_ref())
    };
    check(&call(case, channels, wide), &ours, &composed)
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn equals_what_candle_composes(case in conv_case(), channels in 1usize..14, wide in any::<bool>()) {
        equals_composition(&case, channels, wide)?;
    }
}
