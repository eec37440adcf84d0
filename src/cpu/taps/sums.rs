//! The inner loop of the gradient of taps: outputs times the rows that they read, summed over tokens.

use std::array::from_fn;

use pulp::{Simd, WithSimd};

use super::{load, store};
use crate::cpu::arch;

/// sums\[j, c\] += sum_i dy\[i, c\] rows\[i + j, c\].
pub(crate) struct TapSums<'a> {
    /// `[taps, sum_stride]`.
    pub(crate) sums: &'a mut [f32],
    pub(crate) sum_stride: usize,
    /// `[tokens, dy_stride]`.
    pub(crate) dy: &'a [f32],
    pub(crate) dy_stride: usize,
    /// `[tokens + taps - 1, row_stride]`.
    pub(crate) rows: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) tokens: usize,
    pub(crate) taps: usize,
    /// Channels, a multiple of 16.
    pub(crate) width: usize,
}

/// Tokens whose outputs are held in registers, and taps whose sums are: 8 sums, 4 outputs and a row fit in 16 registers,
/// and take 15 loads for 32 multiply-adds. Eight sums in flight hide the latency of a multiply-add.
const TOKENS: usize = 4;
const TAPS: usize = 8;

impl TapSums<'_> {
    pub(crate) fn run(self) {
        if self.tokens == 0 || self.taps == 0 {
            return;
        }
        let fits = |len: usize, rows: usize, stride: usize| (rows - 1) * stride + self.width <= len;
        assert!(self.width.is_multiple_of(16));
        assert!(fits(self.sums.len(), self.taps, self.sum_stride));
        assert!(fits(self.dy.len(), self.tokens, self.dy_stride));
        assert!(fits(self.rows.len(), self.tokens + self.taps - 1, self.row_stride));
        arch().dispatch(self);
    }

    /// The sums of taps `tap .. tap + J` over all tokens, a vector of channels at a time.
    #[inline(always)]
    fn taps<S: Simd, const J: usize>(&mut self, simd: S, tap: usize) {
        for column in (0..self.width).step_by(S::F32_LANES) {
            // SAFETY: `run` asserted that all tokens and taps of `width` channels fit; the caller gives taps among them, and
            // the width is a multiple of every number of lanes.
            unsafe {
                let at = self.sums.as_mut_ptr().add(tap * self.sum_stride + column);
                let mut sums: [S::f32s; J] = from_fn(|j| load::<S>(at.add(j * self.sum_stride)));
                let whole = self.tokens / TOKENS * TOKENS;
                for token in (0..whole).step_by(TOKENS) {
                    self.block::<S, TOKENS, J>(simd, &mut sums, token, tap, column);
                }
                for token in whole..self.tokens {
                    self.block::<S, 1, J>(simd, &mut sums, token, tap, column);
                }
                for (j, sum) in sums.into_iter().enumerate() {
                    store::<S>(at.add(j * self.sum_stride), sum);
                }
            }
        }
    }

    /// # Safety
    ///
    /// Tokens `token .. token + I`, taps `tap .. tap + J` and a vector of channels from `column` on must be within what
    /// `run` asserted.
    #[inline(always)]
    unsafe fn block<S: Simd, const I: usize, const J: usize>(
        &self,
        simd: S,
        sums: &mut [S::f32s; J],
        token: usize,
        tap: usize,
        column: usize,
    ) {
        // SAFETY: every address is that of a token, or of the row that one of its taps reads, inside the slices, by the
        // function's contract; vectors are read unaligned.
        unsafe {
            let dy = self.dy.as_ptr().add(token * self.dy_stride + column);
            let rows = self.rows.as_ptr().add((token + tap) * self.row_stride + column);
            let dy: [S::f32s; I] = from_fn(|i| load::<S>(dy.add(i * self.dy_stride)));
            for (i, &dy) in dy.iter().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let x = load::<S>(rows.add((i + j) * self.row_stride));
                    *sum = simd.mul_add_e_f32s(dy, x, *sum);
                }
            }
        }
    }
}

impl WithSimd for TapSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut tap = 0;
        while tap + TAPS <= self.taps {
            self.taps::<S, TAPS>(simd, tap);
            tap += TAPS;
        }
        match self.taps - tap {
            0 => {}
            1 => self.taps::<S, 1>(simd, tap),
            2 => self.taps::<S, 2>(simd, tap),
            3 => self.taps::<S, 3>(simd, tap),
            4 => self.taps::<S, 4>(simd, tap),
            5 => self.taps::<S, 5>(simd, tap),
            6 => self.taps::<S, 6>(simd, tap),
            _ => self.taps::<S, 7>(simd, tap),
        }
    }
}

/// The sum of `values`, in an order that depends on their number alone.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    if values.len() < 16 {
        return values.iter().sum();
    }
    let (vectors, rest) = values.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for vector in vectors {
        for (lane, value) in lanes.iter_mut().zip(vector) {
            *lane += value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
