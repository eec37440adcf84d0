//! Softmax down the columns of a matrix: lanes are columns, so no vector is ever reduced across.

use pulp::Arch;

use crate::Normalize;

/// Columns that are worked on together.
const LANES: usize = 16;

/// Replaces each column of `data`, `rows` rows of `stride` numbers, by what `normalize` makes of it.
///
/// A column whose logits are all minus infinity becomes NaN; it has no tap in range and is not to be read.
pub(crate) fn normalize_columns(data: &mut [f32], rows: usize, stride: usize, normalize: Normalize) {
    match normalize {
        Normalize::None => {}
        Normalize::Softmax | Normalize::SoftmaxInRange => {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for column in (0..stride).step_by(LANES) {
                        softmax_block(data, rows, stride, column);
                    }
                },
            );
        }
    }
}

#[inline(always)]
fn softmax_block(data: &mut [f32], rows: usize, stride: usize, column: usize) {
    let mut max = [f32::NEG_INFINITY; LANES];
    for j in 0..rows {
        let row = &data[j * stride + column..][..LANES];
        for (max, &x) in max.iter_mut().zip(row) {
            *max = if x > *max { x } else { *max };
        }
    }
    let mut sum = [0.0f32; LANES];
    for j in 0..rows {
        let row = &mut data[j * stride + column..][..LANES];
        for ((x, sum), max) in row.iter_mut().zip(&mut sum).zip(&max) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    let scale = sum.map(|sum| 1.0 / sum);
    for j in 0..rows {
        let row = &mut data[j * stride + column..][..LANES];
        for (x, scale) in row.iter_mut().zip(&scale) {
            *x *= scale;
        }
    }
}

/// Replaces a row by its softmax.
pub(crate) fn softmax_row(row: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let max = fold(row, f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
            row.iter_mut().for_each(|x| *x = exp(*x - max));
            let scale = 1.0 / fold(row, 0.0, |sum, x| sum + x);
            row.iter_mut().for_each(|x| *x *= scale);
        },
    );
}

/// A reduction in as many lanes as a vector may have.
#[inline(always)]
fn fold(row: &[f32], begin: f32, combine: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let mut lanes = [begin; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, x);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(begin, combine)
}

/// Softmax down columns whose rows come in blocks (Milakov and Gimelshein 2018): the largest logit so far and the sum
/// of exponentials relative to it.
pub(crate) struct OnlineSoftmax<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    scale: &'a mut [f32],
}

impl<'a> OnlineSoftmax<'a> {
    /// `columns` columns without a row yet, in `3 * columns` numbers of memory.
    pub(crate) fn begin(memory: &'a mut [f32], columns: usize) -> Self {
        let (max, rest) = memory.split_at_mut(columns);
        let (sum, rest) = rest.split_at_mut(columns);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        OnlineSoftmax { max, sum, scale: &mut rest[..columns] }
    }

    /// Replaces `rows` rows of logits by exponentials relative to the new maximum, and returns what sums over earlier
    /// rows are to be multiplied by.
    pub(crate) fn add(&mut self, logits: &mut [f32], rows: usize) -> &[f32] {
        let columns = self.max.len();
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for column in (0..columns).step_by(LANES) {
                    self.add_block(logits, rows, columns, column);
                }
            },
        );
        self.scale
    }

    #[inline(always)]
    fn add_block(&mut self, logits: &mut [f32], rows: usize, stride: usize, column: usize) {
        let mut max: [f32; LANES] = std::array::from_fn(|lane| self.max[column + lane]);
        for j in 0..rows {
            for (max, &x) in max.iter_mut().zip(&logits[j * stride + column..][..LANES]) {
                *max = if x > *max { x } else { *max };
            }
        }
        // Where nothing has been seen yet, exponentials are relative to zero, and all of them zero.
        let base = max.map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut sum = [0.0; LANES];
        for j in 0..rows {
            let row = &mut logits[j * stride + column..][..LANES];
            for ((x, sum), base) in row.iter_mut().zip(&mut sum).zip(&base) {
                *x = exp(*x - base);
                *sum += *x;
            }
        }
        for lane in 0..LANES {
            let scale = exp(self.max[column + lane] - base[lane]);
            self.scale[column + lane] = scale;
            self.sum[column + lane] = self.sum[column + lane] * scale + sum[lane];
            self.max[column + lane] = max[lane];
        }
    }

    /// What the sums are to be multiplied by in the end; zero for a column in which nothing was seen.
    pub(crate) fn finish(self) -> &'a [f32] {
        for (scale, &mut sum) in self.scale.iter_mut().zip(self.sum) {
            *scale = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        }
        self.scale
    }
}

/// Multiplies each column of `rows` rows of `stride` numbers by its factor.
pub(crate) fn scale_columns(data: &mut [f32], rows: usize, stride: usize, factors: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for row in data.chunks_exact_mut(stride).take(rows) {
                for (x, factor) in row.iter_mut().zip(factors) {
                    *x *= factor;
                }
            }
        },
    );
}

/// e to the x for x <= 0, to two units in the last place; what would be below the smallest normal number is zero.
///
/// e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2, where eight terms of the Taylor series leave an error
/// of 5e-9. No branch and no fused operation, so that it becomes vector code on every instruction set.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // ln of the smallest normal number.
    const SMALLEST: f32 = -87.336_54;

    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut series = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + term;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let value = series * f32::from_bits(exponent);
    if x < SMALLEST { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst: f64 = 0.0;
        for i in 0..=1_000_000 {
            let x = -87.3 * (i as f32 / 1_000_000.0);
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst <= 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
