//! Rounding of exact values to a format: the one place where conversions round.

/// The rounding modes of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    Zero,
    Down,
    Up,
}

/// A binary floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub exponent: u32,
    pub mantissa: u32,
}

pub(crate) const F16: Format = Format { exponent: 5, mantissa: 10 };
pub(crate) const BF16: Format = Format { exponent: 8, mantissa: 7 };
pub(crate) const F32: Format = Format { exponent: 8, mantissa: 23 };
pub(crate) const F64: Format = Format { exponent: 11, mantissa: 52 };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    pub(crate) fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// The NaN that instructions give: all bits but the sign, and in f64 the quiet one.
    pub(crate) fn nan(self) -> u64 {
        if self == F64 { 0x7ff8_0000_0000_0000 } else { self.sign() - 1 }
    }

    pub(crate) fn sign(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }
}

/// A value taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Nan,
    Infinite {
        negative: bool,
    },
    /// `magnitude * 2^exponent`
    Finite {
        negative: bool,
        magnitude: u128,
        exponent: i32,
    },
}

pub(crate) fn take_apart(bits: u64, format: Format) -> Value {
    let negative = bits & format.sign() != 0;
    let fraction = bits & ((1 << format.mantissa) - 1);
    let exponent = (bits & format.infinity()) >> format.mantissa;
    let lowest = 1 - format.bias() - format.mantissa as i32;
    if exponent == 0 {
        Value::Finite { negative, magnitude: fraction.into(), exponent: lowest }
    } else if bits & format.infinity() != format.infinity() {
        let magnitude = (fraction | 1 << format.mantissa).into();
        Value::Finite { negative, magnitude, exponent: lowest + exponent as i32 - 1 }
    } else if fraction == 0 {
        Value::Infinite { negative }
    } else {
        Value::Nan
    }
}

/// `magnitude / 2^shift`, rounded to an integer.
pub(crate) fn shift_right(magnitude: u128, shift: u32, negative: bool, mode: Rounding) -> u128 {
    if shift == 0 {
        return magnitude;
    }
    let (kept, rest) = if shift < 128 { (magnitude >> shift, magnitude << (128 - shift)) } else { (0, 0) };
    // The part shifted out, as a fraction of 2^128. What lies wholly below is less than a half.
    let rest = if shift >= 128 && magnitude != 0 { 1 } else { rest };
    let half = 1 << 127;
    let up = match mode {
        Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept + u128::from(up)
}

/// `magnitude * 2^exponent` in the format.
pub(crate) fn put_together(
    negative: bool,
    magnitude: u128,
    exponent: i32,
    format: Format,
    mode: Rounding,
) -> u64 {
    let sign = if negative { format.sign() } else { 0 };
    if magnitude == 0 {
        return sign;
    }
    let mantissa = format.mantissa as i32;
    let top = 127 - magnitude.leading_zeros() as i32 + exponent;
    // The weight of the last bit kept: that of a normal number, or the one all subnormal numbers share.
    let last = top.max(1 - format.bias()) - mantissa;
    let kept = if last <= exponent {
        magnitude << (exponent - last)
    } else {
        shift_right(magnitude, (last - exponent) as u32, negative, mode)
    };
    // A normal number's leading one adds one to the exponent below it, and so does a carry out of the mantissa.
    let below = (last + mantissa + format.bias() - 1) as u64;
    let bits = u128::from(below << format.mantissa) + kept;
    if bits < u128::from(format.infinity()) {
        return sign | bits as u64;
    }
    let outward = match mode {
        Rounding::Nearest => true,
        Rounding::Zero => false,
        Rounding::Down => negative,
        Rounding::Up => !negative,
    };
    sign | if outward { format.infinity() } else { format.infinity() - 1 }
}

/// A value of one format in another.
pub(crate) fn convert(bits: u64, from: Format, to: Format, mode: Rounding) -> u64 {
    match take_apart(bits, from) {
        Value::Nan => to.nan(),
        Value::Infinite { negative } => to.infinity() | if negative { to.sign() } else { 0 },
        Value::Finite { negative, magnitude, exponent } => {
            put_together(negative, magnitude, exponent, to, mode)
        }
    }
}

/// A value rounded to an integer of the same format.
pub(crate) fn to_integral(bits: u64, format: Format, mode: Rounding) -> u64 {
    match take_apart(bits, format) {
        Value::Nan => format.nan(),
        Value::Finite { negative, magnitude, exponent } if exponent < 0 => {
            let whole = shift_right(magnitude, exponent.unsigned_abs(), negative, mode);
            put_together(negative, whole, 0, format, mode)
        }
        _ => bits,
    }
}

/// A value as an integer, clamped to the range; zero for a NaN, as PTX has it.
pub(crate) fn to_integer(bits: u64, format: Format, mode: Rounding, low: i128, high: i128) -> i128 {
    match take_apart(bits, format) {
        Value::Nan => 0,
        Value::Infinite { negative } => {
            if negative {
                low
            } else {
                high
            }
        }
        Value::Finite { negative, magnitude, exponent } => {
            let whole = if exponent <= 0 {
                shift_right(magnitude, exponent.unsigned_abs(), negative, mode)
            } else if exponent > 64 {
                // Past every integer type.
                if magnitude == 0 { 0 } else { 1 << 100 }
            } else {
                magnitude << exponent
            };
            let whole = whole as i128;
            if negative { -whole } else { whole }.clamp(low, high)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn all_of_f16_and_bf16_widen_as_half_does() {
        for bits in 0..=u16::MAX {
            for (ours, theirs) in [
                (convert(bits.into(), F16, F32, Rounding::Nearest), f16::from_bits(bits).to_f32()),
                (convert(bits.into(), BF16, F32, Rounding::Nearest), bf16::from_bits(bits).to_f32()),
            ] {
                let ours = f32::from_bits(ours as u32);
                assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:04x}");
            }
        }
    }

    #[test]
    fn narrowing_agrees_with_half_around_every_f16_and_bf16() {
        for bits in 0..=u16::MAX {
            let sources = [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()];
            for around in sources.map(f32::to_bits) {
                // The value, its neighbours, and the midpoints to the next value and their neighbours.
                for step in [0i64, 1, -1, 0x1000, 0xfff, 0x1001, 0x8000, 0x7fff, 0x8001] {
                    let source = f32::from_bits((i64::from(around) + step) as u32);
                    if source.is_nan() {
                        continue;
                    }
                    let from = u64::from(source.to_bits());
                    assert_eq!(
                        convert(from, F32, F16, Rounding::Nearest) as u16,
                        f16::from_f32(source).to_bits()
                    );
                    assert_eq!(
                        convert(from, F32, BF16, Rounding::Nearest) as u16,
                        bf16::from_f32(source).to_bits()
                    );
                }
            }
        }
    }

    #[test]
    fn f64_and_integers_round_as_rust_does() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bits = state ^ state >> 29;
            let x = f64::from_bits(bits);
            if !x.is_nan() {
                let narrow = convert(bits, F64, F32, Rounding::Nearest) as u32;
                assert_eq!(narrow, (x as f32).to_bits(), "{x:e}");
                let limits = (i128::from(i32::MIN), i128::from(i32::MAX));
                assert_eq!(to_integer(bits, F64, Rounding::Zero, limits.0, limits.1), i128::from(x as i32));
            }
            assert_eq!(
                put_together(false, bits.into(), 0, F32, Rounding::Nearest) as u32,
                (bits as f32).to_bits()
            );
            assert_eq!(put_together(false, bits.into(), 0, F64, Rounding::Nearest), (bits as f64).to_bits());
        }
    }

    #[test]
    fn directed_rounding_brackets_the_value() {
        for bits in (0..0x7f80_0000u32).step_by(997) {
            let x = f32::from_bits(bits);
            let of = |mode| f16::from_bits(convert(bits.into(), F32, F16, mode) as u16).to_f32();
            assert!(of(Rounding::Down) <= x && x <= of(Rounding::Up));
            assert_eq!(of(Rounding::Zero), of(Rounding::Down));
        }
        let tie = |v: f32, mode| f32::from_bits(to_integral(v.to_bits().into(), F32, mode) as u32);
        assert_eq!([tie(2.5, Rounding::Nearest), tie(3.5, Rounding::Nearest)], [2.0, 4.0]);
        assert_eq!([tie(-2.5, Rounding::Down), tie(-2.5, Rounding::Up)], [-3.0, -2.0]);
        assert_eq!(tie(-0.25, Rounding::Up).to_bits(), (-0f32).to_bits());
    }
}
