//! Linear layers, span-aware keys and attention.

use lightspan::problem::{Alignment, AttentionWanted, Mask};
use lightspan::{DType, Device, Sequences, cpu};
use proptest::prelude::*;

use super::{check, slack};
use crate::own_buffers::equal_tensors::{elements, scratch};
use crate::support::{Memory, Numbers, assert_admitted, config, selection, trained_case};
use crate::{attention, linear, span_key};

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn linear_layer(
        problem in linear::differentiable(), seed in any::<u64>(), selection in selection(), slack in slack()
    ) {
        let backward = linear::backward::Backward::draw(problem, seed, selection);
        let (call, inputs, outputs) = (&backward.call, problem.inputs(), problem.outputs());
        let (x, stride) = slack.rows(&call.x, inputs);
        let [(y, output_stride), (dy, _)] = [&backward.y, &backward.dy].map(|y| slack.rows(y, outputs));
        let weight = slack.parameter(&call.weight);
        let operator = cpu::LinearBackward::new(backward.problem());
        check(slack, backward.expected(), [Some(inputs), None, None], |[dx, dweight, dbias]| {
            let args = cpu::LinearBackwardArgs {
                x: x.rows(stride),
                weight: weight.elements(),
                y: backward.problem().needs_output().then(|| y.rows(output_stride)),
                dy: dy.rows(output_stride),
                dx: dx.map(|dx| dx.rows_mut(stride)),
                dweight: dweight.map(Memory::elements_mut),
                dbias: dbias.map(Memory::elements_mut),
            };
            operator.run(args, &mut scratch(operator.scratch_len()))
        })?;
    }

    #[test]
    fn span_key(
        case in trained_case(),
        outputs in 1usize..20,
        wide in any::<bool>(),
        selection in selection(),
        slack in slack(),
    ) {
        let output = if wide { DType::F32 } else { case.dtype };
        let backward = span_key::backward::Backward::draw(&case, outputs, output, selection);
        let (call, channels) = (&backward.call, case.channels());
        let (x, stride) = slack.rows(&call.x, channels);
        let [(query, output_stride), (dz, _)] = [&call.query, &backward.dz].map(|q| slack.rows(q, outputs));
        let [depthwise, pointwise] = [&call.depthwise, &call.pointwise].map(|weight| slack.parameter(weight));
        let key_bias = slack.optional(&call.key_bias);
        let operator = cpu::SpanKeyBackward::new(backward.problem());
        let widths = [Some(channels), Some(outputs), None, None, None];
        check(slack, backward.expected(), widths, |[dx, dquery, ddepthwise, dpointwise, dkey_bias]| {
            let args = cpu::SpanKeyBackwardArgs {
                sequences: &case.sequences,
                x: x.rows(stride),
                query: query.rows(output_stride),
                depthwise: depthwise.elements(),
                pointwise: pointwise.elements(),
                key_bias: elements(&key_bias),
                dz: dz.rows(output_stride),
                dx: dx.map(|dx| dx.rows_mut(stride)),
                dquery: dquery.map(|dquery| dquery.rows_mut(output_stride)),
                ddepthwise: ddepthwise.map(Memory::elements_mut),
                dpointwise: dpointwise.map(Memory::elements_mut),
                dkey_bias: dkey_bias.map(Memory::elements_mut),
            };
            operator.run(args, &mut scratch(operator.scratch_len()))
        })?;
    }

    #[test]
    fn attention_of_both_kinds(case in attention::case(80), selection in selection(), slack in slack()) {
        let backward = attention::backward::Backward::draw(&case, selection);
        let (call, channels) = (&backward.call, case.heads * case.head_channels);
        let [(q, stride), (k, _), (v, _), (y, _), (dy, _)] =
            [&call.q, &call.k, &call.v, &backward.y, &backward.dy].map(|rows| slack.rows(rows, channels));
        let (queries, keys) = (&case.queries, &case.keys);
        for kind in attention::KINDS {
            let operator = cpu::AttentionBackward::new(backward.problem(), kind);
            check(slack, backward.expected(), [Some(channels); 3], |gradients| {
                let [dq, dk, dv] = gradients.map(|rows| rows.map(|rows| rows.rows_mut(stride)));
                let [q, k, v, y, dy] = [&q, &k, &v, &y, &dy].map(|rows| rows.rows(stride));
                let args = cpu::AttentionBackwardArgs { queries, keys, q, k, v, y, dy, dq, dk, dv };
                operator.run(args, &mut scratch(operator.scratch_len(queries, keys)))
            })?;
        }
    }
}

/// What is infinite or NaN reaches the gradients of those that see it, or are seen by it, and no other of its sequence.
#[test]
fn what_is_not_seen_reaches_no_gradient() {
    for (dtype, head_channels) in DType::ALL.into_iter().flat_map(|dtype| [3, 40].map(|d| (dtype, d))) {
        for mask in [Mask::CAUSAL, Mask::local(Some(20), Some(3))] {
            let case = attention::Case {
                queries: Sequences::padded(150, &[150, 131]).unwrap(),
                keys: Sequences::padded(170, &[170, 40]).unwrap(),
                heads: 2,
                head_channels,
                scale: None,
                mask,
                alignment: Alignment::End,
                dtype,
                seed: 12,
            };
            let (call, channels) = (attention::Call::draw(&case), 2 * head_channels);
            let dy = Numbers::new(13).tokens(&case.queries, channels, dtype, 1.0);
            let mut y = dy.clone();
            y.data = call.expected().iter().map(|y| dtype.round(y.value)).collect();
            let mut backward = attention::backward::Backward { call, y, dy, wanted: AttentionWanted::ALL };
            let last = channels - 1;
            for (row, channel, value) in [(33, 1, f64::NAN), (70, last, f64::INFINITY), (150, 0, f64::NAN)] {
                backward.dy.data[row * channels + channel] = value;
            }
            backward.call.q.data[60 * channels + last] = f64::NAN;
            backward.call.k.data[140 * channels] = f64::NAN;
            for (row, channel, value) in [(110, last, f64::NAN), (125, 0, f64::INFINITY)] {
                backward.call.v.data[row * channels + channel] = value;
            }
            let expected = backward.expected();
            assert!(expected.iter().all(|gradient| gradient.estimates.iter().any(|x| x.value.is_nan())));
            for kind in attention::KINDS {
                let got = backward.run(kind, &Device::cpu()).unwrap();
                for (expected, got) in expected.iter().zip(got) {
                    assert_admitted(&expected.estimates, &got.unwrap()).unwrap_or_else(|error| {
                        panic!("{} {kind:?}, D = {head_channels}, {mask:?}: {error}", expected.name)
                    });
                }
            }
        }
    }
}
