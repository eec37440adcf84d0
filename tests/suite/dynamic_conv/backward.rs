use lightspan::problem::{DynamicConvBackwardProblem, DynamicConvWanted, Taps};
use lightspan::reference::{self, DynamicConvGradients};
use lightspan::{Device, Result, Tensor, ops};
use proptest::prelude::*;

use super::{Call, Generator, generator};
use crate::support::{
    ConvCase, Expected, Numbers, Selection, Values, check_gradients, config, selection, trained_case,
    trained_long_case,
};

/// A drawn call, and the gradient of its output.
pub struct Backward {
    pub call: Call,
    pub dy: Values,
    pub wanted: DynamicConvWanted,
}

impl Backward {
    pub fn draw(case: &ConvCase, generator: Generator, selection: Selection) -> Self {
        let mut numbers = Numbers::new(case.seed ^ 1);
        let wanted = DynamicConvWanted {
            x: selection.has(0),
            logits: selection.has(1),
            weight: selection.has(2),
            weight_bias: selection.has(3),
            query: selection.has(4),
            bias: selection.has(5),
            parameters: selection.parameters(),
        };
        let dy = numbers.tokens(&case.sequences, case.channels(), case.dtype, 1.0);
        Backward { call: Call::draw(case, generator), dy, wanted }
    }

    pub fn problem(&self) -> DynamicConvBackwardProblem {
        DynamicConvBackwardProblem::new(self.call.problem, self.wanted).unwrap()
    }

    pub fn reference(&self) -> DynamicConvGradients {
        let sequences = &self.call.case.sequences;
        reference::dynamic_conv_backward(&self.problem(), sequences, self.call.inputs(), &self.dy.data)
    }

    pub fn expected(&self) -> Vec<Expected> {
        let DynamicConvGradients { x, logits, weight, weight_bias, query, bias } = self.reference();
        let (problem, call) = (self.problem(), &self.call);
        let (wanted, count) = (problem.wanted(), call.problem.logits());
        let of = |name, wanted, estimates, shape: &[usize], dtype| Expected {
            name,
            wanted,
            estimates,
            shape: shape.to_vec(),
            dtype,
        };
        let query_values = call.query.as_ref().unwrap_or(&call.x);
        let dtype = problem.parameters();
        vec![
            of("dx", wanted.x, x, &call.x.shape, call.case.dtype),
            of("dlogits", wanted.logits, logits, &call.weight.shape, dtype),
            of("dweight", wanted.weight, weight, &call.weight.shape, dtype),
            of("dweight_bias", wanted.weight_bias, weight_bias, &[count], dtype),
            of("dquery", wanted.query, query, &query_values.shape, query_values.dtype),
            of("dbias", wanted.bias, bias, &[call.case.channels()], dtype),
        ]
    }

    pub fn run(&self, device: &Device) -> Result<Vec<Option<Tensor>>> {
        let (dy, ConvCase { window, heads, .. }) = (self.dy.on(device), self.call.case.clone());
        let wanted = &self.wanted;
        self.call.on(device, |x, weight, options, given| {
            let found = match self.call.problem.taps() {
                Taps::Given => ops::dynamic_conv_given_backward(x, weight, &dy, window, given, wanted),
                _ => ops::dynamic_conv_backward(x, weight, &dy, heads, window, options, wanted),
            }?;
            Ok(vec![found.x, found.logits, found.weight, found.weight_bias, found.query, found.bias])
        })
    }
}

fn check(case: &ConvCase, generator: Generator, selection: Selection) -> Result<(), TestCaseError> {
    let backward = Backward::draw(case, generator, selection);
    check_gradients(&backward.expected(), |device| backward.run(device))
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(case in trained_case(), generator in generator(), selection in selection()) {
        check(&case, generator, selection)?;
    }
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn equals_the_reference_over_many_tiles(
        case in trained_long_case(), generator in generator(), selection in selection()
    ) {
        check(&case, generator, selection)?;
    }
}
