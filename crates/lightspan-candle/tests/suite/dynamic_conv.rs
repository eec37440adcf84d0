use candle_core::Tensor;
use lightspan::DType;
use lightspan::problem::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted};
use lightspan::reference::{self, DynamicConvInputs, TapInputs};
use lightspan_candle::{ConvOptions, DynamicConvOptions, dynamic_conv, dynamic_conv_given};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::{Call, ConvCase, Numbers, Unfused, check, config, conv_case};

/// What a generator may have.
#[derive(Clone, Copy, Debug)]
struct Generator {
    weight_bias: bool,
    /// Channels of a separate query, and whether it is in f32.
    query: Option<(usize, bool)>,
}

fn generator() -> impl Strategy<Value = Generator> {
    (any::<bool>(), prop::option::of((1usize..12, any::<bool>())))
        .prop_map(|(weight_bias, query)| Generator { weight_bias, query })
}

/// x, weight, query, weight_bias and bias.
fn generated(case: &ConvCase, generator: Generator) -> Call {
    let mut numbers = Numbers::new(case.seed);
    let (channels, sequences) = (case.channels(), &case.sequences);
    let logits = case.heads * case.width();
    let query_dtype = |wide: bool| if wide { DType::F32 } else { case.dtype };
    let x = numbers.tokens(sequences, &[channels], case.dtype, 1.0);
    let query_channels = generator.query.map_or(channels, |(channels, _)| channels);
    let query = generator
        .query
        .map(|(channels, wide)| numbers.tokens(sequences, &[channels], query_dtype(wide), 1.0));
    let weight = numbers.draw(&[logits, query_channels], case.parameters, 1.0);
    let weight_bias = generator.weight_bias.then(|| numbers.draw(&[logits], case.parameters, 1.0));
    let bias = case.bias.then(|| numbers.draw(&[channels], case.parameters, 1.0));
    let dy = numbers.tokens(sequences, &[channels], case.dtype, 1.0);

    let mut problem = DynamicConvProblem::generated(case.convolution()).unwrap();
    if let Some((channels, wide)) = generator.query {
        problem = problem.with_query(channels, query_dtype(wide)).unwrap();
    }
    let problem = problem.with_weight_bias(generator.weight_bias).unwrap();
    let taps = TapInputs::Generated {
        weight: &weight.data,
        weight_bias: weight_bias.as_ref().map(|bias| &bias.data[..]),
        query: query.as_ref().map(|query| &query.data[..]),
    };
    let inputs = DynamicConvInputs {
        x: &x.data,
        taps,
        bias: bias.as_ref().map(|bias| &bias.data[..]),
        history: None,
        seed: case.dropout_seed(),
    };
    let backward = DynamicConvBackwardProblem::new(problem, DynamicConvWanted::ALL).unwrap();
    let output = reference::every_token(sequences, channels, |s, t| {
        reference::dynamic_conv(&problem, sequences, inputs, (s, t))
    });
    let found = reference::dynamic_conv_backward(&backward, sequences, inputs, &dy.data);
    Call {
        output,
        gradients: vec![found.x, found.weight, found.query, found.weight_bias, found.bias],
        inputs: vec![
            Some(("x", x)),
            Some(("weight", weight)),
            query.map(|query| ("query", query)),
            weight_bias.map(|bias| ("weight_bias", bias)),
            bias.map(|bias| ("bias", bias)),
        ],
        dy,
        tracked: case.tracked,
        seed: case.seed,
    }
}

/// x, logits and bias.
fn given(case: &ConvCase) -> Call {
    let mut numbers = Numbers::new(case.seed);
    let (channels, sequences) = (case.channels(), &case.sequences);
    let x = numbers.tokens(sequences, &[channels], case.dtype, 1.0);
    let logits = numbers.tokens(sequences, &[case.heads, case.width()], case.parameters, 2.0);
    let bias = case.bias.then(|| numbers.draw(&[channels], case.parameters, 1.0));
    let dy = numbers.tokens(sequences, &[channels], case.dtype, 1.0);

    let problem = DynamicConvProblem::given(case.convolution()).unwrap();
    let inputs = DynamicConvInputs {
        x: &x.data,
        taps: TapInputs::Given(&logits.data),
        bias: bias.as_ref().map(|bias| &bias.data[..]),
        history: None,
        seed: case.dropout_seed(),
    };
    let backward = DynamicConvBackwardProblem::new(problem, DynamicConvWanted::ALL).unwrap();
    let output = reference::every_token(sequences, channels, |s, t| {
        reference::dynamic_conv(&problem, sequences, inputs, (s, t))
    });
    let found = reference::dynamic_conv_backward(&backward, sequences, inputs, &dy.data);
    Call {
        output,
        gradients: vec![found.x, found.logits, found.bias],
        inputs: vec![Some(("x", x)), Some(("logits", logits)), bias.map(|bias| ("bias", bias))],
        dy,
        tracked: case.tracked,
        seed: case.seed,
    }
}

fn equals_composition(case: &ConvCase, generator: Generator) -> Result<(), TestCaseError> {
    let ConvCase { sequences, window, normalize, dropout, .. } = case.clone();
    let unfused = Unfused { sequences: &sequences, window, normalize, dropout };
    let ours = |inputs: &[Option<Tensor>]| {
        let options = DynamicConvOptions {
            query: inputs[2].as_ref(),
            weight_bias: inputs[3].as_ref(),
            bias: inputs[4].as_ref(),
            normalize,
            sequences: case.told(),
            dropout,
        };
        let [x, weight] = [0, 1].map(|i: usize| inputs[i].as_ref().unwrap());
        dynamic_conv(x, weight, case.heads, window, &options)
    };
    let composed = |inputs: &[Option<Tensor>]| {
        let [x, weight] = [0, 1].map(|i: usize| inputs[i].as_ref().unwrap());
        let logits = unfused.generate(inputs[2].as_ref().unwrap_or(x), weight, inputs[3].as_ref())?;
        unfused.convolve(x, &logits, inputs[4].as_ref())
    };
    check(&generated(case, generator), &ours, &composed)
}

fn given_equals_composition(case: &ConvCase) -> Result<(), TestCaseError> {
    let ConvCase { sequences, window, normalize, dropout, .. } = case.clone();
    let unfused = Unfused { sequences: &sequences, window, normalize, dropout };
    let ours = |inputs: &[Option<Tensor>]| {
        let options = ConvOptions { bias: inputs[2].as_ref(), normalize, sequences: case.told(), dropout };
        let [x, logits] = [0, 1].map(|i: usize| inputs[i].as_ref().unwrap());
        dynamic_conv_given(x, logits, window, &options)
    };
    let composed = |inputs: &[Option<Tensor>]| {
        let [x, logits] = [0, 1].map(|i: usize| inputs[i].as_ref().unwrap());
        let logits = unfused.rows(logits)?.reshape((sequences.shape().tokens(), case.heads, case.width()))?;
        unfused.convolve(x, &logits, inputs[2].as_ref())
    };
    check(&given(case), &ours, &composed)
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn generated_equals_what_candle_composes(case in conv_case(), generator in generator()) {
        equals_composition(&case, generator)?;
    }

    #[test]
    fn given_equals_what_candle_composes(case in conv_case()) {
        given_equals_composition(&case)?;
    }
}
