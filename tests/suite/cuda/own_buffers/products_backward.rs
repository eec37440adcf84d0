use lightspan::cuda::{self as room, DeviceSequences};
use lightspan::problem::AttentionKind;
use lightspan::{DType, Device};
use proptest::prelude::*;

use super::{elements, of_few_multiprocessors, place};
use crate::support::cuda::{Output, Scatter, Scratch, cuda_device};
use crate::support::{Selection, config, selection, trained_case, trained_long_case};
use crate::{attention, linear, span_key};

/// The device that a call is made on: of few multiprocessors, or as it is.
fn device(few: bool) -> Option<Device> {
    cuda_device().map(|device| if few { of_few_multiprocessors(device) } else { device })
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn linear_backward_on_memory_of_its_own(
        (problem, call, selection) in (linear::differentiable(), any::<u64>(), selection()),
        ((seed, step), few) in (place(), any::<bool>()),
    ) {
        let Some(device) = device(few) else { return Ok(()) };
        let (gpu, mut scatter) = (device.cuda_gpu().unwrap(), Scatter::new(&device, seed, step));
        let backward = linear::backward::Backward::draw(problem, call, selection);
        let (reference, problem, call) = (backward.reference(), backward.problem(), &backward.call);
        let (wanted, parameters, dtype) = (problem.wanted(), problem.parameters(), call.problem.dtype());
        let (rows, inputs, outputs) = (call.problem.rows(), call.problem.inputs(), call.problem.outputs());
        let x = scatter.rows(&call.x, inputs);
        let weight = scatter.elements(&call.weight);
        let [y, dy] = [&backward.y, &backward.dy].map(|values| scatter.rows(values, outputs));
        let mut output = |wanted: bool, rows, width, dtype| wanted.then(|| scatter.output(rows, width, dtype));
        let mut dx = output(wanted.x, rows, inputs, dtype);
        let mut dweight = output(wanted.weight, 1, outputs * inputs, parameters);
        let mut dbias = output(wanted.bias, 1, outputs, parameters);
        let operator = room::LinearBackward::new(gpu, problem).unwrap();
        let mut scratch = scatter.scratch(operator.scratch_len());
        let args = room::LinearBackwardArgs {
            x: x.rows(),
            weight: weight.elements(),
            y: problem.needs_output().then(|| y.rows()),
            dy: dy.rows(),
            dx: dx.as_mut().map(Output::rows),
            dweight: dweight.as_mut().map(Output::elements),
            dbias: dbias.as_mut().map(Output::elements),
        };
        operator.launch(args, scratch.as_mut().map(Scratch::elements)).unwrap();
        for (output, expected) in [(dx, reference.x), (dweight, reference.weight), (dbias, reference.bias)] {
            output.map_or(Ok(()), |output| output.check(&expected))?;
        }
    }

    #[test]
    fn span_key_backward_on_memory_of_its_own(
        case in prop_oneof![4 => trained_case(), 1 => trained_long_case()],
        (outputs, wide, selection) in (1usize..40, any::<bool>(), selection()),
        ((seed, step), few) in (place(), any::<bool>()),
    ) {
        let Some(device) = device(few) else { return Ok(()) };
        let (gpu, mut scatter) = (device.cuda_gpu().unwrap(), Scatter::new(&device, seed, step));
        let output_type = if wide { DType::F32 } else { case.dtype };
        let backward = span_key::backward::Backward::draw(&case, outputs, output_type, selection);
        let (reference, problem, call) = (backward.reference(), backward.problem(), &backward.call);
        let (wanted, parameters, channels) = (problem.wanted(), problem.parameters(), case.channels());
        let tokens = case.sequences.shape().tokens();
        let x = scatter.rows(&call.x, channels);
        let [query, dz] = [&call.query, &backward.dz].map(|values| scatter.rows(values, outputs));
        let [depthwise, pointwise] = [&call.depthwise, &call.pointwise].map(|values| scatter.elements(values));
        let key_bias = scatter.optional(&call.key_bias);
        let mut output = |wanted: bool, rows, width, dtype| wanted.then(|| scatter.output(rows, width, dtype));
        let mut dx = output(wanted.x, tokens, channels, case.dtype);
        let mut dquery = output(wanted.query, tokens, outputs, case.dtype);
        let mut ddepthwise = output(wanted.depthwise, 1, reference.depthwise.len(), parameters);
        let mut dpointwise = output(wanted.pointwise, 1, outputs * channels, parameters);
        let mut dkey_bias = output(wanted.key_bias, 1, outputs, parameters);
        let operator = room::SpanKeyBackward::new(gpu, problem).unwrap();
        let mut scratch = scatter.scratch(operator.scratch_len());
        let args = room::SpanKeyBackwardArgs {
            sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
            x: x.rows(),
            query: query.rows(),
            depthwise: depthwise.elements(),
            pointwise: pointwise.elements(),
            key_bias: elements(&key_bias),
            dz: dz.rows(),
            dx: dx.as_mut().map(Output::rows),
            dquery: dquery.as_mut().map(Output::rows),
            ddepthwise: ddepthwise.as_mut().map(Output::elements),
            dpointwise: dpointwise.as_mut().map(Output::elements),
            dkey_bias: dkey_bias.as_mut().map(Output::elements),
        };
        operator.launch(args, scratch.as_mut().map(Scratch::elements)).unwrap();
        for (output, expected) in [
            (dx, reference.x),
            (dquery, reference.query),
            (ddepthwise, reference.depthwise),
            (dpointwise, reference.pointwise),
            (dkey_bias, reference.key_bias),
        ] {
            output.map_or(Ok(()), |output| output.check(&expected))?;
        }
    }
}

/// Scratch memory of just so many numbers, all of them NaN before.
fn check_attention(
    device: &Device,
    case: &attention::Case,
    (kind, selection): (AttentionKind, Selection),
    scatter: &mut Scatter<'_>,
) -> Result<(), TestCaseError> {
    let gpu = device.cuda_gpu().unwrap();
    let backward = attention::backward::Backward::draw(case, selection);
    let (reference, problem, call) = (backward.reference(), backward.problem(), &backward.call);
    let (wanted, channels) = (problem.wanted(), case.heads * case.head_channels);
    let values = [&call.q, &call.k, &call.v, &backward.y, &backward.dy];
    let [q, k, v, y, dy] = values.map(|values| scatter.rows(values, channels));
    let mut output = |wanted: bool, of: &lightspan::Sequences| {
        wanted.then(|| scatter.output(of.shape().tokens(), channels, case.dtype))
    };
    let mut dq = output(wanted.q, &case.queries);
    let [mut dk, mut dv] = [wanted.k, wanted.v].map(|wanted| output(wanted, &case.keys));
    let [queries, keys] = [&case.queries, &case.keys].map(|list| DeviceSequences::new(gpu, list).unwrap());
    let operator = room::AttentionBackward::new(gpu, problem, kind).unwrap();
    let len = operator.scratch_len(&keys) as usize;
    let mut scratch = (len > 0).then(|| scatter.output(1, len, DType::F32));
    let args = room::AttentionBackwardArgs {
        queries: &queries,
        keys: &keys,
        q: q.rows(),
        k: k.rows(),
        v: v.rows(),
        y: y.rows(),
        dy: dy.rows(),
        dq: dq.as_mut().map(Output::rows),
        dk: dk.as_mut().map(Output::rows),
        dv: dv.as_mut().map(Output::rows),
    };
    operator.launch(args, scratch.as_mut().map(|scratch| scratch.elements())).unwrap();
    for (output, expected) in [(dq, reference.q), (dk, reference.k), (dv, reference.v)] {
        output.map_or(Ok(()), |output| output.check(&expected))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(80))]

    #[test]
    fn attention_backward_of_both_kinds_on_memory_of_its_own(
        case in prop_oneof![4 => attention::case(40), 1 => attention::case(200)],
        selection in selection(),
        (seed, step) in place(),
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let mut scatter = Scatter::new(&device, seed, step);
        for &kind in attention::kinds(&device, case.head_channels) {
            check_attention(&device, &case, (kind, selection), &mut scatter)?;
        }
    }
}
