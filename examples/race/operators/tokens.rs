//! From the bytes of a text to token vectors.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// A vector for every byte and one for every position, as in any model of text; the bytes' vectors are random.
pub(crate) struct Embedding {
    channels: usize,
    /// `[256, channels]`.
    table: Vec<f32>,
}

impl Embedding {
    pub(crate) fn new(channels: usize) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        Embedding { channels, table: uniform(&mut rng, 256 * channels, 1.0) }
    }

    /// `[batch, length, channels]`: the text in order, from its beginning again where it ends.
    pub(crate) fn embed(&self, text: &[u8], batch: usize, length: usize) -> Vec<f32> {
        let positions: Vec<f32> = (0..length).flat_map(|t| self.position(t)).collect();
        let mut x: Vec<f32> = Vec::with_capacity(batch * positions.len());
        for (i, &byte) in text.iter().cycle().take(batch * length).enumerate() {
            let byte = &self.table[usize::from(byte) * self.channels..][..self.channels];
            let position = &positions[i % length * self.channels..][..self.channels];
            x.extend(byte.iter().zip(position).map(|(byte, position)| byte + position));
        }
        x
    }

    /// Sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5).
    fn position(&self, t: usize) -> impl Iterator<Item = f32> {
        let channels = self.channels as f32;
        (0..self.channels).map(move |c| {
            let angle = t as f32 / 10_000f32.powf((c - c % 2) as f32 / channels);
            if c % 2 == 0 { angle.sin() } else { angle.cos() }
        })
    }
}

/// `count` numbers of mean 0 and standard deviation `deviation`.
pub(crate) fn uniform(rng: &mut Xoshiro256PlusPlus, count: usize, deviation: f32) -> Vec<f32> {
    let end = 3f32.sqrt() * deviation;
    (0..count).map(|_| rng.random_range(-end..end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_repeated() {
        let embedding = Embedding::new(4);
        let short = embedding.embed(b"abc", 2, 5);
        assert_eq!(short, embedding.embed(b"abcabcabca", 2, 5));
        assert_eq!(short.len(), 2 * 5 * 4);
        assert_ne!(short[..20], short[20..]);
    }
}
