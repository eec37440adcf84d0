//! Softmax, mostly down the columns of a matrix: lanes are columns, so no vector is ever reduced across.

use pulp::{Scalar, Simd, WithSimd};

use crate::Normalize;
use crate::cpu::arch;

/// Replaces each column of `data`, `rows` rows of `stride` numbers (a multiple of 16), by what `normalize` makes of it.
///
/// A column whose logits are all minus infinity becomes NaN; it has no tap in range and is not to be read.
pub(crate) fn normalize_columns(data: &mut [f32], rows: usize, stride: usize, normalize: Normalize) {
    match normalize {
        Normalize::None => {}
        Normalize::Softmax | Normalize::SoftmaxInRange => {
            arch().dispatch(Columns { data: &mut data[..rows * stride], stride });
        }
    }
}

/// Rows of vectors of `stride` numbers.
#[inline(always)]
fn vector_rows<S: Simd>(data: &mut [f32], stride: usize) -> impl DoubleEndedIterator<Item = &mut [S::f32s]> {
    S::as_mut_simd_f32s(data).0.chunks_exact_mut(stride / S::F32_LANES)
}

struct Columns<'a> {
    data: &'a mut [f32],
    stride: usize,
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for column in 0..self.stride / S::F32_LANES {
            let mut max = simd.splat_f32s(f32::NEG_INFINITY);
            for row in vector_rows::<S>(self.data, self.stride) {
                max = larger(simd, max, row[column]);
            }
            let mut sum = simd.splat_f32s(0.0);
            for row in vector_rows::<S>(self.data, self.stride) {
                row[column] = exp(simd, simd.sub_f32s(row[column], max));
                sum = simd.add_f32s(sum, row[column]);
            }
            let scale = simd.div_f32s(simd.splat_f32s(1.0), sum);
            for row in vector_rows::<S>(self.data, self.stride) {
                row[column] = simd.mul_f32s(row[column], scale);
            }
        }
    }
}

/// Replaces a row by its softmax.
pub(crate) fn softmax_row(row: &mut [f32]) {
    arch().dispatch(Row(row));
}

struct Row<'a>(&'a mut [f32]);

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (vectors, rest) = S::as_mut_simd_f32s(self.0);
        let mut max = simd.splat_f32s(f32::NEG_INFINITY);
        for x in &*vectors {
            max = larger(simd, max, *x);
        }
        let max = rest.iter().fold(simd.reduce_max_f32s(max), |max, &x| if x > max { x } else { max });
        let (lanes, mut sum) = (simd.splat_f32s(max), simd.splat_f32s(0.0));
        for x in &mut *vectors {
            *x = exp(simd, simd.sub_f32s(*x, lanes));
            sum = simd.add_f32s(sum, *x);
        }
        let mut sum = simd.reduce_sum_f32s(sum);
        for x in &mut *rest {
            *x = exp(Scalar, *x - max);
            sum += *x;
        }
        let scale = 1.0 / sum;
        for x in vectors {
            *x = simd.mul_f32s(*x, simd.splat_f32s(scale));
        }
        rest.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Softmax down columns whose rows come in blocks (Milakov and Gimelshein 2018): the largest logit so far and the sum
/// of exponentials relative to it.
pub(crate) struct OnlineSoftmax<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    scale: &'a mut [f32],
}

impl<'a> OnlineSoftmax<'a> {
    /// `columns` columns (a multiple of 16) without a row yet, in `3 * columns` numbers of memory.
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
        arch().dispatch(AddRows { softmax: self, logits: &mut logits[..rows * columns] });
        self.scale
    }

    /// What the sums are to be multiplied by in the end; infinity for a column in which nothing was seen.
    pub(crate) fn finish(self) -> &'a [f32] {
        for (scale, &mut sum) in self.scale.iter_mut().zip(self.sum) {
            *scale = 1.0 / sum;
        }
        self.scale
    }

    /// What [`weigh`] makes weights of, from the same logits again: the largest logit, and one over the sum. Weights of a
    /// column in which nothing was seen are not numbers.
    pub(crate) fn statistics(self) -> (&'a [f32], &'a [f32]) {
        for ((max, scale), &mut sum) in self.max.iter_mut().zip(&mut *self.scale).zip(self.sum) {
            *max = if *max == f32::NEG_INFINITY { 0.0 } else { *max };
            *scale = 1.0 / sum;
        }
        (self.max, self.scale)
    }
}

/// Whether each row has a number of its own, or each column.
#[derive(Clone, Copy)]
pub(crate) enum Along {
    Rows,
    Columns,
}

/// Replaces logits, `rows` rows of `stride` numbers (a multiple of 16), by e^(logit - base) scale, with a base and a scale
/// for each row or column, as [`OnlineSoftmax::statistics`] found them.
///
/// Logits may be computed in another order than they were then, so that one may come out a little over the largest.
pub(crate) fn weigh(
    logits: &mut [f32],
    rows: usize,
    stride: usize,
    along: Along,
    base: &[f32],
    scale: &[f32],
) {
    arch().dispatch(Weigh { logits: &mut logits[..rows * stride], stride, along, base, scale });
}

struct Weigh<'a> {
    logits: &'a mut [f32],
    stride: usize,
    along: Along,
    base: &'a [f32],
    scale: &'a [f32],
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (bases, _) = S::as_simd_f32s(self.base);
        let (scales, _) = S::as_simd_f32s(self.scale);
        for (i, row) in vector_rows::<S>(self.logits, self.stride).enumerate() {
            match self.along {
                Along::Rows => {
                    let (base, scale) = (simd.splat_f32s(self.base[i]), simd.splat_f32s(self.scale[i]));
                    for x in row {
                        *x = weight(simd, *x, base, scale);
                    }
                }
                Along::Columns => {
                    for ((x, base), scale) in row.iter_mut().zip(bases).zip(scales) {
                        *x = weight(simd, *x, *base, *scale);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn weight<S: Simd>(simd: S, logit: S::f32s, base: S::f32s, scale: S::f32s) -> S::f32s {
    let (zero, distance) = (simd.splat_f32s(0.0), simd.sub_f32s(logit, base));
    // What is not a number stays what it is.
    let distance = simd.select_f32s(simd.greater_than_f32s(distance, zero), zero, distance);
    simd.mul_f32s(exp(simd, distance), scale)
}

struct AddRows<'a, 'm> {
    softmax: &'a mut OnlineSoftmax<'m>,
    logits: &'a mut [f32],
}

impl WithSimd for AddRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stride = self.softmax.max.len();
        let (zero, lowest) = (simd.splat_f32s(0.0), simd.splat_f32s(f32::NEG_INFINITY));
        let (maxima, _) = S::as_mut_simd_f32s(self.softmax.max);
        let (sums, _) = S::as_mut_simd_f32s(self.softmax.sum);
        let (scales, _) = S::as_mut_simd_f32s(self.softmax.scale);
        for column in 0..stride / S::F32_LANES {
            let mut max = maxima[column];
            for row in vector_rows::<S>(self.logits, stride) {
                max = larger(simd, max, row[column]);
            }
            // Where nothing has been seen yet, exponentials are relative to zero, and all of them zero.
            let base = simd.select_f32s(simd.equal_f32s(max, lowest), zero, max);
            let mut sum = zero;
            for row in vector_rows::<S>(self.logits, stride) {
                row[column] = exp(simd, simd.sub_f32s(row[column], base));
                sum = simd.add_f32s(sum, row[column]);
            }
            scales[column] = exp(simd, simd.sub_f32s(maxima[column], base));
            sums[column] = simd.mul_add_e_f32s(sums[column], scales[column], sum);
            maxima[column] = max;
        }
    }
}

/// Multiplies each column of `rows` rows of `stride` numbers by its factor.
pub(crate) fn scale_columns(data: &mut [f32], rows: usize, stride: usize, factors: &[f32]) {
    arch().dispatch(
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

/// The larger of each pair; `max` where `x` is not a number.
#[inline(always)]
fn larger<S: Simd>(simd: S, max: S::f32s, x: S::f32s) -> S::f32s {
    simd.select_f32s(simd.greater_than_f32s(x, max), x, max)
}

/// e to the x for x <= 0, to two units in the last place; what would be below the smallest normal number is zero.
///
/// e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2, where eight terms of the Taylor series leave an error
/// of 5e-9.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // ln of the smallest normal number.
    const SMALLEST: f32 = -87.336_54;

    let number = |x| simd.splat_f32s(x);
    let shifted = simd.mul_add_e_f32s(x, number(std::f32::consts::LOG2_E), number(ROUND));
    let n = simd.sub_f32s(shifted, number(ROUND));
    let r = simd.mul_add_e_f32s(n, number(-LN_2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, number(-LN_2_LOW), r);
    let mut series = number(1.0 / 5040.0);
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = simd.mul_add_e_f32s(series, r, number(term));
    }
    let bias = simd.splat_u32s(127u32.wrapping_sub(ROUND.to_bits()));
    let exponent = simd.add_u32s(simd.transmute_u32s_f32s(shifted), bias);
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23)));
    let value = simd.mul_f32s(series, power);
    simd.select_f32s(simd.less_than_f32s(x, number(SMALLEST)), number(0.0), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            vectors.iter_mut().for_each(|x| *x = exp(simd, *x));
            rest.iter_mut().for_each(|x| *x = exp(Scalar, *x));
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let inputs: Vec<f32> = (0..=1_000_000).map(|i| -87.3 * (i as f32 / 1_000_000.0)).collect();
        for simd in [false, true] {
            let mut values = inputs.clone();
            let exps = Exp(&mut values);
            if simd {
                arch().dispatch(exps)
            } else {
                exps.with_simd(Scalar)
            }
            for (&x, &value) in inputs.iter().zip(&values) {
                let expected = f64::from(x).exp();
                let error = (f64::from(value) - expected).abs() / expected;
                assert!(error <= 2.0 * f64::from(f32::EPSILON), "e^{x} is {expected:e}, got {value:e}");
            }
        }
        let mut special = [0.0, -88.0, f32::NEG_INFINITY, f32::NAN];
        arch().dispatch(Exp(&mut special));
        assert_eq!(special[..3], [1.0, 0.0, 0.0]);
        assert!(special[3].is_nan());
    }

    #[test]
    fn rows_and_columns_agree() {
        for length in [1, 15, 16, 40] {
            let logits: Vec<f32> = (0..length).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            let mut row = logits.clone();
            softmax_row(&mut row);
            let mut columns: Vec<f32> = logits.iter().flat_map(|&x| [x; 16]).collect();
            normalize_columns(&mut columns, length, 16, Normalize::Softmax);
            let mut online: Vec<f32> = logits.iter().flat_map(|&x| [x; 16]).collect();
            let mut memory = [f32::NAN; 48];
            let mut softmax = OnlineSoftmax::begin(&mut memory, 16);
            let (first, second) = online.split_at_mut(length / 2 * 16);
            softmax.add(first, length / 2);
            let scale = softmax.add(second, length - length / 2)[0];
            first.iter_mut().for_each(|x| *x *= scale);
            let total = softmax.finish()[0];
            for i in 0..length {
                assert!((row[i] - columns[i * 16]).abs() < 1e-6);
                assert!((row[i] - online[i * 16] * total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn weights_are_made_again_of_statistics() {
        let logits = |i: usize, column: usize| ((i * 37 + column * 5) % 11) as f32 - 5.0;
        let fill = |rows: usize| -> Vec<f32> { (0..rows * 16).map(|at| logits(at / 16, at % 16)).collect() };
        let mut expected = fill(23);
        normalize_columns(&mut expected, 23, 16, Normalize::Softmax);
        let (mut online, mut memory) = (fill(23), [f32::NAN; 48]);
        let mut softmax = OnlineSoftmax::begin(&mut memory, 16);
        softmax.add(&mut online, 23);
        let (base, scale) = softmax.statistics();
        let mut columns = fill(23);
        weigh(&mut columns, 23, 16, Along::Columns, base, scale);
        // The same as rows: column c of the first is row c of the second.
        let mut rows: Vec<f32> = (0..16 * 32).map(|at| logits(at % 32, at / 32)).collect();
        weigh(&mut rows, 16, 32, Along::Rows, base, scale);
        for (i, column) in (0..23).flat_map(|i| (0..16).map(move |column| (i, column))) {
            let expected = expected[i * 16 + column];
            assert!((columns[i * 16 + column] - expected).abs() < 1e-6, "({i}, {column})");
            assert!((rows[column * 32 + i] - expected).abs() < 1e-6, "({i}, {column})");
        }
    }

    #[test]
    fn a_weight_is_never_more_than_its_scale() {
        let mut logits = [3.0; 16];
        logits[0] = 1e30;
        logits[1] = f32::INFINITY;
        logits[2] = f32::NAN;
        weigh(&mut logits, 1, 16, Along::Rows, &[3.0], &[0.5]);
        assert_eq!(logits[0], 0.5);
        assert_eq!(logits[1], 0.5);
        assert!(logits[2].is_nan());
        assert_eq!(logits[3..], [0.5; 13]);
    }
}
