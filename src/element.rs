//! The number types that tensors are stored in.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

/// The storage type of a tensor. Products and sums are always formed in `f32`; this is what memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32 ("brain float").
    BF16,
}

impl DType {
    /// Every type, in a fixed order.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The unit roundoff u: rounding a real number in the normal range to this type moves it by at most u times
    /// its magnitude.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 24) as f64,
            DType::F16 => 1.0 / (1u64 << 11) as f64,
            DType::BF16 => 1.0 / (1u64 << 8) as f64,
        }
    }

    /// The smallest positive normal number. Below it precision fades, and devices may flush to zero.
    pub fn min_positive(self) -> f64 {
        match self {
            DType::F32 | DType::BF16 => f64::from(f32::MIN_POSITIVE),
            DType::F16 => f16::MIN_POSITIVE.to_f64(),
        }
    }

    /// The largest finite number.
    pub fn max(self) -> f64 {
        match self {
            DType::F32 => f64::from(f32::MAX),
            DType::F16 => f16::MAX.to_f64(),
            DType::BF16 => bf16::MAX.to_f64(),
        }
    }

    /// `value` rounded to the nearest number of this type.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::F32 => f64::from(value as f32),
            DType::F16 => f16::from_f32(rounded_to_odd(value)).to_f64(),
            DType::BF16 => bf16::from_f32(rounded_to_odd(value)).to_f64(),
        }
    }
}

/// The f32 of the two around `value` whose last bit is set, unless one equals it: rounded once more, to fewer bits, that is the
/// number nearest to `value` itself. (`from_f64` of the crate half, 2.7, leaves out the lower half of the bits, and takes what
/// is just above a tie for one.)
fn rounded_to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || value.is_nan() {
        return near;
    }
    let toward_zero = near.to_bits() - u32::from(f64::from(near).abs() > value.abs());
    f32::from_bits(toward_zero | 1)
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        })
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        DType::ALL
            .into_iter()
            .find(|dtype| dtype.to_string() == name)
            .ok_or_else(|| format!("no type is called {name:?}: there are f32, f16 and bf16"))
    }
}

/// A Rust type that tensors can store: `f32`, [`half::f16`] or [`half::bf16`].
///
/// Sealed: the kernels know these three.
pub trait Element: sealed::Sealed + bytemuck::Pod + Default + Send + Sync + fmt::Debug + PartialEq {
    /// The type's name at run time.
    const DTYPE: DType;

    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;

    /// Exact.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around every tie between two numbers of 16 bits, and at the numbers themselves.
    #[test]
    fn f64_rounds_to_nearest() {
        let number = |dtype, bits| match dtype {
            DType::F16 => f16::from_bits(bits).to_f64(),
            _ => bf16::from_bits(bits).to_f64(),
        };
        for dtype in [DType::F16, DType::BF16] {
            for bits in (0..0x7fffu16).filter(|&bits| number(dtype, bits + 1).is_finite()) {
                let (low, high) = (number(dtype, bits), number(dtype, bits + 1));
                let tie = (low + high) / 2.0;
                let even = if bits % 2 == 0 { low } else { high };
                for sign in [1.0, -1.0] {
                    let round = |value: f64| dtype.round(sign * value) * sign;
                    let near = [low, tie.next_down(), tie, tie.next_up(), high].map(round);
                    assert_eq!(near, [low, low, even, high, high], "{dtype} from {low:e}");
                }
            }
            assert!(dtype.round(f64::NAN).is_nan());
            for huge in [f64::INFINITY, f64::MAX] {
                assert_eq!([dtype.round(huge), dtype.round(-huge)], [f64::INFINITY, f64::NEG_INFINITY]);
            }
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}
