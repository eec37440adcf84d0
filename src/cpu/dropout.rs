//! Weight dropout of the taps of a convolution.

use crate::cpu::arch;
use crate::dropout::philox;
use crate::problem::Convolution;
use crate::{Dropout, Error, Result};

/// The dropout of a call, or an error unless a seed is given exactly where weights are dropped.
pub(crate) fn check_seed(conv: &Convolution, seed: Option<u64>) -> Result<Option<Dropout>> {
    match (conv.dropout(), seed) {
        (Some(rate), Some(seed)) => Ok(Some(rate.seeded(seed))),
        (Some(_), None) => Err(Error::Missing { tensor: "seed" }),
        (None, Some(_)) => Err(Error::Surplus { tensor: "seed" }),
        (None, None) => Ok(None),
    }
}

/// What dropout multiplies the taps `[heads, K]` that all tokens share by: zero, or its scale.
pub(crate) fn shared_factors(dropout: Dropout, width: usize, factors: &mut [f32]) {
    for (head, factors) in factors.chunks_exact_mut(width).enumerate() {
        for (tap, factor) in factors.iter_mut().enumerate() {
            *factor = if dropout.keeps(0, head, tap) { dropout.rate().scale() } else { 0.0 };
        }
    }
}

/// Multiplies each tap by its factor. What is dropped is zero, whatever it was.
pub(crate) fn drop_shared(taps: &mut [f32], factors: &[f32]) {
    for (tap, &factor) in taps.iter_mut().zip(factors) {
        *tap = if factor == 0.0 { 0.0 } else { *tap * factor };
    }
}

/// Tokens whose random numbers are made together.
const LANES: usize = 16;

/// Replaces the taps `[K, stride]` of one head, those of the tokens in rows `first`, `first + step`, .. in their columns,
/// by `kept` of those that are kept and `dropped` of the others.
pub(crate) fn drop_columns(
    dropout: Dropout,
    head: usize,
    (first, step, count): (usize, usize, usize),
    (taps, stride): (&mut [f32], usize),
    kept: impl Fn(f32) -> f32,
    dropped: impl Fn(f32) -> f32,
) {
    let (threshold, seed) = (dropout.rate().threshold(), dropout.seed());
    let key = [seed as u32, (seed >> 32) as u32];
    arch().dispatch(
        #[inline(always)]
        || {
            for (quad, taps) in taps.chunks_mut(4 * stride).enumerate() {
                for start in (0..count).step_by(LANES) {
                    let mut words = [[0u32; LANES]; 4];
                    for lane in 0..LANES {
                        // Lanes after the last token may be past all numbers.
                        let token = first.wrapping_add((start + lane).wrapping_mul(step)) as u64;
                        let counter = [quad as u32, head as u32, token as u32, (token >> 32) as u32];
                        let random = philox(counter, key);
                        for (words, random) in words.iter_mut().zip(random) {
                            words[lane] = random;
                        }
                    }
                    let end = count.min(start + LANES);
                    for (taps, words) in taps.chunks_mut(stride).zip(&words) {
                        for (tap, &word) in taps[start..end].iter_mut().zip(words) {
                            *tap = if word >= threshold { kept(*tap) } else { dropped(*tap) };
                        }
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_are_dropped_as_the_vocabulary_says() {
        let dropout = Dropout::new(0.4, 0x1234_5678_9abc_def0).unwrap();
        for (width, stride, count, first, step) in
            [(1, 1, 1, 0, 1), (7, 20, 19, 5, 3), (8, 40, 33, 1 << 33, 1)]
        {
            let mut taps = vec![1.0; width * stride];
            drop_columns(dropout, 3, (first, step, count), (&mut taps, stride), |tap| 2.0 * tap, |_| -5.0);
            for (tap, taps) in taps.chunks(stride).enumerate() {
                for (i, &got) in taps.iter().enumerate() {
                    let kept = dropout.keeps((first + i * step) as u64, 3, tap);
                    let expected = if i >= count {
                        1.0
                    } else if kept {
                        2.0
                    } else {
                        -5.0
                    };
                    assert_eq!(got, expected, "tap {tap} of token {i}");
                }
            }
        }
        let mut factors = [f32::NAN; 5 * 6];
        shared_factors(dropout, 6, &mut factors);
        let mut taps = [3.0; 5 * 6];
        taps[..6].fill(f32::NAN);
        drop_shared(&mut taps, &factors);
        for (i, &got) in taps.iter().enumerate() {
            match dropout.keeps(0, i / 6, i % 6) {
                true if i < 6 => assert!(got.is_nan()),
                true => assert_eq!(got, 3.0 / 0.6),
                false => assert_eq!(got, 0.0),
            }
        }
    }
}
