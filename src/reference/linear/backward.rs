use crate::problem::{Activation, LinearBackwardProblem};
use crate::reference::{Estimate, LinearInputs};

/// The gradients of a [`linear`](crate::reference::linear).
#[derive(Clone, Debug)]
pub struct LinearGradients {
    /// `[rows, in]`.
    pub x: Vec<Estimate>,
    /// `[out, in]`.
    pub weight: Vec<Estimate>,
    /// `[out]`.
    pub bias: Vec<Estimate>,
}

/// All gradients of [`linear`](crate::reference::linear) from dy `[rows, out]`, wanted or not, by the formulas of
/// [`LinearBackwardProblem`]; y `[rows, out]` is the output as it was stored, read where there is an activation.
pub fn linear_backward(
    problem: &LinearBackwardProblem,
    inputs: LinearInputs<'_>,
    y: &[f64],
    dy: &[f64],
) -> LinearGradients {
    let forward = problem.forward();
    let (rows, width, outputs) = (forward.rows(), forward.inputs(), forward.outputs());
    let activated = |at: usize| match forward.activation() {
        Activation::Identity => dy[at],
        // A ReLU: others have no such problem.
        _ if y[at] > 0.0 => dy[at],
        _ if y[at].is_nan() => y[at],
        _ => 0.0,
    };
    let da: Vec<f64> = (0..rows * outputs).map(activated).collect();
    let mut sums = LinearGradients {
        x: Vec::with_capacity(rows * width),
        weight: Vec::with_capacity(outputs * width),
        bias: Vec::with_capacity(outputs),
    };
    let exact = |(a, b)| (Estimate::exact(a), b);
    for row in 0..rows {
        let da = &da[row * outputs..][..outputs];
        for i in 0..width {
            let column = (0..outputs).map(|o| inputs.weight[o * width + i]);
            let sum = Estimate::sum(0.0, da.iter().copied().zip(column).map(exact));
            sums.x.push(sum.stored(forward.dtype()));
        }
    }
    for o in 0..outputs {
        let da: Vec<f64> = (0..rows).map(|row| da[row * outputs + o]).collect();
        for i in 0..width {
            let column = (0..rows).map(|row| inputs.x[row * width + i]);
            let sum = Estimate::sum(0.0, da.iter().copied().zip(column).map(exact));
            sums.weight.push(sum.stored(problem.parameters()));
        }
        let sum = Estimate::total(da.into_iter().map(Estimate::exact));
        sums.bias.push(sum.stored(problem.parameters()));
    }
    sums
}
