use lightspan::problem::{SpanKeyBackwardProblem, SpanKeyWanted};
use lightspan::reference::{self, SpanKeyGradients};
use lightspan::{DType, Device, Result, Tensor, ops};
use proptest::prelude::*;

use super::Call;
use crate::support::{
    ConvCase, Expected, Numbers, Selection, Values, check_gradients, config, selection, trained_case,
    trained_long_case,
};

/// A drawn call, and the gradient of its output.
pub struct Backward {
    pub call: Call,
    pub dz: Values,
    pub wanted: SpanKeyWanted,
}

impl Backward {
    pub fn draw(case: &ConvCase, outputs: usize, output: DType, selection: Selection) -> Self {
        let mut numbers = Numbers::new(case.seed ^ 1);
        let wanted = SpanKeyWanted {
            x: selection.has(0),
            query: selection.has(1),
            depthwise: selection.has(2),
            pointwise: selection.has(3),
            key_bias: selection.has(4),
            parameters: selection.parameters(),
        };
        let dz = numbers.tokens(&case.sequences, outputs, output, 1.0);
        Backward { call: Call::draw(case, outputs, output), dz, wanted }
    }

    pub fn problem(&self) -> SpanKeyBackwardProblem {
        SpanKeyBackwardProblem::new(self.call.problem, self.wanted).unwrap()
    }

    pub fn reference(&self) -> SpanKeyGradients {
        let sequences = &self.call.case.sequences;
        reference::span_key_backward(&self.problem(), sequences, self.call.inputs(), &self.dz.data)
    }

    pub fn expected(&self) -> Vec<Expected> {
        let SpanKeyGradients { x, query, depthwise, pointwise, key_bias } = self.reference();
        let (problem, call) = (self.problem(), &self.call);
        let wanted = problem.wanted();
        let of = |name, wanted, estimates, shape: &[usize], dtype| Expected {
            name,
            wanted,
            estimates,
            shape: shape.to_vec(),
            dtype,
        };
        let (tokens, parameters) = (call.case.dtype, problem.parameters());
        vec![
            of("dx", wanted.x, x, &call.x.shape, tokens),
            of("dquery", wanted.query, query, &call.query.shape, tokens),
            of("ddepthwise", wanted.depthwise, depthwise, &call.depthwise.shape, parameters),
            of("dpointwise", wanted.pointwise, pointwise, &call.pointwise.shape, parameters),
            of("dkey_bias", wanted.key_bias, key_bias, &[call.problem.outputs()], parameters),
        ]
    }

    pub fn run(&self, device: &Device) -> Result<Vec<Option<Tensor>>> {
        let (dz, window) = (self.dz.on(device), self.call.case.window);
        self.call.on(device, |tensors, options| {
            let found = ops::span_key_backward(tensors, &dz, window, options, &self.wanted)?;
            Ok(vec![found.x, found.query, found.depthwise, found.pointwise, found.key_bias])
        })
    }
}

fn check(case: &ConvCase, outputs: usize, wide: bool, selection: Selection) -> Result<(), TestCaseError> {
    let output = if wide { DType::F32 } else { case.dtype };
    let backward = Backward::draw(case, outputs, output, selection);
    check_gradients(&backward.expected(), |device| backward.run(device))
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn equals_the_reference(
        case in trained_case(), outputs in 1usize..40, wide in any::<bool>(), selection in selection()
    ) {
        check(&case, outputs, wide, selection)?;
    }
}

proptest! {
    #![proptest_config(config(30))]

    #[test]
    fn equals_the_reference_over_many_tiles(
        case in trained_long_case(), outputs in 1usize..10, wide in any::<bool>(), selection in selection()
    ) {
        check(&case, outputs, wide, selection)?;
    }
}
