//! Activations of sums in f32, in vectors.

use pulp::{Scalar, Simd, WithSimd};

use crate::cpu::arch;
use crate::cpu::softmax::exp;
use crate::problem::Activation;

/// Replaces each of `numbers` by its activation; the gates of a GLU lie in the same order in `gates`.
pub(super) fn apply(activation: Activation, numbers: &mut [f32], gates: &[f32]) {
    match activation {
        Activation::Identity => {}
        Activation::Relu => numbers.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }),
        Activation::Gelu => arch().dispatch(Each { numbers, gates: None, function: Gelu }),
        Activation::GeluTanh => arch().dispatch(Each { numbers, gates: None, function: GeluTanh }),
        Activation::Glu => arch().dispatch(Each { numbers, gates: Some(gates), function: Glu }),
    }
}

/// A function of a number and, where there is one, its gate.
trait Function: Copy {
    fn of<S: Simd>(self, simd: S, a: S::f32s, gate: S::f32s) -> S::f32s;
}

struct Each<'a, F> {
    numbers: &'a mut [f32],
    gates: Option<&'a [f32]>,
    function: F,
}

impl<F: Function> WithSimd for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Each { numbers, gates, function } = self;
        let (vectors, rest) = S::as_mut_simd_f32s(numbers);
        match gates {
            None => {
                vectors.iter_mut().for_each(|a| *a = function.of(simd, *a, *a));
                rest.iter_mut().for_each(|a| *a = function.of(Scalar, *a, *a));
            }
            Some(gates) => {
                let (gate_vectors, gate_rest) =
                    S::as_simd_f32s(&gates[..vectors.len() * S::F32_LANES + rest.len()]);
                vectors.iter_mut().zip(gate_vectors).for_each(|(a, b)| *a = function.of(simd, *a, *b));
                rest.iter_mut().zip(gate_rest).for_each(|(a, b)| *a = function.of(Scalar, *a, *b));
            }
        }
    }
}

/// Below this both forms of a GELU are zero in f32, and beside it nothing is left of 1 - Phi above. So it is taken for what is
/// below, of which the squares and cubes could overflow; minus infinity times zero would be no number.
const FAR: f32 = 16.0;

/// `a`, or -[`FAR`] where it is below; and its magnitude, or [`FAR`] where that is above. NaN stays.
#[inline(always)]
fn near<S: Simd>(simd: S, a: S::f32s) -> (S::f32s, S::f32s) {
    let (far, magnitude) = (simd.splat_f32s(FAR), simd.abs_f32s(a));
    let least = simd.splat_f32s(-FAR);
    let a = simd.select_f32s(simd.less_than_f32s(a, least), least, a);
    (a, simd.select_f32s(simd.greater_than_f32s(magnitude, far), far, magnitude))
}

#[derive(Clone, Copy)]
struct Gelu;

impl Function for Gelu {
    /// 1 - Phi(|a|) = erfc(|a| / sqrt 2) / 2 = e^-p(|a|) / 2, with a polynomial p that was fitted to be off by as little as can be
    /// times the whole: by 0.14 roundoffs of 1 at most, for all |a|. It is 0 at 0, and has no cancellation in between.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, a: S::f32s, _: S::f32s) -> S::f32s {
        let number = |x| simd.splat_f32s(x);
        let (a, magnitude) = near(simd, a);
        let mut series = number(-1.965_010_8e-6);
        for term in [
            2.729_452_5e-5,
            -1.290_502_6e-4,
            -9.491_717e-5,
            4.895_99e-3,
            -3.638_757_8e-2,
            -0.318_298_88,
            -0.797_885_3,
        ] {
            series = simd.mul_add_e_f32s(series, magnitude, number(term));
        }
        let upper = simd.mul_f32s(number(0.5), exp(simd, simd.mul_f32s(series, magnitude)));
        let negative = simd.less_than_f32s(a, number(0.0));
        simd.mul_f32s(a, simd.select_f32s(negative, upper, simd.sub_f32s(number(1.0), upper)))
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Function for GeluTanh {
    /// (1 + tanh z) / 2 is the sigmoid of 2 z.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, a: S::f32s, _: S::f32s) -> S::f32s {
        /// 2 sqrt(2 / pi), and that times 0.044715.
        const LINEAR: f32 = 1.595_769;
        const CUBIC: f32 = 0.071_354_814;
        let (a, magnitude) = near(simd, a);
        let square = simd.mul_f32s(magnitude, magnitude);
        let factor = simd.mul_add_e_f32s(square, simd.splat_f32s(CUBIC), simd.splat_f32s(LINEAR));
        simd.mul_f32s(a, sigmoid(simd, a, simd.mul_f32s(magnitude, factor)))
    }
}

#[derive(Clone, Copy)]
struct Glu;

impl Function for Glu {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, a: S::f32s, gate: S::f32s) -> S::f32s {
        simd.mul_f32s(a, sigmoid(simd, gate, simd.abs_f32s(gate)))
    }
}

/// 1 / (1 + e^-x) of the number of the sign of `sign` and of this magnitude: by the exponential of what is below zero, which
/// cannot overflow.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, sign: S::f32s, magnitude: S::f32s) -> S::f32s {
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let power = exp(simd, simd.neg_f32s(magnitude));
    let above = simd.select_f32s(simd.less_than_f32s(sign, zero), power, one);
    simd.div_f32s(above, simd.add_f32s(one, power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::problem::LinearProblem;
    use crate::reference::{self, LinearInputs};

    /// Numbers of all sizes and both signs, and many where the functions bend.
    fn numbers() -> Vec<f32> {
        let all = (0..0x7f80_0000u32).step_by(0x3_0001).map(f32::from_bits);
        let bent = (0..=200_000).map(|i| i as f32 * 1e-4);
        all.chain(bent).flat_map(|x| [x, -x]).collect()
    }

    /// How far each is off, in roundoffs of f32 times the number: what is stated of the approximations, and of the
    /// exponential that they have in common.
    #[test]
    fn gelus_are_within_some_roundoffs_of_their_number() {
        let numbers = numbers();
        let x: Vec<f64> = numbers.iter().map(|&x| x.into()).collect();
        for (activation, most) in [(Activation::Gelu, 2.5), (Activation::GeluTanh, 3.0)] {
            let problem = LinearProblem::new(x.len(), 1, 1, DType::F32).unwrap();
            let problem = problem.with_activation(activation).unwrap();
            let inputs = LinearInputs { x: &x, weight: &[1.0], bias: None, residual: None };
            let mut got = numbers.clone();
            apply(activation, &mut got, &[]);
            let mut worst = 0.0f64;
            for (row, &got) in got.iter().enumerate() {
                let expected = reference::linear(&problem, inputs, row)[0];
                let size = x[row].max(-f64::from(FAR)).abs();
                let off = (f64::from(got) - expected.value).abs() - f64::from(f32::MIN_POSITIVE);
                worst = worst.max(off / (DType::F32.unit_roundoff() * size));
                assert!(got.is_finite(), "{activation:?} of {}: {got}", x[row]);
            }
            assert!(worst <= most, "{activation:?} is off by {worst} roundoffs");
        }
    }

    /// In roundoffs of what is right, of which the argument of the exponential has as many as it is large.
    #[test]
    fn sigmoids_are_within_some_roundoffs() {
        let gates: Vec<f32> = numbers().into_iter().filter(|x| *x > -87.0).collect();
        let mut got = vec![1.0; gates.len()];
        apply(Activation::Glu, &mut got, &gates);
        for (&gate, got) in gates.iter().zip(got) {
            let expected = 1.0 / (1.0 + (-f64::from(gate)).exp());
            let off = (f64::from(got) - expected).abs() / (DType::F32.unit_roundoff() * expected);
            assert!(off <= 6.0, "the sigmoid of {gate} is off by {off} roundoffs: {got}");
        }
    }

    #[test]
    fn what_is_not_finite() {
        let (infinity, nan) = (f32::INFINITY, f32::NAN);
        for activation in [Activation::Gelu, Activation::GeluTanh] {
            let mut numbers = [infinity, -infinity, nan, f32::MAX, f32::MIN, 0.0];
            apply(activation, &mut numbers, &[]);
            assert!(numbers[2].is_nan(), "{activation:?}");
            numbers[2] = 1.0;
            assert_eq!(numbers, [infinity, 0.0, 1.0, f32::MAX, 0.0, 0.0], "{activation:?}");
        }
        let mut numbers = [2.0, 2.0, 2.0, nan, infinity, 2.0, 2.0];
        apply(Activation::Glu, &mut numbers, &[infinity, -infinity, nan, 0.0, 0.0, f32::MAX, f32::MIN]);
        assert!(numbers[2].is_nan() && numbers[3].is_nan());
        assert_eq!(
            [numbers[0], numbers[1], numbers[4], numbers[5], numbers[6]],
            [2.0, 0.0, infinity, 2.0, 0.0]
        );
    }
}
