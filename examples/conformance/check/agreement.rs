//! How far outputs are from what is expected.

use std::fmt;

use lightspan::DType;
use lightspan::reference::Estimate;

use super::Result;

/// How far the reference may be from a fixture, both in f64, relative to the larger of 1 and the value. Sums of a few
/// hundred terms in another order differ by about 1e-14.
const F64_TOLERANCE: f64 = 1e-12;

/// The value of a fixture as something that f64 arithmetic is held to.
pub(crate) fn in_f64(value: f64) -> Estimate {
    Estimate { value, bound: F64_TOLERANCE * value.abs().max(1.0) }
}

/// Outputs against estimates: how many are wrong, and the element that is nearest to its bound or furthest past it.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    /// Which of several tensors it is.
    name: Option<&'static str>,
    error: f64,
    allowed: f64,
    /// Indices of that element.
    at: Vec<usize>,
    wrong: usize,
    elements: usize,
    /// The error over what was allowed, and more than 1 where it is wrong.
    ratio: f64,
}

impl Agreement {
    /// `got`, stored as `dtype`, against `expected`; both are tensors of `shape`.
    pub(crate) fn of(expected: &[Estimate], got: &[f64], dtype: DType, shape: &[usize]) -> Result<Self> {
        if expected.len() != got.len() {
            return Err(format!("y has {} elements, expected {}", got.len(), expected.len()).into());
        }
        let elements = got.len();
        let mut worst =
            Agreement { name: None, error: 0.0, allowed: 0.0, at: vec![], wrong: 0, elements, ratio: -1.0 };
        for (i, (estimate, &got)) in expected.iter().zip(got).enumerate() {
            let admitted = estimate.admits(got, dtype);
            let error = (got - estimate.value).abs();
            let ratio = match (admitted, error / estimate.bound) {
                // Exact zeros, and the same infinity or NaN twice, make no number here, yet are right.
                (true, ratio) => {
                    if ratio.is_nan() {
                        0.0
                    } else {
                        ratio.min(1.0)
                    }
                }
                // What is wrong is worse than all that is right.
                (false, ratio) => {
                    if ratio.is_nan() {
                        f64::INFINITY
                    } else {
                        ratio.max(1.0) + 1.0
                    }
                }
            };
            worst.wrong += usize::from(!admitted);
            if ratio > worst.ratio {
                worst.ratio = ratio;
                (worst.error, worst.allowed, worst.at) = (error, estimate.bound, indices(i, shape));
            }
        }
        Ok(worst)
    }

    /// The same of the tensor of that name.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Agreement { name: Some(name), ..self }
    }

    /// That of the tensor which is nearest to its bounds, or furthest past them.
    pub(crate) fn worst(all: Vec<Agreement>) -> Result<Self> {
        let worst = all.into_iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio));
        worst.ok_or_else(|| "there are no gradients".into())
    }

    /// Whether every element is within its bound.
    pub(crate) fn holds(&self) -> bool {
        self.wrong == 0
    }
}

/// The indices of element `flat` of a tensor of `shape`.
fn indices(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut at: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let index = flat % size;
            flat /= size;
            index
        })
        .collect();
    at.reverse();
    at
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name {
            write!(f, "{name}: ")?;
        }
        write!(f, "error {:.2e}, allowed {:.2e}", self.error, self.allowed)?;
        if !self.holds() {
            write!(f, ", at {:?}; {} of {} values are wrong", self.at, self.wrong, self.elements)?;
        }
        Ok(())
    }
}
