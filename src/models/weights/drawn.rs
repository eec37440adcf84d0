use rayon::prelude::*;

use crate::dropout::philox;

/// Numbers that depend on a seed, the name of their parameter, and where they stand in it.
pub(super) struct Drawn {
    seed: u64,
}

impl Drawn {
    pub(super) fn new(seed: u64) -> Self {
        Drawn { seed }
    }

    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        match *shape {
            [_] if name.ends_with("weight") => vec![1.0; count],
            [_] => vec![0.0; count],
            _ => {
                // Uniform in -a .. a has the variance a^2 / 3.
                let last = shape.last().copied().unwrap_or(1).max(1);
                let half_width = (3.0 / last as f64).sqrt() as f32;
                let key = [self.seed as u32, (self.seed >> 32) as u32];
                let name = fnv(name);
                let four = |four: usize| {
                    let counter = [four as u32, (four as u64 >> 32) as u32, name as u32, (name >> 32) as u32];
                    philox(counter, key).map(|bits| half_width * uniform(bits))
                };
                let mut values: Vec<f32> =
                    (0..count.div_ceil(4)).into_par_iter().flat_map_iter(four).collect();
                values.truncate(count);
                values
            }
        }
    }
}

/// In -1 .. 1, of the upper 24 bits: all of them exact.
fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 * (2.0 / 16_777_216.0) - 1.0
}

/// FNV-1a of a name.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_numbers_are_of_their_size_and_of_their_name() {
        let drawn = Drawn::new(7);
        let values = drawn.values("a.weight", &[300, 64]);
        let (mean, square) = values.iter().fold((0.0, 0.0), |(mean, square), &value| {
            let value = f64::from(value);
            (mean + value, square + value * value)
        });
        let count = values.len() as f64;
        assert!((mean / count).abs() < 4.0 * (1.0 / 64.0 / count).sqrt());
        assert!((square / count * 64.0 - 1.0).abs() < 0.03);
        assert_eq!(values, Drawn::new(7).values("a.weight", &[300, 64]));
        assert_ne!(values, Drawn::new(8).values("a.weight", &[300, 64]));
        assert_ne!(values, drawn.values("b.weight", &[300, 64]));
        assert_eq!(drawn.values("norm.weight", &[3]), [1.0; 3]);
        assert_eq!(drawn.values("norm.bias", &[3]), [0.0; 3]);
        assert_eq!(drawn.values("odd", &[3, 5]).len(), 15);
        assert!(drawn.values("none", &[0, 5]).is_empty());
    }
}
