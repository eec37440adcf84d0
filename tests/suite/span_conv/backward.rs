use lightspan::problem::{SpanConvBackwardProblem, SpanConvWanted};
use lightspan::reference::{self, SpanConvGradients};
use lightspan::{Device, Result, Tensor, ops};
use proptest::prelude::*;

use super::Call;
use crate::support::{
    ConvCase, Expected, Numbers, Selection, Values, check_gradients, config, selection, trained_case,
    trained_long_case,
};

/// A drawn call, and the gradient of its output.
pub struct Backward {
    pub call: Call,
    pub dy: Values,
    pub wanted: SpanConvWanted,
}

impl Backward {
    pub fn draw(case: &ConvCase, channels: usize, selection: Selection) -> Self {
        let mut numbers = Numbers::new(case.seed ^ 1);
        let wanted = SpanConvWanted {
            x: selection.has(0),
            query: selection.has(1),
            depthwise: selection.has(2),
            pointwise: selection.has(3),
            key_bias: selection.has(4),
            value: selection.has(5),
            weight: selection.has(6),
            weight_bias: selection.has(7),
            bias: selection.has(8),
            parameters: selection.parameters(),
        };
        let dy = numbers.tokens(&case.sequences, case.channels(), case.dtype, 1.0);
        Backward { call: Call::draw(case, channels), dy, wanted }
    }

    pub fn problem(&self) -> SpanConvBackwardProblem {
        SpanConvBackwardProblem::new(self.call.problem, self.wanted).unwrap()
    }

    pub fn reference(&self) -> SpanConvGradients {
        let sequences = &self.call.case.sequences;
        reference::span_conv_backward(&self.problem(), sequences, self.call.inputs(), &self.dy.data)
    }

    pub fn expected(&self) -> Vec<Expected> {
        let SpanConvGradients { key, conv } = self.reference();
        let (problem, call) = (self.problem(), &self.call);
        let (of_key, of_conv) = (problem.key().wanted(), problem.conv().wanted());
        let of = |name, wanted, estimates, shape: &[usize], dtype| Expected {
            name,
            wanted,
            estimates,
            shape: shape.to_vec(),
            dtype,
        };
        let (tokens, parameters) = (call.case.dtype, problem.key().parameters());
        let (outputs, logits) = (call.case.channels(), call.problem.conv().logits());
        vec![
            of("dx", of_key.x, key.x, &call.x.shape, tokens),
            of("dquery", of_key.query, key.query, &call.query.shape, tokens),
            of("ddepthwise", of_key.depthwise, key.depthwise, &call.depthwise.shape, parameters),
            of("dpointwise", of_key.pointwise, key.pointwise, &call.pointwise.shape, parameters),
            of("dkey_bias", of_key.key_bias, key.key_bias, &[outputs], parameters),
            of("dvalue", of_conv.x, conv.x, &call.value.shape, tokens),
            of("dweight", of_conv.weight, conv.weight, &call.weight.shape, parameters),
            of("dweight_bias", of_conv.weight_bias, conv.weight_bias, &[logits], parameters),
            of("dbias", of_conv.bias, conv.bias, &[outputs], parameters),
        ]
    }

    pub fn run(&self, device: &Device) -> Result<Vec<Option<Tensor>>> {
        let (dy, ConvCase { window, heads, .. }) = (self.dy.on(device), self.call.case.clone());
        self.call.on(device, |tensors, options| {
            let found = ops::span_conv_backward(tensors, &dy, heads, window, options, &self.wanted)?;
            let ops::SpanConvGradients { x, query, depthwise, pointwise, key_bias, .. } = found;
            let ops::SpanConvGradients { value, weight, weight_bias, bias, .. } = found;
            Ok(vec![x, query, depthwise, pointwise, key_bias, value, weight, weight_bias, bias])
        })
    }
}

fn check(case: &ConvCase, channels: usize, selection: Selection) -> Result<(), TestCaseError> {
    let backward = Backward::draw(case, channels, selection);
    check_gradients(&backward.expected(), |device| backward.run(device))
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn equals_the_reference(case in trained_case(), channels in 1usize..40, selection in selection()) {
        check(&case, channels, selection)?;
    }
}

proptest! {
    #![proptest_config(config(25))]

    #[test]
    fn equals_the_reference_over_many_tiles(
        case in trained_long_case(), channels in 1usize..10, selection in selection()
    ) {
        check(&case, channels, selection)?;
    }
}
