//! Backward passes on buffers of one's own: as `own_buffers` for the forward ones, with several outputs.

mod convolutions;

use lightspan::ops::{self, AttentionKind};
use lightspan::problem::{Activation, Alignment, LinearProblem, LinearWanted, Mask};
use lightspan::wgpu::{self as room, DeviceSequences, Gpu};
use lightspan::{DType, Device, Result as LightspanResult, Sequences, Tensor, Window};
use proptest::prelude::*;

use crate::support::gpu::{Input, Output, Scatter, default_device, gpu_device};
use crate::support::{
    ConvCase, Expected, Selection, Values, assert_admitted, config, selection, trained_case,
    trained_long_case,
};
use crate::wgpu::size::{case as small_case, cases, many};
use crate::{attention, linear, span_key};

/// The gradients of a call, each in a buffer that holds other bits as well.
struct Outputs(Vec<(Expected, Option<Output>)>);

impl Outputs {
    /// Room for those that are wanted. Gradients of tokens have rows; others lie side by side.
    fn new(expected: Vec<Expected>, scatter: &mut Scatter<'_>) -> Self {
        let room = |expected: Expected| {
            let all = expected.estimates.len();
            let width = match expected.name {
                "dx" | "dquery" | "dlogits" | "dvalue" | "dq" | "dk" | "dv" => {
                    *expected.shape.last().unwrap()
                }
                _ => all.max(1),
            };
            let output = expected.wanted.then(|| scatter.output(all / width, width, expected.dtype));
            (expected, output)
        };
        Outputs(expected.into_iter().map(room).collect())
    }

    fn get(&self, name: &str) -> Option<&Output> {
        let (_, output) = self.0.iter().find(|(expected, _)| expected.name == name).unwrap();
        output.as_ref()
    }

    fn rows(&self, name: &str) -> Option<room::Rows<'_>> {
        self.get(name).map(Output::rows)
    }

    fn elements(&self, name: &str) -> Option<room::Elements<'_>> {
        self.get(name).map(Output::elements)
    }

    /// Runs the call twice, and fails unless it wrote what is wanted, and nothing beside it. A call leaves nothing behind:
    /// what its scratch memory holds the second time changes no bit.
    fn check(&self, gpu: &Gpu, call: &room::Call) -> Result<(), TestCaseError> {
        let run = || {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            call.record(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
            let outputs = self.0.iter().filter_map(|(_, output)| output.as_ref());
            outputs.map(Output::bytes).collect::<Vec<_>>()
        };
        let once = run();
        prop_assert!(once == run(), "other bits the second time");
        for (expected, output) in &self.0 {
            if let Some(output) = output {
                let name = expected.name;
                output
                    .check(&expected.estimates)
                    .map_err(|error| TestCaseError::fail(format!("{name}: {error}")))?;
            }
        }
        Ok(())
    }
}

/// Where tensors lie, and on which device.
#[derive(Clone, Copy, Debug)]
struct Place {
    seed: u64,
    step: usize,
    default_limits: bool,
}

fn place() -> impl Strategy<Value = Place> {
    (any::<u64>(), 1usize..=2, any::<bool>()).prop_map(|(seed, step, default_limits)| Place {
        seed,
        step,
        default_limits,
    })
}

/// Runs `test` with a device's buffers.
fn on(
    place: Place,
    test: impl FnOnce(&Gpu, &mut Scatter<'_>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let Some(device) = (if place.default_limits { default_device() } else { gpu_device() }) else {
        return Ok(());
    };
    let gpu = device.gpu().unwrap();
    test(gpu, &mut Scatter::new(gpu, place.seed, place.step))
}

/// Rows of a tensor `[.., channels]`.
fn rows(scatter: &mut Scatter<'_>, values: &Values) -> Input {
    scatter.rows(values, *values.shape.last().unwrap())
}

fn linear(
    gpu: &Gpu,
    backward: &linear::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let (call, problem) = (&backward.call, backward.problem());
    let [x, y, dy] = [&call.x, &backward.y, &backward.dy].map(|values| rows(scatter, values));
    let weight = scatter.elements(&call.weight);
    let outputs = Outputs::new(backward.expected(), scatter);
    let operator = room::LinearBackward::new(gpu, problem).unwrap();
    let args = room::LinearBackwardArgs {
        x: x.rows(),
        weight: weight.elements(),
        y: problem.needs_output().then(|| y.rows()),
        dy: dy.rows(),
        dx: outputs.rows("dx"),
        dweight: outputs.elements("dweight"),
        dbias: outputs.elements("dbias"),
    };
    let scratch = scatter.scratch(operator.scratch_len());
    outputs.check(gpu, &operator.bind(args, scratch.as_ref()).unwrap())
}

fn span_key(
    gpu: &Gpu,
    backward: &span_key::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let call = &backward.call;
    let [x, query, dz] = [&call.x, &call.query, &backward.dz].map(|values| rows(scatter, values));
    let [depthwise, pointwise] = [&call.depthwise, &call.pointwise].map(|values| scatter.elements(values));
    let key_bias = scatter.optional(&call.key_bias);
    let outputs = Outputs::new(backward.expected(), scatter);
    let operator = room::SpanKeyBackward::new(gpu, backward.problem()).unwrap();
    let args = room::SpanKeyBackwardArgs {
        sequences: &DeviceSequences::new(gpu, &call.case.sequences).unwrap(),
        x: x.rows(),
        query: query.rows(),
        depthwise: depthwise.elements(),
        pointwise: pointwise.elements(),
        key_bias: key_bias.as_ref().map(Input::elements),
        dz: dz.rows(),
        dx: outputs.rows("dx"),
        dquery: outputs.rows("dquery"),
        ddepthwise: outputs.elements("ddepthwise"),
        dpointwise: outputs.elements("dpointwise"),
        dkey_bias: outputs.elements("dkey_bias"),
    };
    let scratch = operator.scratch_len().map(|numbers| scatter.scratch(numbers));
    let call = operator.bind(args, scratch.each_ref().map(Option::as_ref)).unwrap();
    outputs.check(gpu, &call)
}

fn attention(
    gpu: &Gpu,
    backward: &attention::backward::Backward,
    kind: AttentionKind,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let call = &backward.call;
    let [q, k, v] = [&call.q, &call.k, &call.v].map(|values| rows(scatter, values));
    let [y, dy] = [&backward.y, &backward.dy].map(|values| rows(scatter, values));
    let outputs = Outputs::new(backward.expected(), scatter);
    let operator = room::AttentionBackward::new(gpu, backward.problem(), kind).unwrap();
    let keys = DeviceSequences::new(gpu, &call.case.keys).unwrap();
    let args = room::AttentionBackwardArgs {
        queries: &DeviceSequences::new(gpu, &call.case.queries).unwrap(),
        keys: &keys,
        q: q.rows(),
        k: k.rows(),
        v: v.rows(),
        y: y.rows(),
        dy: dy.rows(),
        dq: outputs.rows("dq"),
        dk: outputs.rows("dk"),
        dv: outputs.rows("dv"),
    };
    let scratch = scatter.scratch(operator.scratch_len(&keys));
    outputs.check(gpu, &operator.bind(args, scratch.as_ref()).unwrap())
}

/// Mostly short sequences.
fn case() -> impl Strategy<Value = ConvCase> {
    prop_oneof![4 => trained_case(), 1 => trained_long_case()]
}

fn key(case: &ConvCase, outputs: usize, wide: bool, selection: Selection) -> span_key::backward::Backward {
    let output = if wide { DType::F32 } else { case.dtype };
    span_key::backward::Backward::draw(case, outputs, output, selection)
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn linear_layer(problem in linear::differentiable(), seed in any::<u64>(), chosen in selection(), place in place()) {
        let backward = linear::backward::Backward::draw(problem, seed, chosen);
        on(place, |gpu, scatter| linear(gpu, &backward, scatter))?;
    }

    #[test]
    fn keys_of_spans(
        case in case(), outputs in 1usize..20, wide in any::<bool>(), chosen in selection(), place in place(),
    ) {
        let backward = key(&case, outputs, wide, chosen);
        on(place, |gpu, scatter| span_key(gpu, &backward, scatter))?;
    }

    #[test]
    fn attention_of_both_kinds(case in attention::case(80), chosen in selection(), place in place()) {
        let backward = attention::backward::Backward::draw(&case, chosen);
        for kind in attention::KINDS {
            on(place, |gpu, scatter| attention(gpu, &backward, kind, scatter))?;
        }
    }
}

/// Fails unless a call on tensors gave every gradient that there is, each within its bound.
fn assert_gradients(expected: &[Expected], got: LightspanResult<Vec<Option<Tensor>>>) {
    for (expected, got) in expected.iter().zip(got.unwrap()) {
        assert_eq!(got.is_some(), expected.wanted, "{}", expected.name);
        if let Some(Err(error)) = got.map(|got| assert_admitted(&expected.estimates, &got)) {
            panic!("{}: {error}", expected.name);
        }
    }
}

fn attention_case(queries: Sequences, keys: Sequences, dtype: DType) -> attention::Case {
    let (heads, head_channels, scale, mask, seed) = (1, 2, None, Mask::CAUSAL, 1);
    let alignment = Alignment::End;
    attention::Case { queries, keys, heads, head_channels, scale, mask, alignment, dtype, seed }
}

#[test]
fn more_workgroups_than_a_dimension_holds() {
    let Some((device, sequences)) = many() else { return };
    for case in cases(sequences) {
        let backward = key(&case, 1, false, Selection::ALL);
        assert_gradients(&backward.expected(), backward.run(&device));
        let case = attention_case(case.sequences.clone(), case.sequences, case.dtype);
        let backward = attention::backward::Backward::draw(&case, Selection::ALL);
        for kind in attention::KINDS {
            assert_gradients(&backward.expected(), backward.run(kind, &device));
        }
    }
    // A tile of a product has 128 rows at most.
    let problem = LinearProblem::new(128 * sequences.min(1000) + 1, 1, 1, DType::BF16).unwrap();
    let backward = linear::backward::Backward::draw(problem.with_bias(true), 1, Selection::ALL);
    assert_gradients(&backward.expected(), backward.run(&device));
}

/// Equal terms, whose roundings do not cancel, over more tokens than any loop should count.
#[test]
fn sums_over_many_tokens() {
    const TERM: f64 = 0.1f32 as f64;
    let Some(device) = gpu_device() else { return };
    let problem = LinearProblem::new(150_001, 3, 2, DType::F32).unwrap().with_bias(true);
    let mut backward = linear::backward::Backward::draw(problem, 1, Selection::ALL);
    backward.call.x.data.fill(TERM);
    backward.dy.data.fill(TERM);
    assert_gradients(&backward.expected(), backward.run(&device));
    let mut backward =
        key(&small_case(Sequences::batch(1, 70_001).unwrap(), DType::F32), 1, false, Selection::ALL);
    backward.call.x.data.fill(TERM);
    backward.dz.data.fill(TERM);
    assert_gradients(&backward.expected(), backward.run(&device));
}

/// Sequences without queries, without keys, and none at all: gradients are zero, or not there.
#[test]
fn nothing_to_see() {
    let Some(device) = gpu_device() else { return };
    let batch = |sequences, time| Sequences::batch(sequences, time).unwrap();
    for (queries, keys) in [
        (batch(2, 0), batch(2, 3)),
        (batch(2, 3), batch(2, 0)),
        (batch(0, 3), batch(0, 3)),
        (Sequences::padded(3, &[0, 2]).unwrap(), Sequences::padded(4, &[3, 0]).unwrap()),
        (Sequences::packed(&[0, 0, 3]).unwrap(), Sequences::packed(&[0, 4, 4]).unwrap()),
    ] {
        let case = attention_case(queries, keys, DType::BF16);
        let backward = attention::backward::Backward::draw(&case, Selection::ALL);
        for kind in attention::KINDS {
            assert_gradients(&backward.expected(), backward.run(kind, &device));
        }
    }
    for sequences in [batch(0, 3), batch(3, 0), Sequences::padded(3, &[0, 0]).unwrap()] {
        let backward = key(&small_case(sequences, DType::F16), 3, true, Selection::ALL);
        assert_gradients(&backward.expected(), backward.run(&device));
    }
    let problem = LinearProblem::new(0, 3, 2, DType::F16).unwrap().with_bias(true);
    let backward = linear::backward::Backward::draw(problem, 1, Selection::ALL);
    assert_gradients(&backward.expected(), backward.run(&device));
}

#[test]
fn relu_lets_through_what_was_above_zero() {
    let Some(device) = gpu_device() else { return };
    let run = |device: &Device, dtype| {
        let y = [f32::NAN, -1.0, -0.0, 0.0, f32::MIN_POSITIVE, 2.0, f32::INFINITY];
        let dy = [1.0, f32::NAN, f32::INFINITY, f32::NAN, 3.0, 4.0, 5.0];
        let tensor =
            |values: &[f32], shape: &[usize]| Tensor::from_f32(values, shape, dtype, device).unwrap();
        let (y, dy, x) = (tensor(&y, &[7, 1]), tensor(&dy, &[7, 1]), tensor(&[1.0; 7], &[7, 1]));
        let options = ops::LinearOptions { activation: Activation::Relu, ..Default::default() };
        let weight = tensor(&[2.0], &[1, 1]);
        let found = ops::linear_backward(&x, &weight, Some(&y), &dy, &options, &LinearWanted::ALL).unwrap();
        [found.x, found.weight].map(|gradient| gradient.unwrap().to_f32().unwrap())
    };
    for dtype in DType::ALL {
        let [dx, dweight] = run(&device, dtype);
        assert!(dx[0].is_nan() && dweight[0].is_nan(), "{dtype}: {dx:?} {dweight:?}");
        // The smallest normal f32 is zero in f16.
        let small = if dtype == DType::F16 { 0.0 } else { 6.0 };
        assert_eq!(dx[1..], [0.0, 0.0, 0.0, small, 8.0, 10.0], "{dtype}");
    }
}

/// The bits of a gradient's rows.
fn bits(gradient: &Option<Tensor>, width: usize) -> Vec<Vec<u32>> {
    let numbers = gradient.as_ref().unwrap().to_f32().unwrap();
    numbers.chunks(width).map(|row| row.iter().map(|number| number.to_bits()).collect()).collect()
}

/// The last key is seen by the last query alone, and the first query sees the first key alone: whatever they are, it changes
/// no bit of the gradients of others, although they are in one tile.
#[test]
fn what_is_not_seen_changes_no_gradient_of_attention() {
    let Some(device) = gpu_device() else { return };
    const TIME: usize = 40;
    for (kind, dtype) in attention::KINDS.into_iter().flat_map(|kind| DType::ALL.map(|dtype| (kind, dtype))) {
        let sequences = Sequences::batch(1, TIME).unwrap();
        let case = attention_case(sequences.clone(), sequences, dtype);
        let draw = || attention::backward::Backward::draw(&case, Selection::ALL);
        let rows = |backward: &attention::backward::Backward| {
            let found = backward.run(kind, &device).unwrap();
            [bits(&found[0], 2), bits(&found[1], 2), bits(&found[2], 2)]
        };
        let [dq, dk, dv] = rows(&draw());
        for wrong in [f64::NAN, f64::INFINITY] {
            let mut key = draw();
            for values in [&mut key.call.k, &mut key.call.v] {
                values.data[2 * (TIME - 1)..].fill(wrong);
            }
            let [found, _, _] = rows(&key);
            assert_eq!(found[..TIME - 1], dq[..TIME - 1], "{kind:?} {dtype}: dq, with a key of {wrong}");
            let mut query = draw();
            for values in [&mut query.call.q, &mut query.y, &mut query.dy] {
                values.data[..2].fill(wrong);
            }
            let found = rows(&query);
            for (name, found, gradient) in
                [("dq", &found[0], &dq), ("dk", &found[1], &dk), ("dv", &found[2], &dv)]
            {
                assert_eq!(found[1..], gradient[1..], "{kind:?} {dtype}: {name}, with a query of {wrong}");
            }
        }
    }
}

/// A tap whose token is out of range has no part in the gradient of its filter, whatever flows into its output.
#[test]
fn taps_out_of_range_change_no_filter() {
    let Some(device) = gpu_device() else { return };
    for dtype in DType::ALL {
        let mut case = small_case(Sequences::batch(1, 12).unwrap(), dtype);
        case.window = Window::causal(3).unwrap();
        let filters = |first: f64| {
            let mut backward = key(&case, 1, false, Selection::ALL);
            backward.dz.data[0] = first;
            bits(&backward.run(&device).unwrap()[2], 3)
        };
        let plain = filters(1.0);
        for wrong in [f64::NAN, f64::INFINITY] {
            for (found, plain) in filters(wrong).iter().zip(&plain) {
                assert_eq!(found[..2], plain[..2], "{dtype}: with a gradient of {wrong}");
                assert_ne!(found[2], plain[2], "{dtype}: the tap in range has a part in it");
            }
        }
    }
}
