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
        let mut sum = Sum { value: bias, magnitude: bias.abs(), ..Sum::default() };
        terms.into_iter().for_each(|(weight, x)| sum.add(weight, x));
        sum.estimate()
    }

    /// The sum of products of numbers that may both be off, formed in f32.
    pub(crate) fn dot(terms: impl IntoIterator<Item = (Estimate, Estimate)>) -> Self {
        let mut sum = Sum::default();
        terms.into_iter().for_each(|(a, b)| sum.add_both(a, b));
        sum.estimate()
    }

    /// The sum of numbers that are off, formed in f32.
    pub(crate) fn total(terms: impl IntoIterator<Item = Estimate>) -> Self {
        Estimate::sum(0.0, terms.into_iter().map(|term| (term, 1.0)))
    }

    /// self - other, formed in f32.
    pub(crate) fn minus(self, other: Self) -> Self {
        Estimate::total([self, Estimate { value: -other.value, ..other }])
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

/// A sum of products as it is formed: its value, the sum of the magnitudes, which is not lost where they cancel, and how far
/// the sum is off because its terms are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    value: f64,
    magnitude: f64,
    inherited: f64,
    count: f64,
}

impl Sum {
    /// One more product, of a weight and an exact number.
    pub(crate) fn add(&mut self, weight: Estimate, x: f64) {
        self.add_both(weight, Estimate::exact(x));
    }

    /// One more product, of numbers that may both be off.
    pub(crate) fn add_both(&mut self, a: Estimate, b: Estimate) {
        // Devices may flush what is smaller than any normal number.
        let flushed = DType::F32.min_positive();
        self.value += a.value * b.value;
        self.magnitude += (a.value * b.value).abs();
        self.inherited += (a.bound + flushed) * (b.value.abs() + b.bound) + b.bound * a.value.abs();
        self.count += 1.0;
    }

    /// All of it times an exact factor.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        let Sum { value, magnitude, inherited, count } = self;
        let by = factor.abs();
        Sum { value: value * factor, magnitude: magnitude * by, inherited: inherited * by, count }
    }

    /// The sum, formed in f32.
    pub(crate) fn estimate(self) -> Estimate {
        let arithmetic = roundoffs(self.count) * self.magnitude;
        Estimate { value: self.value, bound: self.inherited + arithmetic + DType::F32.min_positive() }
    }
}

/// The gradients of logits, from those of their softmax: w_j (g_j - sum_i w_i g_i). Each g_j may be summed before, or its
/// products one after another go through this and are summed then: so magnitudes count, and not their sums.
pub(crate) fn softmax_backward(weights: &[Estimate], gradients: &[Sum]) -> Vec<Estimate> {
    let magnitude: f64 = weights.iter().zip(gradients).map(|(w, g)| w.value * g.magnitude).sum();
    let count: f64 = gradients.iter().map(|g| g.count).sum::<f64>() + gradients.len() as f64;
    let (mut mean, mut mean_bound) = (0.0, 0.0);
    for (w, g) in weights.iter().zip(gradients) {
        mean += w.value * g.value;
        mean_bound += (w.bound + DType::F32.min_positive()) * g.magnitude + w.value * g.estimate().bound;
    }
    weights
        .iter()
        .zip(gradients)
        .map(|(w, g)| {
            let difference = g.estimate().bound + mean_bound + roundoffs(count) * (g.magnitude + magnitude);
            let weight_off = w.bound + DType::F32.min_positive();
            let bound = weight_off * (g.magnitude + magnitude + difference) + w.value * difference;
            Estimate { value: w.value * (g.value - mean), bound: bound + DType::F32.min_positive() }
        })
        .collect()
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
