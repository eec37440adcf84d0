pub mod backward;

use lightspan::problem::{DynamicConvProblem, Taps};
use lightspan::reference::{self, DynamicConvInputs, Estimate, TapInputs};
use lightspan::{DType, Device, Tensor, ops};
use proptest::prelude::*;

use crate::support::{
    ConvCase, Numbers, Values, assert_admitted, config, conv_case, devices, long_conv_case, overwritten,
};

/// Where the logits of a drawn call come from.
#[derive(Clone, Copy, Debug)]
pub enum Generator {
    Given,
    Own { weight_bias: bool },
    Separate { channels: usize, wide: bool, weight_bias: bool },
}

pub fn generator() -> impl Strategy<Value = Generator> {
    prop_oneof![
        Just(Generator::Given),
        any::<bool>().prop_map(|weight_bias| Generator::Own { weight_bias }),
        (1usize..40, any::<bool>(), any::<bool>()).prop_map(|(channels, wide, weight_bias)| {
            Generator::Separate { channels, wide, weight_bias }
        }),
    ]
}

/// A drawn call with its numbers.
pub struct Call {
    pub case: ConvCase,
    pub problem: DynamicConvProblem,
    pub x: Values,
    /// Given logits, or the generator.
    pub weight: Values,
    pub weight_bias: Option<Values>,
    pub query: Option<Values>,
    pub bias: Option<Values>,
    pub history: Option<Values>,
}

impl Call {
    pub fn draw(case: &ConvCase, generator: Generator) -> Self {
        let mut numbers = Numbers::new(case.seed);
        let conv = case.convolution();
        let problem = match generator {
            Generator::Given => DynamicConvProblem::given(conv),
            Generator::Own { weight_bias } => {
                DynamicConvProblem::generated(conv).and_then(|problem| problem.with_weight_bias(weight_bias))
            }
            Generator::Separate { channels, wide, weight_bias } => {
                let dtype = if wide { DType::F32 } else { case.dtype };
                DynamicConvProblem::generated(conv)
                    .and_then(|problem| problem.with_query(channels, dtype)?.with_weight_bias(weight_bias))
            }
        }
        .unwrap();
        let (channels, logits) = (case.channels(), problem.logits());
        let draw_bias = |wanted: bool, numbers: &mut Numbers| {
            wanted.then(|| numbers.draw(&[logits], case.parameters, 1.0))
        };
        let (weight, weight_bias, query) = match generator {
            Generator::Given => {
                let mut weight = numbers.tokens(&case.sequences, logits, case.parameters, 3.0);
                let mut shape = case.sequences.shape().tensor(case.heads);
                shape.push(case.window.width());
                weight.shape = shape;
                (weight, None, None)
            }
            Generator::Own { weight_bias } => (
                numbers.draw(&[logits, channels], case.parameters, 2.0 / (channels as f32).sqrt()),
                draw_bias(weight_bias, &mut numbers),
                None,
            ),
            Generator::Separate { channels, wide, weight_bias } => (
                numbers.draw(&[logits, channels], case.parameters, 2.0 / (channels as f32).sqrt()),
                draw_bias(weight_bias, &mut numbers),
                Some(numbers.tokens(
                    &case.sequences,
                    channels,
                    if wide { DType::F32 } else { case.dtype },
                    2.0,
                )),
            ),
        };
        let shape = conv.history_shape();
        Call {
            problem,
            weight,
            weight_bias,
            query,
            x: numbers.tokens(&case.sequences, channels, case.dtype, 2.0),
            bias: case.bias.then(|| numbers.draw(&[channels], case.parameters, 1.0)),
            history: case.history.then(|| numbers.history(&case.sequences, shape, case.dtype, 2.0)),
            case: case.clone(),
        }
    }

    pub fn inputs(&self) -> DynamicConvInputs<'_> {
        fn data(values: &Option<Values>) -> Option<&[f64]> {
            values.as_ref().map(|values| &values.data[..])
        }
        let weight = &self.weight.data[..];
        let taps = match self.problem.taps() {
            Taps::Given => TapInputs::Given(weight),
            _ => TapInputs::Generated {
                weight,
                weight_bias: data(&self.weight_bias),
                query: data(&self.query),
            },
        };
        let (bias, history) = (data(&self.bias), data(&self.history));
        DynamicConvInputs { x: &self.x.data, taps, bias, history, seed: self.case.dropout_seed() }
    }

    pub fn expected(&self) -> Vec<Estimate> {
        let sequences = &self.case.sequences;
        reference::every_token(sequences, self.case.channels(), |s, t| {
            reference::dynamic_conv(&self.problem, sequences, self.inputs(), (s, t))
        })
    }

    /// Calls `run` with x, the logits or the generator, and the options, on a device; a call with given logits takes those of
    /// the convolution.
    pub fn on<R>(
        &self,
        device: &Device,
        run: impl FnOnce(&Tensor, &Tensor, &ops::DynamicConvOptions<'_>, &ops::ConvOptions<'_>) -> R,
    ) -> R {
        let tensor = |values: &Option<Values>| values.as_ref().map(|values| values.on(device));
        let (bias, history) = (tensor(&self.bias), tensor(&self.history));
        let (query, weight_bias) = (tensor(&self.query), tensor(&self.weight_bias));
        let (bias, history) = (bias.as_ref(), history.as_ref());
        let (query, weight_bias) = (query.as_ref(), weight_bias.as_ref());
        let ConvCase { normalize, dropout, .. } = self.case;
        let sequences = Some(&self.case.sequences);
        let generated =
            ops::DynamicConvOptions { query, weight_bias, bias, normalize, sequences, history, dropout };
        let given = ops::ConvOptions { bias, normalize, sequences, history, dropout };
        run(&self.x.on(device), &self.weight.on(device), &generated, &given)
    }

    pub fn run(&self, device: &Device) -> Tensor {
        let ConvCase { window, heads, .. } = self.case;
        self.on(device, |x, weight, options, given| match self.problem.taps() {
            Taps::Given => {
                let y = ops::dynamic_conv_given(x, weight, window, given).unwrap();
                overwritten(y, |y| ops::dynamic_conv_given_into(y, x, weight, window, given))
            }
            _ => {
                let y = ops::dynamic_conv(x, weight, heads, window, options).unwrap();
                overwritten(y, |y| ops::dynamic_conv_into(y, x, weight, heads, window, options))
            }
        })
    }
}

pub fn check(case: &ConvCase, generator: Generator) -> Result<(), TestCaseError> {
    let call = Call::draw(case, generator);
    let expected = call.expected();
    for device in devices() {
        assert_admitted(&expected, &call.run(&device))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn equals_the_reference(case in conv_case(), generator in generator()) {
        check(&case, generator)?;
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn equals_the_reference_over_many_tiles(case in long_conv_case(), generator in generator()) {
        check(&case, generator)?;
    }
}
