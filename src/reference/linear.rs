mod backward;

pub use backward::{LinearGradients, linear_backward};

use crate::problem::{Activation, LinearProblem};
use crate::reference::Estimate;

/// What [`linear`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct LinearInputs<'a> {
    /// `[rows, in]`.
    pub x: &'a [f64],
    /// W `[out, in]`.
    pub weight: &'a [f64],
    /// `[out]`.
    pub bias: Option<&'a [f64]>,
}

/// y = act(x W^T + bias), for one row of x.
pub fn linear(problem: &LinearProblem, inputs: LinearInputs<'_>, row: usize) -> Vec<Estimate> {
    let x = &inputs.x[row * problem.inputs()..][..problem.inputs()];
    inputs
        .weight
        .chunks_exact(problem.inputs())
        .enumerate()
        .map(|(o, weights)| {
            let terms = weights.iter().copied().map(Estimate::exact).zip(x.iter().copied());
            let mut y = Estimate::sum(inputs.bias.map_or(0.0, |bias| bias[o]), terms);
            y.value = match problem.activation() {
                Activation::Identity => y.value,
                Activation::Relu if y.value < 0.0 => 0.0,
                Activation::Relu => y.value,
            };
            y.stored(problem.dtype())
        })
        .collect()
}
