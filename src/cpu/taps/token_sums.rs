//! The same with tokens in the lanes: every token has taps of its own, whose gradients are sums over channels.

use std::array::from_fn;

use pulp::{Simd, WithSimd};

use super::{load, store};

/// sums\[j, t\] += sum_c dy\[c, t\] x\[c, t + j\].
///
/// Slices have room for a vector to run over the last token; what is written there means nothing.
pub(crate) struct TokenSums<'a> {
    /// `[taps, sum_stride]`.
    pub(crate) sums: &'a mut [f32],
    pub(crate) sum_stride: usize,
    /// `[channels, dy_stride]`.
    pub(crate) dy: &'a [f32],
    pub(crate) dy_stride: usize,
    /// `[channels, x_stride]`.
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) channels: usize,
    pub(crate) taps: usize,
    pub(crate) tokens: usize,
}

impl TokenSums<'_> {
    /// `J` taps and a vector of tokens at a time, as many as there are of both, so that a vector of outputs is loaded once
    /// for J taps; the tap after the last.
    #[inline(always)]
    fn taps<S: Simd, const J: usize>(&mut self, simd: S, mut tap: usize) -> usize {
        while tap + J <= self.taps {
            for token in (0..self.tokens).step_by(S::F32_LANES) {
                // SAFETY: `with_simd` asserted that all channels, taps and tokens fit, and room for the last vector.
                unsafe { self.block::<S, J>(simd, tap, token) };
            }
            tap += J;
        }
        tap
    }

    /// # Safety
    ///
    /// Taps `tap .. tap + J` and tokens `token .. token + LANES` must be within what `with_simd` asserted.
    #[inline(always)]
    unsafe fn block<S: Simd, const J: usize>(&mut self, simd: S, tap: usize, token: usize) {
        // SAFETY: every address is that of a channel, a tap and a vector of tokens inside the slices, by the function's
        // contract; vectors are read and written unaligned.
        unsafe {
            let at = self.sums.as_mut_ptr().add(tap * self.sum_stride + token);
            let mut sums: [S::f32s; J] = from_fn(|j| load::<S>(at.add(j * self.sum_stride)));
            for c in 0..self.channels {
                let dy = load::<S>(self.dy.as_ptr().add(c * self.dy_stride + token));
                let x = self.x.as_ptr().add(c * self.x_stride + token + tap);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_add_e_f32s(dy, load::<S>(x.add(j)), *sum);
                }
            }
            for (j, sum) in sums.into_iter().enumerate() {
                store::<S>(at.add(j * self.sum_stride), sum);
            }
        }
    }
}

impl WithSimd for TokenSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if self.channels == 0 || self.taps == 0 || self.tokens == 0 {
            return;
        }
        let tokens = self.tokens.next_multiple_of(S::F32_LANES);
        assert!((self.taps - 1) * self.sum_stride + tokens <= self.sums.len());
        assert!((self.channels - 1) * self.dy_stride + tokens <= self.dy.len());
        assert!((self.channels - 1) * self.x_stride + tokens + self.taps - 1 <= self.x.len());
        // Eight sums in flight hide the latency of a multiply-add.
        let tap = self.taps::<S, 8>(simd, 0);
        let tap = self.taps::<S, 4>(simd, tap);
        let tap = self.taps::<S, 2>(simd, tap);
        self.taps::<S, 1>(simd, tap);
    }
}
