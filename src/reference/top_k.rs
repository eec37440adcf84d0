use std::cmp::Ordering;

use crate::DType;
use crate::problem::TopKProblem;
use crate::reference::{ARITHMETIC, Estimate, PER_TERM};

const U32: f64 = DType::F32.unit_roundoff();

/// A number of a row, by its rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Where it stands: exact.
    pub index: u32,
    /// The number, or the logarithm of its softmax.
    pub value: Estimate,
}

/// The k largest numbers of row `row` of x, the largest first: NaN before all others, and of equal ones that with the lower
/// index.
///
/// # The bound
///
/// Values are exact. Those of a logarithmic softmax are d - ln S with d = x - m and S the sum of all exp(d), formed in f32:
/// each exponential is as far off as its d lets it be, S by the roundings of a sum of V terms besides, and its logarithm by as
/// much relative to S and by the arithmetic of a logarithm and two differences.
pub fn top_k(problem: &TopKProblem, x: &[f64], row: usize) -> Vec<Ranked> {
    let row = &x[row * problem.vocabulary()..][..problem.vocabulary()];
    let mut order: Vec<usize> = (0..row.len()).collect();
    // It is stable, so that equal numbers keep their order.
    order.sort_by(|&a, &b| match (row[a].is_nan(), row[b].is_nan()) {
        (false, false) => row[b].partial_cmp(&row[a]).unwrap_or(Ordering::Equal),
        (a, b) => b.cmp(&a),
    });
    let largest = row[order[0]];
    let differences = || row.iter().map(|x| x - largest);
    let sum: f64 = differences().map(f64::exp).sum();
    let off =
        |d: f64| if d == f64::NEG_INFINITY { 0.0 } else { d.exp() * ARITHMETIC * U32 * (1.0 + d.abs()) };
    let sum_off = differences().map(off).sum::<f64>() / sum + PER_TERM * U32 * row.len() as f64;
    let value = |x: f64| {
        if !problem.has_log_softmax() {
            return Estimate::exact(x);
        }
        let d = x - largest;
        let bound = sum_off + ARITHMETIC * U32 * (1.0 + d.abs() + sum.ln());
        Estimate { value: d - sum.ln(), bound }
    };
    order[..problem.k()]
        .iter()
        .map(|&index| Ranked { index: index as u32, value: value(row[index]) })
        .collect()
}
