//! Convolutions: light, dynamic and span-based.

use lightspan::cpu;
use lightspan::problem::Taps;
use proptest::prelude::*;

use super::{check, slack};
use crate::dynamic_conv::generator;
use crate::own_buffers::equal_tensors::{elements, scratch};
use crate::support::{Memory, config, selection, trained_case, trained_long_case};
use crate::{dynamic_conv, light_conv, span_conv};

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn light(
        case in prop_oneof![4 => trained_case(), 1 => trained_long_case()],
        selection in selection(),
        slack in slack(),
    ) {
        let backward = light_conv::backward::Backward::draw(&case, selection);
        let (call, channels) = (&backward.call, case.channels());
        let [(x, stride), (dy, _)] = [&call.x, &backward.dy].map(|rows| slack.rows(rows, channels));
        let weight = slack.parameter(&call.weight);
        let operator = cpu::LightConvBackward::new(backward.problem());
        check(slack, backward.expected(), [Some(channels), None, None], |[dx, dweight, dbias]| {
            let args = cpu::LightConvBackwardArgs {
                sequences: &case.sequences,
                x: x.rows(stride),
                weight: weight.elements(),
                seed: case.dropout_seed(),
                dy: dy.rows(stride),
                dx: dx.map(|dx| dx.rows_mut(stride)),
                dweight: dweight.map(Memory::elements_mut),
                dbias: dbias.map(Memory::elements_mut),
            };
            operator.run(args, &mut scratch(operator.scratch_len()))
        })?;
    }

    #[test]
    fn dynamic(
        case in prop_oneof![4 => trained_case(), 1 => trained_long_case()],
        generator in generator(),
        selection in selection(),
        slack in slack(),
    ) {
        let backward = dynamic_conv::backward::Backward::draw(&case, generator, selection);
        let (call, channels, count) = (&backward.call, case.channels(), backward.call.problem.logits());
        let [(x, stride), (dy, _)] = [&call.x, &backward.dy].map(|rows| slack.rows(rows, channels));
        let (logits, logit_stride) = slack.rows(&call.weight, count);
        let (weight, weight_bias) = (slack.parameter(&call.weight), slack.optional(&call.weight_bias));
        let query_channels = call.query.as_ref().map_or(1, |query| *query.shape.last().unwrap());
        let query = call.query.as_ref().map(|query| slack.rows(query, query_channels).0);
        let query_stride = query_channels + slack.gap;
        let taps = match call.problem.taps() {
            Taps::Given => cpu::TapArgs::Given { logits: logits.rows(logit_stride) },
            _ => cpu::TapArgs::Generated {
                weight: weight.elements(),
                weight_bias: elements(&weight_bias),
                query: query.as_ref().map(|query| query.rows(query_stride)),
            },
        };
        let operator = cpu::DynamicConvBackward::new(backward.problem());
        let widths = [Some(channels), Some(count), None, None, Some(query_channels), None];
        check(slack, backward.expected(), widths, |[dx, dlogits, dweight, dweight_bias, dquery, dbias]| {
            let args = cpu::DynamicConvBackwardArgs {
                sequences: &case.sequences,
                x: x.rows(stride),
                taps,
                seed: case.dropout_seed(),
                dy: dy.rows(stride),
                dx: dx.map(|dx| dx.rows_mut(stride)),
                dlogits: dlogits.map(|dlogits| dlogits.rows_mut(logit_stride)),
                dweight: dweight.map(Memory::elements_mut),
                dweight_bias: dweight_bias.map(Memory::elements_mut),
                dquery: dquery.map(|dquery| dquery.rows_mut(query_stride)),
                dbias: dbias.map(Memory::elements_mut),
            };
            operator.run(args, &mut scratch(operator.scratch_len()))
        })?;
    }

    #[test]
    fn span(
        case in trained_case(), channels in 1usize..20, selection in selection(), slack in slack()
    ) {
        let backward = span_conv::backward::Backward::draw(&case, channels, selection);
        let (call, outputs) = (&backward.call, case.channels());
        let (x, stride) = slack.rows(&call.x, channels);
        let [(query, output_stride), (value, _), (dy, _)] =
            [&call.query, &call.value, &backward.dy].map(|rows| slack.rows(rows, outputs));
        let [depthwise, pointwise, weight] =
            [&call.depthwise, &call.pointwise, &call.weight].map(|values| slack.parameter(values));
        let [key_bias, weight_bias] = [&call.key_bias, &call.weight_bias].map(|bias| slack.optional(bias));
        let operator = cpu::SpanConvBackward::new(backward.problem());
        let widths =
            [Some(channels), Some(outputs), None, None, None, Some(outputs), None, None, None];
        check(slack, backward.expected(), widths, |gradients| {
            let [dx, dquery, ddepthwise, dpointwise, dkey_bias, dvalue, dweight, dweight_bias, dbias] = gradients;
            let args = cpu::SpanConvBackwardArgs {
                sequences: &case.sequences,
                x: x.rows(stride),
                query: query.rows(output_stride),
                value: value.rows(output_stride),
                depthwise: depthwise.elements(),
                pointwise: pointwise.elements(),
                key_bias: elements(&key_bias),
                weight: weight.elements(),
                weight_bias: elements(&weight_bias),
                seed: case.dropout_seed(),
                dy: dy.rows(output_stride),
                dx: dx.map(|dx| dx.rows_mut(stride)),
                dquery: dquery.map(|dquery| dquery.rows_mut(output_stride)),
                ddepthwise: ddepthwise.map(Memory::elements_mut),
                dpointwise: dpointwise.map(Memory::elements_mut),
                dkey_bias: dkey_bias.map(Memory::elements_mut),
                dvalue: dvalue.map(|dvalue| dvalue.rows_mut(output_stride)),
                dweight: dweight.map(Memory::elements_mut),
                dweight_bias: dweight_bias.map(Memory::elements_mut),
                dbias: dbias.map(Memory::elements_mut),
            };
            operator.run(args, &mut scratch(operator.scratch_len()))
        })?;
    }
}
