//! Numbers that depend on a seed, a purpose and a step, and on nothing that came before: what stops and goes on later draws what
//! it would have drawn.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The generator of one purpose in one step.
pub fn random(seed: u64, purpose: &str, step: usize) -> Xoshiro256PlusPlus {
    // FNV-1a; the generator mixes what it is seeded with.
    let bytes = seed.to_le_bytes().into_iter().chain(purpose.bytes()).chain((step as u64).to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Xoshiro256PlusPlus::seed_from_u64(hash)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn every_part_counts() {
        let number = |seed, purpose, step| -> u64 { random(seed, purpose, step).random() };
        let first = number(1, "batch", 2);
        assert_eq!(first, number(1, "batch", 2));
        for other in [number(2, "batch", 2), number(1, "masks", 2), number(1, "batch", 3)] {
            assert_ne!(first, other);
        }
    }
}
