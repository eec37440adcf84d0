//! The gradients of the reference against differences of its outputs, both in f64: in a drawn direction, for each input.

use lightspan::problem::{
    AttentionBackwardProblem, AttentionWanted, DynamicConvBackwardProblem, DynamicConvWanted,
    LightConvBackwardProblem, LightConvProblem, LightConvWanted, LinearBackwardProblem, LinearWanted,
    SpanConvBackwardProblem, SpanConvWanted, SpanKeyBackwardProblem, SpanKeyWanted,
};
use lightspan::reference::{self, Estimate};
use lightspan::{DType, Sequences};
use proptest::prelude::*;

use crate::dynamic_conv::{Generator, generator};
use crate::support::{ConvCase, Numbers, Values, config, trained_case};
use crate::{attention, dynamic_conv, light_conv, linear, span_conv, span_key};

/// How far numbers are moved. Differences of f64 lose 1e-16 / STEP of the loss, and STEP^2 to its third derivative.
const STEP: f64 = 1e-4;

/// What of the loss, and of the sum that the derivative is, may be lost.
const TOLERANCE: f64 = 1e-6;

/// An input of a call, and its gradient.
type Input<C> = (&'static str, fn(&mut C) -> Option<&mut Values>, Vec<Estimate>);

/// Fails unless each gradient of the loss sum dy y is what differences of the loss are.
fn check<C>(
    call: &mut C,
    inputs: Vec<Input<C>>,
    seed: u64,
    dy: &Values,
    outputs: impl Fn(&C) -> Vec<Estimate>,
) -> Result<(), TestCaseError> {
    let mut numbers = Numbers::new(seed ^ 2);
    // The loss, and the sum of the magnitudes of its terms. dy is NaN in the padding, where y is zero.
    let loss = |call: &C| {
        let y = outputs(call);
        assert_eq!(y.len(), dy.data.len());
        let terms = y.iter().zip(&dy.data).filter(|(_, dy)| !dy.is_nan()).map(|(y, dy)| y.value * dy);
        terms.fold((0.0, 0.0), |(sum, size), term: f64| (sum + term, size + term.abs()))
    };
    for (name, input, gradient) in inputs {
        let Some(values) = input(call) else {
            prop_assert!(gradient.is_empty(), "d{name} is there, and {name} is not");
            continue;
        };
        let before = values.data.clone();
        prop_assert_eq!(gradient.len(), before.len(), "numbers of d{}", name);
        let direction = numbers.draw(&[before.len()], DType::F32, 1.0).data;
        let mut moved = |by: f64| {
            let values = input(call).unwrap();
            for ((value, before), along) in values.data.iter_mut().zip(&before).zip(&direction) {
                *value = before + by * along;
            }
            loss(call)
        };
        let ((above, size), (below, _)) = (moved(STEP), moved(-STEP));
        moved(0.0);
        let terms = gradient.iter().zip(&direction).map(|(gradient, along)| gradient.value * along);
        let (derivative, all) =
            terms.fold((0.0, 0.0), |(sum, all), term: f64| (sum + term, all + term.abs()));
        let differences = (above - below) / (2.0 * STEP);
        prop_assert!(
            (differences - derivative).abs() <= TOLERANCE * (size + all + 1.0),
            "d{name} is {derivative:e} along the direction, differences are {differences:e}"
        );
    }
    Ok(())
}

/// Numbers for the gradient of the output, in f64 alone.
fn gradient_of_output(sequences: &Sequences, channels: usize, seed: u64) -> Values {
    Numbers::new(seed ^ 1).tokens(sequences, channels, DType::F32, 1.0)
}

fn short(mut case: ConvCase) -> ConvCase {
    case.head_channels = case.head_channels.min(9);
    case
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn light_conv(case in trained_case()) {
        let case = short(case);
        let mut call = light_conv::Call::draw(&case);
        let dy = gradient_of_output(&case.sequences, case.channels(), case.seed);
        let forward = LightConvProblem::new(case.convolution());
        let problem = LightConvBackwardProblem::new(forward, LightConvWanted::ALL).unwrap();
        let found = reference::light_conv_backward(&problem, &case.sequences, call.inputs(), &dy.data);
        let bias = if case.bias { found.bias } else { vec![] };
        let inputs: Vec<Input<light_conv::Call>> = vec![
            ("x", |call| Some(&mut call.x), found.x),
            ("weight", |call| Some(&mut call.weight), found.weight),
            ("bias", |call| call.bias.as_mut(), bias),
        ];
        check(&mut call, inputs, case.seed, &dy, light_conv::Call::expected)?;
    }

    #[test]
    fn dynamic_conv(case in trained_case(), generator in generator()) {
        let case = short(case);
        let mut call = dynamic_conv::Call::draw(&case, generator);
        let dy = gradient_of_output(&case.sequences, case.channels(), case.seed);
        let problem = DynamicConvBackwardProblem::new(call.problem, DynamicConvWanted::ALL).unwrap();
        let found = reference::dynamic_conv_backward(&problem, &case.sequences, call.inputs(), &dy.data);
        let weight = if matches!(generator, Generator::Given) { found.logits } else { found.weight };
        let when = |there: bool, gradient: Vec<Estimate>| if there { gradient } else { vec![] };
        let inputs: Vec<Input<dynamic_conv::Call>> = vec![
            ("x", |call| Some(&mut call.x), found.x),
            ("weight", |call| Some(&mut call.weight), weight),
            ("weight_bias", |call| call.weight_bias.as_mut(), when(call.weight_bias.is_some(), found.weight_bias)),
            ("query", |call| call.query.as_mut(), found.query),
            ("bias", |call| call.bias.as_mut(), when(case.bias, found.bias)),
        ];
        check(&mut call, inputs, case.seed, &dy, dynamic_conv::Call::expected)?;
    }

    #[test]
    fn span_key(case in trained_case(), outputs in 1usize..10) {
        let case = short(case);
        let mut call = span_key::Call::draw(&case, outputs, case.dtype);
        let dz = gradient_of_output(&case.sequences, outputs, case.seed);
        let problem = SpanKeyBackwardProblem::new(call.problem, SpanKeyWanted::ALL).unwrap();
        let found = reference::span_key_backward(&problem, &case.sequences, call.inputs(), &dz.data);
        let inputs: Vec<Input<span_key::Call>> = vec![
            ("x", |call| Some(&mut call.x), found.x),
            ("query", |call| Some(&mut call.query), found.query),
            ("depthwise", |call| Some(&mut call.depthwise), found.depthwise),
            ("pointwise", |call| Some(&mut call.pointwise), found.pointwise),
            ("key_bias", |call| call.key_bias.as_mut(), if case.bias { found.key_bias } else { vec![] }),
        ];
        check(&mut call, inputs, case.seed, &dz, span_key::Call::expected)?;
    }

    #[test]
    fn span_conv(case in trained_case(), channels in 1usize..10) {
        let case = short(case);
        let mut call = span_conv::Call::draw(&case, channels);
        let dy = gradient_of_output(&case.sequences, case.channels(), case.seed);
        let problem = SpanConvBackwardProblem::new(call.problem, SpanConvWanted::ALL).unwrap();
        let found = reference::span_conv_backward(&problem, &case.sequences, call.inputs(), &dy.data);
        let when = |there: bool, gradient: Vec<Estimate>| if there { gradient } else { vec![] };
        let inputs: Vec<Input<span_conv::Call>> = vec![
            ("x", |call| Some(&mut call.x), found.key.x),
            ("query", |call| Some(&mut call.query), found.key.query),
            ("depthwise", |call| Some(&mut call.depthwise), found.key.depthwise),
            ("pointwise", |call| Some(&mut call.pointwise), found.key.pointwise),
            ("key_bias", |call| call.key_bias.as_mut(), when(case.bias, found.key.key_bias)),
            ("value", |call| Some(&mut call.value), found.conv.x),
            ("weight", |call| Some(&mut call.weight), found.conv.weight),
            ("weight_bias", |call| call.weight_bias.as_mut(), when(case.bias, found.conv.weight_bias)),
            ("bias", |call| call.bias.as_mut(), when(case.bias, found.conv.bias)),
        ];
        check(&mut call, inputs, case.seed, &dy, span_conv::Call::expected)?;
    }

    #[test]
    fn linear(problem in linear::differentiable(), seed in any::<u64>()) {
        let mut call = linear::Call::draw(problem, seed);
        let outputs = |call: &linear::Call| (0..problem.rows()).flat_map(|row| call.expected(row)).collect::<Vec<_>>();
        let y: Vec<f64> = outputs(&call).iter().map(|y| y.value).collect();
        let mut dy = Numbers::new(seed ^ 1).draw(&[problem.rows(), problem.outputs()], DType::F32, 1.0);
        // No difference is taken across the corner of a ReLU.
        let raw = linear::Call {
            problem: problem.with_activation(Default::default()).unwrap(),
            x: call.x.clone(),
            weight: call.weight.clone(),
            bias: call.bias.clone(),
            residual: call.residual.clone(),
        };
        let near = |y: &Estimate| y.value.abs() < 1e3 * STEP;
        outputs(&raw).iter().zip(&mut dy.data).filter(|(y, _)| near(y)).for_each(|(_, dy)| *dy = 0.0);
        let problem = LinearBackwardProblem::new(problem, LinearWanted::ALL).unwrap();
        let found = reference::linear_backward(&problem, call.inputs(), &y, &dy.data);
        let inputs: Vec<Input<linear::Call>> = vec![
            ("x", |call| Some(&mut call.x), found.x),
            ("weight", |call| Some(&mut call.weight), found.weight),
            ("bias", |call| call.bias.as_mut(), if call.bias.is_some() { found.bias } else { vec![] }),
        ];
        check(&mut call, inputs, seed, &dy, outputs)?;
    }

    #[test]
    fn attention(case in attention::case(30)) {
        let mut call = attention::Call::draw(&case);
        let dy = gradient_of_output(&case.queries, case.heads * case.head_channels, case.seed);
        let y: Vec<f64> = call.expected().iter().map(|y| y.value).collect();
        let problem = AttentionBackwardProblem::new(call.problem(), AttentionWanted::ALL);
        let found = reference::attention_backward(&problem, &case.queries, &case.keys, call.inputs(), &y, &dy.data);
        let inputs: Vec<Input<attention::Call>> = vec![
            ("q", |call| Some(&mut call.q), found.q),
            ("k", |call| Some(&mut call.k), found.k),
            ("v", |call| Some(&mut call.v), found.v),
        ];
        check(&mut call, inputs, case.seed, &dy, attention::Call::expected)?;
    }
}
