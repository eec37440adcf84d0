use std::ops::Mul;

use crate::DType;

/// How many f32 roundoffs, relative to its size, a backend's product, exponential, quotient or short sum may be off. One
/// number for every backend and operator.
pub const ARITHMETIC: f64 = 8.0;

/// How many more a sum of magnitudes may be off for each of its terms. Summed one after another, equal terms drift by
/// 0.16 of a roundoff each (all are rounded the same way); the worst that there can be is half of one.
pub const PER_TERM: f64 = 0.25;

/// The unit roundoff of f32, the type of all arithmetic.
const U32: f64 = DType::F32.unit_roundoff();

/// A value, and how far a backend that computes it may be from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// The largest distance from it that is right.
    pub bound: f64,
}

impl Estimate {
    /// A value that has to be met exactly.
    pub const fn exact(value: f64) -> Self {
        Estimate { value, bound: 0.0 }
    }

    /// bias + sum of weight times x, formed in f32.
    pub(crate) fn sum(bias: f64, terms: impl IntoIterator<Item = (Estimate, f64)>) -> Self {
        let (mut value, mut magnitude, mut inherited, mut count) = (bias, bias.abs(), 0.0, 0.0);
        for (weight, x) in terms {
            count += 1.0;
            value += weight.value * x;
            magnitude += (weight.value * x).abs();
            inherited += (weight.bound + DType::F32.min_positive()) * x.abs();
        }
        let arithmetic = roundoffs(count) * magnitude;
        Estimate { value, bound: inherited + arithmetic + DType::F32.min_positive() }
    }

    /// Rounded to be stored as `dtype`.
    pub(crate) fn stored(self, dtype: DType) -> Self {
        let size = self.value.abs() + self.bound;
        Estimate { bound: self.bound + dtype.unit_roundoff() * size + dtype.min_positive(), ..self }
    }

    /// Whether `got`, stored as `dtype`, is within the bound: the same NaN or infinity, or a number near enough. Past
    /// the largest number of the type, infinity is right too.
    pub fn admits(self, got: f64, dtype: DType) -> bool {
        if !self.value.is_finite() {
            return got == self.value || got.is_nan() && self.value.is_nan();
        }
        let near = (got - self.value).abs() <= self.bound;
        let overflows = self.value.abs() + self.bound > dtype.max();
        near || overflows && got.is_infinite() && got.signum() == self.value.signum()
    }
}

/// Scaled by an exact factor, formed in f32.
impl Mul<f64> for Estimate {
    type Output = Estimate;

    fn mul(self, factor: f64) -> Estimate {
        let value = self.value * factor;
        Estimate { value, bound: self.bound * factor.abs() + U32 * value.abs() + DType::F32.min_positive() }
    }
}

/// How far a sum of so many terms may be off, relative to the sum of their magnitudes.
fn roundoffs(terms: f64) -> f64 {
    (ARITHMETIC + PER_TERM * terms) * U32
}

/// Softmax over all of `logits`.
pub(crate) fn softmax(logits: &[Estimate]) -> Vec<Estimate> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, logit| max.max(logit.value));
    let exps: Vec<f64> = logits.iter().map(|logit| (logit.value - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    let arithmetic = roundoffs(logits.len() as f64);
    let distance = |logit: &Estimate| logit.bound + ARITHMETIC * U32 * (logit.value - max).abs();
    // A weight of zero is zero, however far off its logit is: that may be -infinity.
    let weighted = |value: f64, off: f64| if value == 0.0 { 0.0 } else { value * off };
    let mean: f64 = logits.iter().zip(&exps).map(|(logit, exp)| weighted(exp / sum, distance(logit))).sum();
    logits
        .iter()
        .zip(&exps)
        .map(|(logit, exp)| {
            let value = exp / sum;
            Estimate { value, bound: weighted(value, distance(logit) + mean + arithmetic) }
        })
        .collect()
}
