mod backward;

pub use backward::{LinearGradients, linear_backward};

use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

use crate::DType;
use crate::problem::{Activation, LinearProblem};
use crate::reference::{ARITHMETIC, Estimate};

/// What [`linear`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct LinearInputs<'a> {
    /// `[rows, in]`.
    pub x: &'a [f64],
    /// W `[out, in / g]`, or `[2 out, in]` for a GLU.
    pub weight: &'a [f64],
    /// A number for each row of W.
    pub bias: Option<&'a [f64]>,
    /// `[rows, out]`, where the problem has one.
    pub residual: Option<&'a [f64]>,
}

const U32: f64 = DType::F32.unit_roundoff();

/// y = residual + act(x W^T + bias), for one row of x.
///
/// # The bound
///
/// Beside that of the sum a = x W^T + bias: an activation is off by as much as its steepest slope lets it be, 1.13 for both
/// forms of a GELU, and by an error of its own. With c = [`ARITHMETIC`]:
///
/// - GELU, in both forms: c u32 |a|, which is more than a distribution function that is off by some roundoffs of 1 makes of it.
///   It is not relative in the tail, where Phi is small; but from a = -16 on c u32 16, as nothing is left there.
/// - GLU: the sigmoid s of b is off by as much as its slope lets it be, and by c u32 s (1 + (1 - s) |b|), as the exponential
///   of a large number is off by its argument's roundoff. Then it is a product of two numbers that are off.
pub fn linear(problem: &LinearProblem, inputs: LinearInputs<'_>, row: usize) -> Vec<Estimate> {
    let (width, outputs) = (problem.group_inputs(), problem.outputs());
    let x = &inputs.x[row * problem.inputs()..][..problem.inputs()];
    // With the row of W of this number.
    let sum = |o: usize| {
        let x = &x[o % outputs / problem.group_outputs() * width..][..width];
        let weights = &inputs.weight[o * width..][..width];
        let terms = weights.iter().copied().map(Estimate::exact).zip(x.iter().copied());
        Estimate::sum(inputs.bias.map_or(0.0, |bias| bias[o]), terms)
    };
    (0..outputs)
        .map(|o| {
            let a = sum(o);
            let y = match problem.activation() {
                Activation::Identity => a,
                Activation::Relu => Estimate { value: if a.value < 0.0 { 0.0 } else { a.value }, ..a },
                Activation::Gelu => gelu(a, a.value * normal(a.value)),
                Activation::GeluTanh => gelu(a, a.value * normal_by_tanh(a.value)),
                Activation::Glu => Estimate::dot([(a, sigmoid(sum(outputs + o)))]),
            };
            let y = match inputs.residual {
                Some(residual) => Estimate::total([y, Estimate::exact(residual[row * outputs + o])]),
                None => y,
            };
            y.stored(problem.dtype())
        })
        .collect()
}

/// `value` is what a GELU makes of `a`.
fn gelu(a: Estimate, value: f64) -> Estimate {
    if a.value == f64::NEG_INFINITY {
        return Estimate::exact(0.0);
    }
    let size = a.value.max(-16.0).abs();
    Estimate { value, bound: 1.13 * a.bound + ARITHMETIC * U32 * size + DType::F32.min_positive() }
}

/// The distribution function of the normal distribution: erfc(-a / sqrt 2) / 2.
fn normal(a: f64) -> f64 {
    let upper = erfc((a / SQRT_2).abs()) / 2.0;
    if a > 0.0 { 1.0 - upper } else { upper }
}

/// (1 + tanh(z)) / 2 = 1 / (1 + e^(-2 z)), z = sqrt(2 / pi) (a + 0.044715 a^3).
fn normal_by_tanh(a: f64) -> f64 {
    let z = FRAC_2_SQRT_PI / SQRT_2 * (a + 0.044715 * a.powi(3));
    1.0 / (1.0 + (-2.0 * z).exp())
}

/// One minus erf(x) = 2 / sqrt(pi) e^(-x^2) sum_n 2^n x^(2n + 1) / (2n + 1)!! for 0 <= x < 3, and from there on by Laplace's
/// continued fraction, e^(-x^2) / sqrt(pi) / (x + (1/2) / (x + (2/2) / (x + (3/2) / ...))).
fn erfc(x: f64) -> f64 {
    let outer = FRAC_2_SQRT_PI * (-x * x).exp();
    if x >= 3.0 {
        let fraction = (1..60).rev().fold(x, |fraction, n| x + f64::from(n) / 2.0 / fraction);
        return outer / 2.0 / fraction;
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    1.0 - outer * sum
}

fn sigmoid(b: Estimate) -> Estimate {
    let s = 1.0 / (1.0 + (-b.value).exp());
    // Of a number that is not finite there is nothing to be off by.
    if !b.value.is_finite() {
        return Estimate::exact(s);
    }
    let own = ARITHMETIC * U32 * s * (1.0 + (1.0 - s) * b.value.abs());
    Estimate { value: s, bound: b.bound / 4.0 + own + DType::F32.min_positive() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_is_that_of_the_tables() {
        // Abramowitz and Stegun 1964, tables 7.1 and 7.3.
        let known = [
            (0.0, 1.0),
            (0.5, 1.0 - 0.520_499_877_8),
            (1.0, 1.0 - 0.842_700_792_9),
            (2.0, 4.677_734_981e-3),
            (2.5, 4.069_520_17e-4),
            (4.0, 1.541_725_79e-8),
            (5.0, 1.537_459_79e-12),
        ];
        for (x, expected) in known {
            let got = erfc(x);
            assert!((got - expected).abs() <= 1e-8 * expected, "erfc({x}) = {got:e}, {expected:e}");
        }
        // Both sides of where one formula follows the other.
        let (below, above) = (erfc(3.0 - 1e-12), erfc(3.0));
        assert!((below - above).abs() < 1e-8 * above, "{below:e}, {above:e}");
    }
}
