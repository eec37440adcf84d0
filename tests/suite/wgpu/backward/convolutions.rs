//! Light, dynamic and span-based convolutions.

use lightspan::problem::Taps;
use lightspan::wgpu::{self as room, DeviceSequences, Gpu};
use lightspan::{DType, Dropout, Normalize, Sequences, Window};
use proptest::prelude::*;

use super::{Outputs, case, on, place, rows};
use crate::dynamic_conv::{self, Generator, generator};
use crate::support::gpu::{Input, Scatter, default_device};
use crate::support::{ConvCase, Selection, config, selection};
use crate::{light_conv, span_conv};

fn list(gpu: &Gpu, sequences: &Sequences) -> DeviceSequences {
    DeviceSequences::new(gpu, sequences).unwrap()
}

fn light(
    gpu: &Gpu,
    backward: &light_conv::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let (call, case) = (&backward.call, &backward.call.case);
    let [x, dy] = [&call.x, &backward.dy].map(|values| rows(scatter, values));
    let weight = scatter.elements(&call.weight);
    let outputs = Outputs::new(backward.expected(), scatter);
    let operator = room::LightConvBackward::new(gpu, backward.problem()).unwrap();
    let args = room::LightConvBackwardArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        weight: weight.elements(),
        seed: case.dropout.map(Dropout::seed),
        dy: dy.rows(),
        dx: outputs.rows("dx"),
        dweight: outputs.elements("dweight"),
        dbias: outputs.elements("dbias"),
    };
    let scratch = operator.scratch_len().map(|numbers| scatter.scratch(numbers));
    outputs.check(gpu, &operator.bind(args, scratch.each_ref().map(Option::as_ref)).unwrap())
}

fn dynamic(
    gpu: &Gpu,
    backward: &dynamic_conv::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let (call, case, logits) = (&backward.call, &backward.call.case, backward.call.problem.logits());
    let [x, dy] = [&call.x, &backward.dy].map(|values| rows(scatter, values));
    let weight_bias = scatter.optional(&call.weight_bias);
    let query = call.query.as_ref().map(|query| rows(scatter, query));
    let given = call.problem.taps() == Taps::Given;
    let source = if given { scatter.rows(&call.weight, logits) } else { scatter.elements(&call.weight) };
    let taps = match given {
        true => room::TapArgs::Given { logits: source.rows() },
        false => room::TapArgs::Generated {
            weight: source.elements(),
            weight_bias: weight_bias.as_ref().map(Input::elements),
            query: query.as_ref().map(Input::rows),
        },
    };
    let mut expected = backward.expected();
    for expected in expected.iter_mut().filter(|expected| expected.name == "dlogits") {
        // A row holds those of all heads.
        expected.shape = vec![case.sequences.shape().tokens(), logits];
    }
    let outputs = Outputs::new(expected, scatter);
    let operator = room::DynamicConvBackward::new(gpu, backward.problem()).unwrap();
    let args = room::DynamicConvBackwardArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        taps,
        seed: case.dropout.map(Dropout::seed),
        dy: dy.rows(),
        dx: outputs.rows("dx"),
        dlogits: outputs.rows("dlogits"),
        dweight: outputs.elements("dweight"),
        dweight_bias: outputs.elements("dweight_bias"),
        dquery: outputs.rows("dquery"),
        dbias: outputs.elements("dbias"),
    };
    let scratch = operator.scratch_len().map(|numbers| scatter.scratch(numbers));
    outputs.check(gpu, &operator.bind(args, scratch.each_ref().map(Option::as_ref)).unwrap())
}

fn span(
    gpu: &Gpu,
    backward: &span_conv::backward::Backward,
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let (call, case) = (&backward.call, &backward.call.case);
    let [x, query, value, dy] =
        [&call.x, &call.query, &call.value, &backward.dy].map(|values| rows(scatter, values));
    let [depthwise, pointwise, weight] =
        [&call.depthwise, &call.pointwise, &call.weight].map(|values| scatter.elements(values));
    let [key_bias, weight_bias] = [&call.key_bias, &call.weight_bias].map(|values| scatter.optional(values));
    let outputs = Outputs::new(backward.expected(), scatter);
    let operator = room::SpanConvBackward::new(gpu, backward.problem()).unwrap();
    let args = room::SpanConvBackwardArgs {
        sequences: &list(gpu, &case.sequences),
        x: x.rows(),
        query: query.rows(),
        value: value.rows(),
        depthwise: depthwise.elements(),
        pointwise: pointwise.elements(),
        key_bias: key_bias.as_ref().map(Input::elements),
        weight: weight.elements(),
        weight_bias: weight_bias.as_ref().map(Input::elements),
        seed: case.dropout.map(Dropout::seed),
        dy: dy.rows(),
        dx: outputs.rows("dx"),
        dquery: outputs.rows("dquery"),
        ddepthwise: outputs.elements("ddepthwise"),
        dpointwise: outputs.elements("dpointwise"),
        dkey_bias: outputs.elements("dkey_bias"),
        dvalue: outputs.rows("dvalue"),
        dweight: outputs.elements("dweight"),
        dweight_bias: outputs.elements("dweight_bias"),
        dbias: outputs.elements("dbias"),
    };
    let scratch = operator.scratch_len().map(|numbers| scatter.scratch(numbers));
    outputs.check(gpu, &operator.bind(args, scratch.each_ref().map(Option::as_ref)).unwrap())
}

/// Windows of more taps than a workgroup's memory or invocations hold at a time, of sequences that fill them and of shorter
/// ones.
#[test]
fn wide_windows() {
    let Some(device) = default_device() else { return };
    let gpu = device.gpu().unwrap();
    let sizes = [(300, 1, 350), (1100, 2, 70), (1030, 1, 1100)];
    for (seed, (width, dilation, time)) in (0..).zip(sizes) {
        for normalize in [Normalize::None, Normalize::Softmax, Normalize::SoftmaxInRange] {
            let case = ConvCase {
                sequences: Sequences::padded(time, &[time, time / 3]).unwrap(),
                heads: 2,
                head_channels: 2,
                window: Window::same(width).unwrap().dilated(dilation).unwrap(),
                normalize,
                dtype: DType::F32,
                parameters: DType::F32,
                bias: true,
                history: false,
                dropout: Some(Dropout::new(0.25, 7).unwrap()),
                seed,
            };
            let chosen = Selection::ALL;
            let backward = light_conv::backward::Backward::draw(&case, chosen);
            light(gpu, &backward, &mut Scatter::new(gpu, seed, 1)).unwrap();
            if time > 1000 {
                // The reference takes long.
                continue;
            }
            for generator in [Generator::Given, Generator::Own { weight_bias: true }] {
                let backward = dynamic_conv::backward::Backward::draw(&case, generator, chosen);
                dynamic(gpu, &backward, &mut Scatter::new(gpu, seed, 1)).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn light_convolutions(case in case(), chosen in selection(), place in place()) {
        let backward = light_conv::backward::Backward::draw(&case, chosen);
        on(place, |gpu, scatter| light(gpu, &backward, scatter))?;
    }

    #[test]
    fn dynamic_convolutions(
        case in case(), generator in generator(), chosen in selection(), place in place(),
    ) {
        let backward = dynamic_conv::backward::Backward::draw(&case, generator, chosen);
        on(place, |gpu, scatter| dynamic(gpu, &backward, scatter))?;
    }

    #[test]
    fn span_convolutions(case in case(), channels in 1usize..20, chosen in selection(), place in place()) {
        let backward = span_conv::backward::Backward::draw(&case, channels, chosen);
        on(place, |gpu, scatter| span(gpu, &backward, scatter))?;
    }
}
