use lightspan::problem::{LightConvBackwardProblem, LightConvProblem, LightConvWanted};
use lightspan::reference::{self, LightConvGradients};
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
    pub wanted: LightConvWanted,
}

impl Backward {
    pub fn draw(case: &ConvCase, selection: Selection) -> Self {
        let mut numbers = Numbers::new(case.seed ^ 1);
        let wanted = LightConvWanted {
            x: selection.has(0),
            weight: selection.has(1),
            bias: selection.has(2),
            parameters: selection.parameters(),
        };
        let dy = numbers.tokens(&case.sequences, case.channels(), case.dtype, 1.0);
        Backward { call: Call::draw(case), dy, wanted }
    }

    pub fn problem(&self) -> LightConvBackwardProblem {
        let forward = LightConvProblem::new(self.call.case.convolution());
        LightConvBackwardProblem::new(forward, self.wanted).unwrap()
    }

    pub fn reference(&self) -> LightConvGradients {
        let sequences = &self.call.case.sequences;
        reference::light_conv_backward(&self.problem(), sequences, self.call.inputs(), &self.dy.data)
    }

    pub fn expected(&self) -> Vec<Expected> {
        let LightConvGradients { x, weight, bias } = self.reference();
        let (problem, call) = (self.problem(), &self.call);
        let wanted = problem.wanted();
        let of = |name, wanted, estimates, shape: &[usize], dtype| Expected {
            name,
            wanted,
            estimates,
            shape: shape.to_vec(),
            dtype,
        };
        vec![
            of("dx", wanted.x, x, &call.x.shape, call.case.dtype),
            of("dweight", wanted.weight, weight, &call.weight.shape, problem.parameters()),
            of("dbias", wanted.bias, bias, &[call.case.channels()], problem.parameters()),
        ]
    }

    pub fn run(&self, device: &Device) -> Result<Vec<Option<Tensor>>> {
        let (dy, window) = (self.dy.on(device), self.call.case.window);
        self.call.on(device, |x, weight, options| {
            let found = ops::light_conv_backward(x, weight, &dy, window, options, &self.wanted)?;
            Ok(vec![found.x, found.weight, found.bias])
        })
    }
}

fn check(case: &ConvCase, selection: Selection) -> Result<(), TestCaseError> {
    let backward = Backward::draw(case, selection);
    check_gradients(&backward.expected(), |device| backward.run(device))
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn equals_the_reference(case in trained_case(), selection in selection()) {
        check(&case, selection)?;
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn equals_the_reference_over_many_tiles(case in trained_long_case(), selection in selection()) {
        check(&case, selection)?;
    }
}
