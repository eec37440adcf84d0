//! Every drawn call on memory of one's own gives the bits that it gives on tensors: all types, biases, histories and
//! layouts, rows with gaps, and outputs that hold NaN.

use std::iter::repeat_n;

use lightspan::cpu::{self, Elements, RowsMut};
use lightspan::ops::AttentionKind;
use lightspan::problem::{Convolution, DynamicConvProblem, HistoryProblem, LightConvProblem, Taps};
use lightspan::{DType, Device, Normalize, Sequences, Tensor, Window};
use proptest::prelude::*;

use crate::dynamic_conv::{Generator, generator};
use crate::support::{ConvCase, Memory, Numbers, Values, config, conv_case, long_conv_case};
use crate::{append, attention, dynamic_conv, light_conv, linear, norm, span_conv, span_key};

/// How memory differs from that of a tensor: NaN after each row of tokens, and after all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Slack {
    pub gap: usize,
    pub extra: usize,
}

impl Slack {
    pub fn rows(self, values: &Values, width: usize) -> (Memory, usize) {
        (Memory::with_gaps(values, width, self.gap), width + self.gap)
    }

    pub fn parameter(self, values: &Values) -> Memory {
        Memory::longer(values, self.extra)
    }

    pub fn optional(self, values: &Option<Values>) -> Option<Memory> {
        values.as_ref().map(|values| self.parameter(values))
    }

    /// Fails unless `run` writes the numbers of `expected` over NaN, and nothing between its rows.
    pub fn same(
        self,
        expected: &Tensor,
        width: usize,
        run: impl FnOnce(RowsMut<'_>) -> lightspan::Result<()>,
    ) -> Result<(), TestCaseError> {
        let (rows, stride) = (expected.len() / width, width + self.gap);
        let mut y = Memory::new(vec![f32::NAN; rows * stride], expected.dtype());
        run(y.rows_mut(stride)).unwrap();
        let bits = |data: &[f32]| data.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        let expected = expected.to_f32().unwrap();
        for (row, (expected, y)) in expected.chunks(width).zip(y.to_f32().chunks(stride)).enumerate() {
            prop_assert_eq!(bits(expected), bits(&y[..width]), "row {}", row);
            prop_assert!(y[width..].iter().all(|y| y.is_nan()), "the gap after row {}", row);
        }
        Ok(())
    }
}

pub fn elements(memory: &Option<Memory>) -> Option<Elements<'_>> {
    memory.as_ref().map(Memory::elements)
}

/// Scratch may hold anything.
pub fn scratch(numbers: usize) -> Vec<f32> {
    vec![f32::NAN; numbers]
}

fn light(case: &ConvCase, slack: Slack) -> Result<(), TestCaseError> {
    let (call, channels) = (light_conv::Call::draw(case), case.channels());
    let (x, stride) = slack.rows(&call.x, channels);
    let weight = slack.parameter(&call.weight);
    let [bias, history] = [&call.bias, &call.history].map(|values| slack.optional(values));
    let operator = cpu::LightConv::new(LightConvProblem::new(case.convolution()));
    slack.same(&call.run(&Device::cpu()), channels, |y| {
        let args = cpu::LightConvArgs {
            sequences: &case.sequences,
            x: x.rows(stride),
            weight: weight.elements(),
            bias: elements(&bias),
            history: elements(&history),
            seed: case.dropout_seed(),
            y,
        };
        operator.run(args, &mut scratch(operator.scratch_len()))
    })
}

fn dynamic(case: &ConvCase, generator: Generator, slack: Slack) -> Result<(), TestCaseError> {
    let (call, channels) = (dynamic_conv::Call::draw(case, generator), case.channels());
    let (x, stride) = slack.rows(&call.x, channels);
    let (logits, logit_stride) = slack.rows(&call.weight, call.problem.logits());
    let weight = slack.parameter(&call.weight);
    let [weight_bias, bias, history] =
        [&call.weight_bias, &call.bias, &call.history].map(|values| slack.optional(values));
    let query_channels = call.query.as_ref().map_or(1, |query| *query.shape.last().unwrap());
    let query = call.query.as_ref().map(|query| slack.rows(query, query_channels));
    let taps = match call.problem.taps() {
        Taps::Given => cpu::TapArgs::Given { logits: logits.rows(logit_stride) },
        _ => cpu::TapArgs::Generated {
            weight: weight.elements(),
            weight_bias: elements(&weight_bias),
            query: query.as_ref().map(|(query, stride)| query.rows(*stride)),
        },
    };
    let operator = cpu::DynamicConv::new(call.problem);
    slack.same(&call.run(&Device::cpu()), channels, |y| {
        let args = cpu::DynamicConvArgs {
            sequences: &case.sequences,
            x: x.rows(stride),
            taps,
            bias: elements(&bias),
            history: elements(&history),
            seed: case.dropout_seed(),
            y,
        };
        operator.run(args, &mut scratch(operator.scratch_len()))
    })
}

fn key(case: &ConvCase, outputs: usize, wide: bool, slack: Slack) -> Result<(), TestCaseError> {
    let call = span_key::Call::draw(case, outputs, if wide { DType::F32 } else { case.dtype });
    let (x, stride) = slack.rows(&call.x, case.channels());
    let (query, query_stride) = slack.rows(&call.query, outputs);
    let [depthwise, pointwise] = [&call.depthwise, &call.pointwise].map(|values| slack.parameter(values));
    let [key_bias, history] = [&call.key_bias, &call.history].map(|values| slack.optional(values));
    let operator = cpu::SpanKey::new(call.problem);
    slack.same(&call.run(&Device::cpu()), outputs, |z| {
        let args = cpu::SpanKeyArgs {
            sequences: &case.sequences,
            x: x.rows(stride),
            query: query.rows(query_stride),
            depthwise: depthwise.elements(),
            pointwise: pointwise.elements(),
            key_bias: elements(&key_bias),
            history: elements(&history),
            z,
        };
        operator.run(args, &mut scratch(operator.scratch_len()))
    })
}

fn span(case: &ConvCase, channels: usize, slack: Slack) -> Result<(), TestCaseError> {
    let (call, outputs) = (span_conv::Call::draw(case, channels), case.channels());
    let (x, stride) = slack.rows(&call.x, channels);
    let [(query, output_stride), (value, _)] =
        [&call.query, &call.value].map(|values| slack.rows(values, outputs));
    let [depthwise, pointwise, weight] =
        [&call.depthwise, &call.pointwise, &call.weight].map(|values| slack.parameter(values));
    let [key_bias, weight_bias, bias] =
        [&call.key_bias, &call.weight_bias, &call.bias].map(|values| slack.optional(values));
    let [history, value_history] = [&call.history, &call.value_history].map(|values| slack.optional(values));
    let operator = cpu::SpanConv::new(call.problem);
    slack.same(&call.run(&Device::cpu()), outputs, |y| {
        let args = cpu::SpanConvArgs {
            sequences: &case.sequences,
            x: x.rows(stride),
            query: query.rows(output_stride),
            value: value.rows(output_stride),
            depthwise: depthwise.elements(),
            pointwise: pointwise.elements(),
            key_bias: elements(&key_bias),
            weight: weight.elements(),
            weight_bias: elements(&weight_bias),
            bias: elements(&bias),
            history: elements(&history),
            value_history: elements(&value_history),
            seed: case.dropout_seed(),
            y,
        };
        operator.run(args, &mut scratch(operator.scratch_len()))
    })
}

fn linear(call: &linear::Call, slack: Slack) -> Result<(), TestCaseError> {
    let (x, stride) = slack.rows(&call.x, call.problem.inputs());
    let (weight, bias) = (slack.parameter(&call.weight), slack.optional(&call.bias));
    let residual = call.residual.as_ref().map(|residual| slack.rows(residual, call.problem.outputs()));
    let operator = cpu::Linear::new(call.problem);
    slack.same(&call.run(&Device::cpu()), call.problem.outputs(), |y| {
        let residual = residual.as_ref().map(|(residual, stride)| residual.rows(*stride));
        let (weight, bias) = (weight.elements(), elements(&bias));
        let args = cpu::LinearArgs { x: x.rows(stride), weight, bias, residual, y };
        operator.run(args, &mut scratch(operator.scratch_len()))
    })
}

fn normed(call: &norm::Call, slack: Slack) -> Result<(), TestCaseError> {
    let channels = call.problem.channels();
    let (x, stride) = slack.rows(&call.x, channels);
    let residual = call.residual.as_ref().map(|residual| slack.rows(residual, channels));
    let (weight, bias) = (slack.parameter(&call.weight), slack.optional(&call.bias));
    let operator = cpu::Norm::new(call.problem);
    let run = |y: RowsMut<'_>, sum: Option<RowsMut<'_>>| {
        let residual = residual.as_ref().map(|(residual, stride)| residual.rows(*stride));
        let (weight, bias) = (weight.elements(), elements(&bias));
        let args = cpu::NormArgs { x: x.rows(stride), residual, weight, bias, y, sum };
        operator.run(args, &mut scratch(operator.scratch_len()))
    };
    let (y, sum) = call.run(&Device::cpu());
    let mut other = Memory::new(vec![0.0; call.problem.tokens() * channels], call.problem.dtype());
    slack.same(&y, channels, |y| run(y, call.problem.has_sum().then(|| other.rows_mut(channels))))?;
    match sum {
        Some(sum) => slack.same(&sum, channels, |sum| run(other.rows_mut(channels), Some(sum))),
        None => Ok(()),
    }
}

fn attend(case: &attention::Case, kind: AttentionKind, slack: Slack) -> Result<(), TestCaseError> {
    let (call, channels) = (attention::Call::draw(case), case.heads * case.head_channels);
    let [(q, stride), (k, _), (v, _)] =
        [&call.q, &call.k, &call.v].map(|values| slack.rows(values, channels));
    let operator = cpu::Attention::new(call.problem(), kind);
    slack.same(&call.run(kind, &Device::cpu()), channels, |y| {
        let args = cpu::AttentionArgs {
            queries: &case.queries,
            keys: &case.keys,
            q: q.rows(stride),
            k: k.rows(stride),
            v: v.rows(stride),
            y,
        };
        operator.run(args, &mut scratch(operator.scratch_len(&case.queries, &case.keys)))
    })
}

fn slack() -> impl Strategy<Value = Slack> {
    (0usize..4).prop_map(|gap| Slack { gap, extra: 0 })
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn light_conv(case in prop_oneof![conv_case(), long_conv_case()], slack in slack()) {
        light(&case, slack)?;
    }

    #[test]
    fn dynamic_conv(
        case in prop_oneof![conv_case(), long_conv_case()], generator in generator(), slack in slack()
    ) {
        dynamic(&case, generator, slack)?;
    }

    #[test]
    fn span_key(case in conv_case(), outputs in 1usize..20, wide in any::<bool>(), slack in slack()) {
        key(&case, outputs, wide, slack)?;
    }

    #[test]
    fn span_conv(case in conv_case(), channels in 1usize..20, slack in slack()) {
        span(&case, channels, slack)?;
    }

    #[test]
    fn linear_layer(problem in linear::problem(), seed in any::<u64>(), slack in slack()) {
        linear(&linear::Call::draw(problem, seed), slack)?;
    }

    #[test]
    fn norms(problem in norm::problem(), seed in any::<u64>(), slack in slack()) {
        normed(&norm::Call::draw(problem, 1.0, seed), slack)?;
    }

    /// Without gaps: its products may take another path, and another last bit, where one column has a stride.
    #[test]
    fn attention_of_both_kinds(case in attention::case(80)) {
        for kind in attention::KINDS {
            attend(&case, kind, Slack { gap: 0, extra: 0 })?;
        }
    }

    #[test]
    fn history(
        case in conv_case().prop_filter("causal", |case| case.window.is_causal()), slack in slack()
    ) {
        let (sequences, channels) = (&case.sequences, case.channels());
        let conv = Convolution::new(sequences.shape(), channels, 1, case.window, case.dtype).unwrap();
        let problem = HistoryProblem::new(conv).unwrap();
        let mut numbers = Numbers::new(case.seed);
        let x = numbers.tokens(sequences, channels, case.dtype, 2.0);
        let history = numbers.draw(&problem.convolution().history_shape(), case.dtype, 2.0);
        let device = Device::cpu();
        let expected =
            lightspan::ops::history(&x.on(&device), &history.on(&device), case.window, Some(sequences)).unwrap();
        let ((x, stride), history) = (slack.rows(&x, channels), slack.parameter(&history));
        let mut next = Memory::new(vec![f32::NAN; expected.len() + slack.extra], case.dtype);
        let (history, rows) = (history.elements(), x.rows(stride));
        let args = cpu::HistoryArgs { sequences, x: rows, history, next: next.elements_mut() };
        cpu::History::new(problem).run(args).unwrap();
        let next = next.to_f32();
        prop_assert_eq!(&next[..expected.len()], &expected.to_f32().unwrap()[..]);
        prop_assert!(next[expected.len()..].iter().all(|y| y.is_nan()));
    }
}

proptest! {
    #![proptest_config(config(300))]

    /// A cache with gaps, as keys have that lie beside their values.
    #[test]
    fn append(case in append::case(), slack in slack()) {
        let (dtype, channels) = (case.problem.dtype(), case.problem.channels());
        let rows = |bits: &[u32], gap: usize| {
            let row = |row: &[u32]| row.iter().copied().chain(repeat_n(0x7fff, gap)).collect::<Vec<_>>();
            Memory::of_bits(bits.chunks(channels).flat_map(row), dtype)
        };
        // Rows of x are closer together than those of the cache, or not.
        let (x, mut cache) = (rows(&case.x, slack.extra), rows(&case.cache, slack.gap));
        let args = cpu::AppendArgs {
            sequences: &case.sequences,
            x: x.rows(channels + slack.extra),
            cache: cache.rows_mut(channels + slack.gap),
        };
        cpu::Append::new(case.problem).run(args).unwrap();
        prop_assert_eq!(cache.bits(), rows(&case.expected(), slack.gap).bits());
    }
}

/// What is needed is the beginning of a slice: more of it is no error, in the type of the kernels or in another.
#[test]
fn parameters_may_be_longer_than_needed() {
    for (parameters, extra) in
        [DType::F32, DType::BF16].into_iter().flat_map(|dtype| (1..4).map(move |extra| (dtype, extra)))
    {
        let window = Window::causal(5).unwrap();
        let sequences = Sequences::padded(40, &[40, 3]).unwrap().after(&[2, 0]).unwrap();
        let case = ConvCase {
            sequences,
            heads: 3,
            head_channels: 5,
            window,
            normalize: Normalize::Softmax,
            dtype: parameters,
            parameters,
            bias: true,
            history: true,
            dropout: None,
            seed: 1,
        };
        let slack = Slack { gap: 0, extra };
        light(&case, slack).unwrap();
        key(&case, 7, true, slack).unwrap();
        dynamic(&case, Generator::Given, slack).unwrap();
        let problem = lightspan::problem::LinearProblem::new(9, 5, 7, parameters).unwrap().with_bias(true);
        linear(&linear::Call::draw(problem, 2), slack).unwrap();
        let kind = lightspan::problem::NormKind::Layer;
        let problem = lightspan::problem::NormProblem::new(kind, 9, 5, parameters).unwrap().with_bias(true);
        normed(&norm::Call::draw(problem, 1.0, 2), slack).unwrap();
        // Last those that copy a generator.
        dynamic(&case, Generator::Own { weight_bias: true }, slack).unwrap();
        span(&case, 7, slack).unwrap();
    }
}

/// An operator says which problem it was made for.
#[test]
fn operators_know_their_problem() {
    let sequences = Sequences::batch(1, 3).unwrap();
    let window = Window::causal(2).unwrap();
    let conv = Convolution::new(sequences.shape(), 4, 2, window, DType::F16).unwrap();
    let (light, dynamic) = (LightConvProblem::new(conv), DynamicConvProblem::generated(conv).unwrap());
    assert_eq!(*cpu::LightConv::new(light).problem(), light);
    assert_eq!(*cpu::DynamicConv::new(dynamic).problem(), dynamic);
}
