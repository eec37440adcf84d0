use lightspan::problem::{LinearBackwardProblem, LinearProblem, LinearWanted};
use lightspan::reference::{self, LinearGradients};
use lightspan::{Device, Result, Tensor, ops};
use proptest::prelude::*;

use super::{Call, differentiable};
use crate::support::{Expected, Numbers, Selection, Values, check_gradients, config, selection};

/// A drawn call, its output, and the gradient of that.
pub struct Backward {
    pub call: Call,
    pub y: Values,
    pub dy: Values,
    pub wanted: LinearWanted,
}

impl Backward {
    pub fn draw(problem: LinearProblem, seed: u64, selection: Selection) -> Self {
        let (call, mut numbers) = (Call::draw(problem, seed), Numbers::new(seed ^ 1));
        let wanted = LinearWanted {
            x: selection.has(0),
            weight: selection.has(1),
            bias: selection.has(2),
            parameters: selection.parameters(),
        };
        let (shape, dtype) = (vec![problem.rows(), problem.outputs()], problem.dtype());
        let y =
            (0..problem.rows()).flat_map(|row| call.expected(row)).map(|y| dtype.round(y.value)).collect();
        let dy = numbers.draw(&shape, dtype, 1.0);
        Backward { call, y: Values { data: y, shape, dtype }, dy, wanted }
    }

    pub fn problem(&self) -> LinearBackwardProblem {
        LinearBackwardProblem::new(self.call.problem, self.wanted).unwrap()
    }

    pub fn reference(&self) -> LinearGradients {
        reference::linear_backward(&self.problem(), self.call.inputs(), &self.y.data, &self.dy.data)
    }

    pub fn expected(&self) -> Vec<Expected> {
        let LinearGradients { x, weight, bias } = self.reference();
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
            of("dx", wanted.x, x, &call.x.shape, call.x.dtype),
            of("dweight", wanted.weight, weight, &call.weight.shape, problem.parameters()),
            of("dbias", wanted.bias, bias, &[call.problem.outputs()], problem.parameters()),
        ]
    }

    pub fn run(&self, device: &Device) -> Result<Vec<Option<Tensor>>> {
        let call = &self.call;
        let [bias, residual] =
            [&call.bias, &call.residual].map(|values| values.as_ref().map(|v| v.on(device)));
        let options = ops::LinearOptions {
            bias: bias.as_ref(),
            activation: call.problem.activation(),
            residual: residual.as_ref(),
            groups: 1,
        };
        let [x, weight, y, dy] = [&call.x, &call.weight, &self.y, &self.dy].map(|values| values.on(device));
        let y = self.problem().needs_output().then_some(&y);
        let found = ops::linear_backward(&x, &weight, y, &dy, &options, &self.wanted)?;
        Ok(vec![found.x, found.weight, found.bias])
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn equals_the_reference(problem in differentiable(), seed in any::<u64>(), selection in selection()) {
        let backward = Backward::draw(problem, seed, selection);
        check_gradients(&backward.expected(), |device| backward.run(device))?;
    }
}
