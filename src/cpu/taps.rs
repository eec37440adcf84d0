//! The inner loops of convolution: weights times rows of tokens, in registers.

mod sums;
mod token_sums;

pub(crate) use sums::{TapSums, sum};
pub(crate) use token_sums::TokenSums;

use std::array::from_fn;

use pulp::{Simd, WithSimd};

use crate::cpu::arch;

/// One set of taps for all tokens: out\[i, c\] = bias\[c\] + sum_j weights\[j, c\] rows\[i + j, c\].
pub(crate) struct SharedTaps<'a> {
    /// `[tokens, out_stride]`.
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    /// `[width]`.
    pub(crate) bias: &'a [f32],
    /// `[tokens + taps - 1, row_stride]`.
    pub(crate) rows: &'a [f32],
    pub(crate) row_stride: usize,
    /// `[taps, weight_stride]`.
    pub(crate) weights: &'a [f32],
    pub(crate) weight_stride: usize,
    pub(crate) tokens: usize,
    pub(crate) taps: usize,
    /// Channels, a multiple of 16.
    pub(crate) width: usize,
}

impl SharedTaps<'_> {
    pub(crate) fn run(self) {
        let fits =
            |len: usize, rows: usize, stride: usize| rows == 0 || (rows - 1) * stride + self.width <= len;
        assert!(self.width.is_multiple_of(16) && self.width <= self.bias.len());
        assert!(fits(self.out.len(), self.tokens, self.out_stride));
        if self.taps == 0 {
            for i in 0..self.tokens {
                self.out[i * self.out_stride..][..self.width].copy_from_slice(&self.bias[..self.width]);
            }
            return;
        }
        assert!(fits(self.rows.len(), self.tokens + self.taps - 1, self.row_stride));
        assert!(fits(self.weights.len(), self.taps, self.weight_stride));
        arch().dispatch(self);
    }

    /// `T` tokens and `V` vectors of channels at a time, as many as there are of both; the token after the last.
    #[inline(always)]
    fn tokens<S: Simd, const T: usize, const V: usize>(&mut self, simd: S, first: usize) -> usize {
        let end = first + (self.tokens - first) / T * T;
        let mut column = 0;
        while column + V * S::F32_LANES <= self.width {
            for token in (first..end).step_by(T) {
                // SAFETY: `run` asserted that `tokens` tokens of `width` channels fit, and these are among them.
                unsafe { self.block::<S, T, V>(simd, token, column) };
            }
            column += V * S::F32_LANES;
        }
        while column < self.width {
            for token in (first..end).step_by(T) {
                // SAFETY: as above; the width is a multiple of every number of lanes.
                unsafe { self.block::<S, T, 1>(simd, token, column) };
            }
            column += S::F32_LANES;
        }
        end
    }

    /// # Safety
    ///
    /// Tokens `token .. token + T` and channels `column .. column + V * LANES` must be within what `run` asserted.
    #[inline(always)]
    unsafe fn block<S: Simd, const T: usize, const V: usize>(
        &mut self,
        simd: S,
        token: usize,
        column: usize,
    ) {
        let lanes = S::F32_LANES;
        // SAFETY: every address is that of a token, a tap and V vectors of channels inside the slices, by the
        // function's contract; vectors are read and written unaligned.
        unsafe {
            let out = self.out.as_mut_ptr().add(token * self.out_stride + column);
            let mut row = self.rows.as_ptr().add(token * self.row_stride + column);
            let mut weight = self.weights.as_ptr().add(column);
            let bias = self.bias.as_ptr().add(column);
            let bias: [S::f32s; V] = from_fn(|v| load::<S>(bias.add(v * lanes)));
            let mut sums: [[S::f32s; V]; T] = [bias; T];
            for j in 0..self.taps {
                let weights: [S::f32s; V] = from_fn(|v| load::<S>(weight.add(v * lanes)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let x = load::<S>(row.add(i * self.row_stride + v * lanes));
                        *sum = simd.mul_add_e_f32s(weights[v], x, *sum);
                    }
                }
                if j + 1 < self.taps {
                    row = row.add(self.row_stride);
                    weight = weight.add(self.weight_stride);
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    store::<S>(out.add(i * self.out_stride + v * lanes), sum);
                }
            }
        }
    }
}

impl WithSimd for SharedTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // A weight is loaded once for 8 tokens. 16 sums and 2 weights want the 32 registers that come with 16 lanes; 8
        // sums and a weight fit in 16. Eight sums in flight hide the latency of a multiply-add.
        let token = if S::F32_LANES == 16 {
            self.tokens::<S, 8, 2>(simd, 0)
        } else {
            self.tokens::<S, 8, 1>(simd, 0)
        };
        let token = self.tokens::<S, 2, 4>(simd, token);
        self.tokens::<S, 1, 4>(simd, token);
    }
}

/// Taps of one token's own, one number for all channels: out\[c\] = bias\[c\] + sum_j weights\[j\] rows\[j, c\].
pub(crate) struct OwnTaps<'a> {
    /// `[width]`.
    pub(crate) out: &'a mut [f32],
    /// `[width]`.
    pub(crate) bias: &'a [f32],
    /// `[taps, row_stride]`.
    pub(crate) rows: &'a [f32],
    pub(crate) row_stride: usize,
    /// Tap j at j * `weight_stride`.
    pub(crate) weights: &'a [f32],
    pub(crate) weight_stride: usize,
    pub(crate) taps: usize,
    /// Channels, a multiple of 16.
    pub(crate) width: usize,
}

impl OwnTaps<'_> {
    /// The sum, on the instruction set of `simd`. To be called where that is already dispatched.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(mut self, simd: S) {
        assert!(self.width.is_multiple_of(16));
        assert!(self.width <= self.out.len() && self.width <= self.bias.len());
        if self.taps == 0 {
            return self.out[..self.width].copy_from_slice(&self.bias[..self.width]);
        }
        assert!((self.taps - 1) * self.row_stride + self.width <= self.rows.len());
        assert!((self.taps - 1) * self.weight_stride < self.weights.len());
        // Eight sums in flight hide the latency of a multiply-add: over channels where there are as many, else over
        // taps.
        let column = self.columns::<S, 1, 8>(simd, 0);
        let column = self.columns::<S, 2, 4>(simd, column);
        let column = self.columns::<S, 4, 2>(simd, column);
        self.columns::<S, 8, 1>(simd, column);
    }

    #[inline(always)]
    fn columns<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, mut column: usize) -> usize {
        while column + V * S::F32_LANES <= self.width {
            // SAFETY: `run` asserted that all taps and `width` channels fit.
            unsafe { self.block::<S, P, V>(simd, column) };
            column += V * S::F32_LANES;
        }
        column
    }

    /// # Safety
    ///
    /// Channels `column .. column + V * LANES` must be within what `run` asserted.
    #[inline(always)]
    unsafe fn block<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, column: usize) {
        let lanes = S::F32_LANES;
        // SAFETY: every address is that of a tap j < taps and V vectors of channels inside the slices, by the
        // function's contract; vectors are read and written unaligned.
        unsafe {
            let out = self.out.as_mut_ptr().add(column);
            let rows = self.rows.as_ptr().add(column);
            let weights = self.weights.as_ptr();
            let zero = simd.splat_f32s(0.0);
            let mut sums: [[S::f32s; V]; P] = from_fn(|_| [zero; V]);
            let tap = |j: usize, sums: &mut [S::f32s; V]| {
                let weight = simd.splat_f32s(*weights.add(j * self.weight_stride));
                for (v, sum) in sums.iter_mut().enumerate() {
                    let x = load::<S>(rows.add(j * self.row_stride + v * lanes));
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            };
            let mut j = 0;
            while j + P <= self.taps {
                for (p, sums) in sums.iter_mut().enumerate() {
                    tap(j + p, sums);
                }
                j += P;
            }
            while j < self.taps {
                tap(j, &mut sums[0]);
                j += 1;
            }
            for v in 0..V {
                let bias = load::<S>(self.bias.as_ptr().add(column + v * lanes));
                let sum = sums.iter().fold(bias, |sum, part| simd.add_f32s(sum, part[v]));
                store::<S>(out.add(v * lanes), sum);
            }
        }
    }
}

/// Taps of each token's own, with tokens in the lanes: out\[c, t\] = bias\[c\] + sum_j weights\[j, t\]
/// x\[c, t + j r\].
///
/// Slices have room for a vector to run over the last token; what is written there means nothing.
pub(crate) struct TokenTaps<'a> {
    /// `[channels, out_stride]`.
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    /// `[channels]`.
    pub(crate) bias: &'a [f32],
    /// `[channels, x_stride]`.
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    /// `[taps, weight_stride]`.
    pub(crate) weights: &'a [f32],
    pub(crate) weight_stride: usize,
    pub(crate) taps: usize,
    pub(crate) dilation: usize,
    pub(crate) channels: usize,
    pub(crate) tokens: usize,
}

impl TokenTaps<'_> {
    /// `C` channels and `V` vectors of tokens at a time, so that a vector of weights is loaded once for C channels.
    #[inline(always)]
    fn channels<S: Simd, const C: usize, const V: usize>(&mut self, simd: S, mut channel: usize) -> usize {
        let step = V * S::F32_LANES;
        while channel + C <= self.channels {
            let mut token = 0;
            while token + step <= self.tokens {
                // SAFETY: `with_simd` asserted that all channels, taps and tokens fit, and these are among them.
                unsafe { self.block::<S, C, V>(simd, channel, token) };
                token += step;
            }
            while token < self.tokens {
                // SAFETY: as above; the last vector is the one that it asserted room for.
                unsafe { self.block::<S, C, 1>(simd, channel, token) };
                token += S::F32_LANES;
            }
            channel += C;
        }
        channel
    }

    /// # Safety
    ///
    /// Channels `channel .. channel + C` and tokens `token .. token + V * LANES` must be within what `with_simd`
    /// asserted.
    #[inline(always)]
    unsafe fn block<S: Simd, const C: usize, const V: usize>(
        &mut self,
        simd: S,
        channel: usize,
        token: usize,
    ) {
        let lanes = S::F32_LANES;
        // SAFETY: every address is that of a channel, a tap j < taps and V vectors of tokens inside the slices, by the
        // function's contract; vectors are read and written unaligned.
        unsafe {
            let out = self.out.as_mut_ptr().add(channel * self.out_stride + token);
            let x = self.x.as_ptr().add(channel * self.x_stride + token);
            let weights = self.weights.as_ptr().add(token);
            let bias = |c: usize| simd.splat_f32s(self.bias[channel + c]);
            let mut sums: [[S::f32s; V]; C] = from_fn(|c| [bias(c); V]);
            for j in 0..self.taps {
                let weight = weights.add(j * self.weight_stride);
                let weights: [S::f32s; V] = from_fn(|v| load::<S>(weight.add(v * lanes)));
                for (c, sums) in sums.iter_mut().enumerate() {
                    let x = x.add(c * self.x_stride + j * self.dilation);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.mul_add_e_f32s(weights[v], load::<S>(x.add(v * lanes)), *sum);
                    }
                }
            }
            for (c, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    store::<S>(out.add(c * self.out_stride + v * lanes), sum);
                }
            }
        }
    }
}

impl WithSimd for TokenTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if self.channels == 0 || self.taps == 0 || self.tokens == 0 {
            return;
        }
        let tokens = self.tokens.next_multiple_of(S::F32_LANES);
        let reach = (self.taps - 1) * self.dilation;
        assert!((self.channels - 1) * self.out_stride + tokens <= self.out.len());
        assert!((self.channels - 1) * self.x_stride + tokens + reach <= self.x.len());
        assert!((self.taps - 1) * self.weight_stride + tokens <= self.weights.len());
        // Eight sums in flight hide the latency of a multiply-add.
        let channel = self.channels::<S, 8, 1>(simd, 0);
        let channel = self.channels::<S, 4, 2>(simd, channel);
        let channel = self.channels::<S, 2, 4>(simd, channel);
        self.channels::<S, 1, 8>(simd, channel);
    }
}

/// # Safety
///
/// A vector of f32 must be readable at `at`.
#[inline(always)]
unsafe fn load<S: Simd>(at: *const f32) -> S::f32s {
    // SAFETY: readable by contract; any bits are a vector of numbers.
    unsafe { at.cast::<S::f32s>().read_unaligned() }
}

/// # Safety
///
/// A vector of f32 must be writable at `at`.
#[inline(always)]
unsafe fn store<S: Simd>(at: *mut f32, value: S::f32s) {
    // SAFETY: writable by contract.
    unsafe { at.cast::<S::f32s>().write_unaligned(value) }
}
