use candle_core::Tensor;
use lightspan::problem::{LightConvBackwardProblem, LightConvProblem, LightConvWanted};
use lightspan::reference::{self, LightConvInputs};
use lightspan_candle::{ConvOptions, light_conv};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::{Call, ConvCase, Numbers, Unfused, check, config, conv_case};

fn call(case: &ConvCase) -> Call {
    let mut numbers = Numbers::new(case.seed);
    let (channels, sequences) = (case.channels(), &case.sequences);
    let x = numbers.tokens(sequences, &[channels], case.dtype, 1.0);
    let weight = numbers.draw(&[case.heads, case.width()], case.parameters, 2.0);
    let bias = case.bias.then(|| numbers.draw(&[channels], case.parameters, 1.0));
    let dy = numbers.tokens(sequences, &[channels], case.dtype, 1.0);

    let problem = LightConvProblem::new(case.convolution());
    let backward = LightConvBackwardProblem::new(problem, LightConvWanted::ALL).unwrap();
    let inputs = LightConvInputs {
        x: &x.data,
        weight: &weight.data,
        bias: bias.as_ref().map(|bias| &bias.data[..]),
        history: None,
        seed: case.dropout_seed(),
    };
    let output = reference::every_token(sequences, channels, |s, t| {
        reference::light_conv(&problem, sequences, inputs, (s, t))
    });
    let found = reference::light_conv_backward(&backward, sequences, inputs, &dy.data);
    Call {
        output,
        gradients: vec![found.x, found.weight, found.bias],
        inputs: vec![Some(("x", x)), Some(("weight", weight)), bias.map(|bias| ("bias", bias))],
        dy,
        tracked: case.tracked,
        seed: case.seed,
    }
}

fn equals_composition(case: &ConvCase) -> Result<(), TestCaseError> {
    let ConvCase { sequences, window, normalize, dropout, .. } = case.clone();
    let unfused = Unfused { sequences: &sequences, window, normalize, dropout };
    let ours = |inputs: &[Option<Tensor>]| {
        let options = ConvOptions { bias: inputs[2].as_ref(), normalize, sequences: case.told(), dropout };
        light_conv(inputs[0].as_ref().unwrap(), inputs[1].as_ref().unwrap(), window, &options)
    };
    let composed = |inputs: &[Option<Tensor>]| {
        unfused.convolve(inputs[0].as_ref().unwrap(), inputs[1].as_ref().unwrap(), inputs[2].as_ref())
    };
    check(&call(case), &ours, &composed)
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn equals_what_candle_composes(case in conv_case()) {
        equals_composition(&case)?;
    }
}
