//! Weight dropout: which weights of a convolution are dropped.

use crate::{Error, Result};

/// Weight dropout (DropConnect, Wan et al. 2013): after normalisation each weight is zero with probability `rate`, and
/// the others are scaled by 1 / (1 - rate), so that a sum keeps its mean.
///
/// Which weights are dropped depends on the seed and on where the weight stands, and on nothing else: every backend drops
/// the same, and the backward pass drops what the forward pass did. See [`Dropout::keeps`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    rate: DropoutRate,
    seed: u64,
}

impl Dropout {
    /// Drops weights with probability `rate`; another `seed` drops others.
    ///
    /// # Errors
    ///
    /// [`Error::DropoutRate`] unless 0 <= rate < 1.
    pub fn new(rate: f32, seed: u64) -> Result<Self> {
        Ok(Dropout { rate: DropoutRate::new(rate)?, seed })
    }

    /// The probability that a weight is dropped.
    pub const fn rate(self) -> DropoutRate {
        self.rate
    }

    /// What the random numbers are made from.
    pub const fn seed(self) -> u64 {
        self.seed
    }

    /// Whether tap `tap` of head `head` is kept; `token` is the row of the flat `[tokens, C]` view for a dynamic
    /// convolution, and 0 for a light one, whose weights all tokens share.
    ///
    /// Its random number is word tap mod 4 of Philox-4x32-10 (Salmon et al. 2011) with the seed as the key, low word
    /// first, and the counter (tap / 4, head, low word of token, high word of token); it is kept where that is at least
    /// [`DropoutRate::threshold`].
    pub fn keeps(self, token: u64, head: usize, tap: usize) -> bool {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let counter = [(tap / 4) as u32, head as u32, token as u32, (token >> 32) as u32];
        philox(counter, key)[tap % 4] >= self.rate.threshold()
    }
}

/// A probability, at least 0 and less than 1, with which weights are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropoutRate {
    /// Bits of an f32, so that a problem can be a key.
    bits: u32,
}

impl DropoutRate {
    /// A rate.
    ///
    /// # Errors
    ///
    /// [`Error::DropoutRate`] unless 0 <= rate < 1.
    pub fn new(rate: f32) -> Result<Self> {
        if (0.0..1.0).contains(&rate) {
            // Minus zero is zero, and must be the same key.
            Ok(DropoutRate { bits: rate.abs().to_bits() })
        } else {
            Err(Error::DropoutRate { got: rate })
        }
    }

    /// The probability.
    pub const fn get(self) -> f32 {
        f32::from_bits(self.bits)
    }

    /// With a seed, which says what is dropped.
    pub const fn seeded(self, seed: u64) -> Dropout {
        Dropout { rate: self, seed }
    }

    /// The random numbers below it drop their weight: rate 2^32.
    pub const fn threshold(self) -> u32 {
        // Exact: a power of two times an f32 that is less than 1.
        (self.get() as f64 * 4_294_967_296.0) as u32
    }

    /// What the weights that are kept are multiplied by: 1 / (1 - rate) in f32.
    pub const fn scale(self) -> f32 {
        1.0 / (1.0 - self.get())
    }
}

/// The four words of Philox-4x32-10 for a counter and a key.
pub(crate) const fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut round = 0;
    while round < 10 {
        let (a, b) = (counter[0] as u64 * 0xD251_1F53, counter[2] as u64 * 0xCD9E_8D57);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        round += 1;
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123.
    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u32::MAX;
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn rates_drop_their_share() {
        for rate in [0.0f32, 0.1, 0.5, 0.9, 1.0 - f32::EPSILON / 2.0] {
            let dropout = Dropout::new(rate, 7).unwrap();
            let all = 40_000;
            let dropped =
                (0..all).filter(|&i| !dropout.keeps(i / 70, (i / 7 % 10) as usize, (i % 7) as usize));
            let expected = f64::from(rate) * all as f64;
            let deviation = (expected * (1.0 - f64::from(rate))).sqrt();
            assert!((dropped.count() as f64 - expected).abs() <= 4.0 * deviation, "{rate}");
        }
        for rate in [-0.1f32, 1.0, 2.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(Dropout::new(rate, 0), Err(Error::DropoutRate { .. })), "{rate}");
        }
    }
}
