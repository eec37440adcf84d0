//! Drawn calls of every operator, bound to buffers that hold other things as well.

use ::wgpu::Buffer;
use lightspan::ops::AttentionKind;
use lightspan::problem::{Convolution, HistoryProblem, LightConvProblem, Taps};
use lightspan::reference::{self, Estimate};
use lightspan::wgpu::{self as room, DeviceSequences, Gpu};
use lightspan::{DType, Dropout, Sequences};
use proptest::test_runner::TestCaseError;

use crate::dynamic_conv::{self, Generator};
use crate::support::gpu::{Input, Output, Scatter};
use crate::support::{ConvCase, Numbers};
use crate::{attention, embedding, light_conv, linear, norm, span_conv, span_key, top_k};

/// A call that is ready to be recorded, and what it should write.
pub struct Prepared {
    pub call: room::Call,
    output: Output,
    expected: Vec<Estimate>,
}

impl Prepared {
    /// Fails unless the call was run, and wrote nothing beside its output.
    pub fn check(&self) -> Result<(), TestCaseError> {
        self.output.check(&self.expected)
    }
}

/// Records calls one after another and submits them together.
pub fn run<'a>(gpu: &Gpu, calls: impl IntoIterator<Item = &'a Prepared>) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    calls.into_iter().for_each(|prepared| prepared.call.record(&mut encoder));
    gpu.queue().submit([encoder.finish()]);
}

fn list(gpu: &Gpu, sequences: &Sequences) -> DeviceSequences {
    DeviceSequences::new(gpu, sequences).unwrap()
}

fn elements(input: &Option<Input>) -> Option<room::Elements<'_>> {
    input.as_ref().map(Input::elements)
}

pub fn light_conv(gpu: &Gpu, case: &ConvCase, scatter: &mut Scatter<'_>) -> Prepared {
    let (call, channels) = (light_conv::Call::draw(case), case.channels());
    let x = scatter.rows(&call.x, channels);
    let weight = scatter.elements(&call.weight);
    let [bias, history] = [&call.bias, &call.history].map(|values| scatter.optional(values));
    let output = scatter.output(case.sequences.shape().tokens(), channels, case.dtype);
    let operator = room::LightConv::new(gpu, LightConvProblem::new(case.convolution())).unwrap();
    let args = room::LightConvArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        weight: weight.elements(),
        bias: elements(&bias),
        history: elements(&history),
        seed: case.dropout.map(Dropout::seed),
        y: output.rows(),
    };
    Prepared { call: operator.bind(args).unwrap(), output, expected: call.expected() }
}

pub fn dynamic_conv(gpu: &Gpu, case: &ConvCase, generator: Generator, scatter: &mut Scatter<'_>) -> Prepared {
    let (call, channels) = (dynamic_conv::Call::draw(case, generator), case.channels());
    let x = scatter.rows(&call.x, channels);
    let [weight_bias, bias, history] =
        [&call.weight_bias, &call.bias, &call.history].map(|values| scatter.optional(values));
    let query = call.query.as_ref().map(|query| scatter.rows(query, *query.shape.last().unwrap()));
    let source = match call.problem.taps() {
        Taps::Given => scatter.rows(&call.weight, call.problem.logits()),
        _ => scatter.elements(&call.weight),
    };
    let taps = match call.problem.taps() {
        Taps::Given => room::TapArgs::Given { logits: source.rows() },
        _ => room::TapArgs::Generated {
            weight: source.elements(),
            weight_bias: elements(&weight_bias),
            query: query.as_ref().map(Input::rows),
        },
    };
    let output = scatter.output(case.sequences.shape().tokens(), channels, case.dtype);
    let operator = room::DynamicConv::new(gpu, call.problem).unwrap();
    let args = room::DynamicConvArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        taps,
        bias: elements(&bias),
        history: elements(&history),
        seed: case.dropout.map(Dropout::seed),
        y: output.rows(),
    };
    let scratch = scatter.scratch(operator.scratch_len());
    let bound = operator.bind(args, scratch.as_ref()).unwrap();
    Prepared { call: bound, output, expected: call.expected() }
}

pub fn span_key(
    gpu: &Gpu,
    case: &ConvCase,
    outputs: usize,
    wide: bool,
    scatter: &mut Scatter<'_>,
) -> Prepared {
    let output = if wide { DType::F32 } else { case.dtype };
    let call = span_key::Call::draw(case, outputs, output);
    let (x, query) = (scatter.rows(&call.x, case.channels()), scatter.rows(&call.query, outputs));
    let [depthwise, pointwise] = [&call.depthwise, &call.pointwise].map(|values| scatter.elements(values));
    let [key_bias, history] = [&call.key_bias, &call.history].map(|values| scatter.optional(values));
    let output = scatter.output(case.sequences.shape().tokens(), outputs, output);
    let args = room::SpanKeyArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        query: query.rows(),
        depthwise: depthwise.elements(),
        pointwise: pointwise.elements(),
        key_bias: elements(&key_bias),
        history: elements(&history),
        z: output.rows(),
    };
    let bound = room::SpanKey::new(gpu, call.problem).unwrap().bind(args).unwrap();
    Prepared { call: bound, output, expected: call.expected() }
}

pub fn span_conv(gpu: &Gpu, case: &ConvCase, channels: usize, scatter: &mut Scatter<'_>) -> Prepared {
    let (call, outputs) = (span_conv::Call::draw(case, channels), case.channels());
    let x = scatter.rows(&call.x, channels);
    let [query, value] = [&call.query, &call.value].map(|values| scatter.rows(values, outputs));
    let [depthwise, pointwise, weight] =
        [&call.depthwise, &call.pointwise, &call.weight].map(|values| scatter.elements(values));
    let [key_bias, weight_bias, bias] =
        [&call.key_bias, &call.weight_bias, &call.bias].map(|values| scatter.optional(values));
    let [history, value_history] =
        [&call.history, &call.value_history].map(|values| scatter.optional(values));
    let output = scatter.output(case.sequences.shape().tokens(), outputs, case.dtype);
    let args = room::SpanConvArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        query: query.rows(),
        value: value.rows(),
        depthwise: depthwise.elements(),
        pointwise: pointwise.elements(),
        key_bias: elements(&key_bias),
        weight: weight.elements(),
        weight_bias: elements(&weight_bias),
        bias: elements(&bias),
        history: elements(&history),
        value_history: elements(&value_history),
        seed: case.dropout.map(Dropout::seed),
        y: output.rows(),
    };
    let operator = room::SpanConv::new(gpu, call.problem).unwrap();
    let scratch = operator.scratch_len().map(|numbers| scatter.scratch(numbers));
    let bound = operator.bind(args, scratch.each_ref().map(Option::as_ref)).unwrap();
    Prepared { call: bound, output, expected: call.expected() }
}

pub fn linear(gpu: &Gpu, call: &linear::Call, scatter: &mut Scatter<'_>) -> Prepared {
    let problem = call.problem;
    let x = scatter.rows(&call.x, problem.inputs());
    let (weight, bias) = (scatter.elements(&call.weight), scatter.optional(&call.bias));
    let residual = call.residual.as_ref().map(|residual| scatter.rows(residual, problem.outputs()));
    let output = scatter.output(problem.rows(), problem.outputs(), problem.dtype());
    let args = room::LinearArgs {
        x: x.rows(),
        weight: weight.elements(),
        bias: elements(&bias),
        residual: residual.as_ref().map(Input::rows),
        y: output.rows(),
    };
    let bound = room::Linear::new(gpu, problem).unwrap().bind(args).unwrap();
    let expected = (0..problem.rows()).flat_map(|row| call.expected(row)).collect();
    Prepared { call: bound, output, expected }
}

/// Its sum, where it wants one, is checked here: it lies in a buffer of its own.
pub fn norm(gpu: &Gpu, call: &norm::Call, scatter: &mut Scatter<'_>) -> [Prepared; 2] {
    let (problem, channels) = (call.problem, call.problem.channels());
    let x = scatter.rows(&call.x, channels);
    let residual = call.residual.as_ref().map(|residual| scatter.rows(residual, channels));
    let (weight, bias) = (scatter.elements(&call.weight), scatter.optional(&call.bias));
    let mut output = || scatter.output(problem.tokens(), channels, problem.dtype());
    let (y, sum) = (output(), output());
    let args = room::NormArgs {
        x: x.rows(),
        residual: residual.as_ref().map(Input::rows),
        weight: weight.elements(),
        bias: elements(&bias),
        y: y.rows(),
        sum: problem.has_sum().then(|| sum.rows()),
    };
    let bound = room::Norm::new(gpu, problem).unwrap().bind(args).unwrap();
    let (of_y, of_sum) = call.expected();
    let of_sum = of_sum.unwrap_or_default();
    [
        Prepared { call: bound.clone(), output: y, expected: of_y },
        Prepared { call: bound, output: sum, expected: of_sum },
    ]
}

/// Ids of padding are past every table.
pub fn embedding(gpu: &Gpu, call: &embedding::Call, scatter: &mut Scatter<'_>) -> Prepared {
    let (problem, expected) = (call.problem, call.expected());
    let (call, channels) = (call.clone().with_wrong_padding(), problem.channels());
    let table = scatter.rows(&call.table, channels);
    let [positions, types] =
        [&call.positions, &call.types].map(|values| values.as_ref().map(|v| scatter.rows(v, channels)));
    let (tokens, first) = scatter.ids(&call.tokens);
    let type_ids = call.type_ids.as_ref().map(|ids| scatter.ids(ids));
    let output = scatter.output(problem.tokens(), channels, problem.dtype());
    let sequences = call.sequences.as_ref().map(|sequences| list(gpu, sequences));
    let args = room::EmbeddingArgs {
        sequences: sequences.as_ref(),
        tokens: room::Elements::at(&tokens, first),
        table: table.rows(),
        positions: positions.as_ref().map(Input::rows),
        type_ids: type_ids.as_ref().map(|(ids, first)| room::Elements::at(ids, *first)),
        types: types.as_ref().map(Input::rows),
        y: output.rows(),
    };
    let bound = room::Embedding::new(gpu, problem).unwrap().bind(args).unwrap();
    Prepared { call: bound, output, expected }
}

/// Values, and the buffer of the tokens with the place where they begin in it.
pub fn top_k(gpu: &Gpu, call: &top_k::Call, scatter: &mut Scatter<'_>) -> (Prepared, (Buffer, usize)) {
    let (problem, expected) = (call.problem, call.expected());
    let x = scatter.rows(&call.x, problem.vocabulary());
    let output = scatter.output(problem.rows(), problem.k(), DType::F32);
    let tokens = scatter.ids(&vec![7; expected.len()]);
    let args = room::TopKArgs {
        x: x.rows(),
        values: Some(output.rows()),
        tokens: room::Elements::at(&tokens.0, tokens.1),
    };
    let bound = room::TopK::new(gpu, problem).unwrap().bind(args).unwrap();
    let expected = expected.into_iter().map(|ranked| ranked.value).collect();
    (Prepared { call: bound, output, expected }, tokens)
}

pub fn attention(
    gpu: &Gpu,
    case: &attention::Case,
    kind: AttentionKind,
    scatter: &mut Scatter<'_>,
) -> Prepared {
    let (call, channels) = (attention::Call::draw(case), case.heads * case.head_channels);
    let [q, k, v] = [&call.q, &call.k, &call.v].map(|values| scatter.rows(values, channels));
    let output = scatter.output(case.queries.shape().tokens(), channels, case.dtype);
    let operator = room::Attention::new(gpu, call.problem(), kind).unwrap();
    let keys = list(gpu, &case.keys);
    let args = room::AttentionArgs {
        queries: &list(gpu, &case.queries),
        keys: &keys,
        q: q.rows(),
        k: k.rows(),
        v: v.rows(),
        y: output.rows(),
    };
    let scratch = scatter.scratch(operator.scratch_len(&keys));
    let bound = operator.bind(args, scratch.as_ref()).unwrap();
    Prepared { call: bound, output, expected: call.expected() }
}

/// `case` has a causal window.
pub fn history(gpu: &Gpu, case: &ConvCase, scatter: &mut Scatter<'_>) -> Prepared {
    let (sequences, channels) = (&case.sequences, case.channels());
    let conv = Convolution::new(sequences.shape(), channels, 1, case.window, case.dtype).unwrap();
    let problem = HistoryProblem::new(conv).unwrap();
    let mut numbers = Numbers::new(case.seed);
    let x = numbers.tokens(sequences, channels, case.dtype, 2.0);
    let history = numbers.draw(&problem.convolution().history_shape(), case.dtype, 2.0);
    let expected = reference::history(&problem, sequences, &x.data, &history.data);
    let (x, history) = (scatter.rows(&x, channels), scatter.elements(&history));
    // The next history lies side by side: its one row is all of it.
    let output = scatter.output(1, expected.len(), case.dtype);
    let args = room::HistoryArgs {
        sequences: &list(gpu, sequences),
        x: x.rows(),
        history: history.elements(),
        next: output.elements(),
    };
    let bound = room::History::new(gpu, problem).unwrap().bind(args).unwrap();
    Prepared { call: bound, output, expected: expected.into_iter().map(Estimate::exact).collect() }
}
