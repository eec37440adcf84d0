//! `cvt`: every pair of integer and float types, with PTX's rounding and saturation.

use super::round::{BF16, F16, F32, F64, Format, Rounding, convert, put_together, to_integer, to_integral};
use crate::types::Type;

/// A conversion, ready to run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conversion {
    pub to: Type,
    pub from: Type,
    /// The rounding; where the result is exact it makes no difference.
    pub mode: Rounding,
    /// Rounded to an integer: `.rni` and its like, between floats of one type.
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    /// Bits of the destination register: a signed integer fills it.
    pub register: u32,
}

pub(crate) fn format(ty: Type) -> Option<Format> {
    match ty {
        Type::F16 => Some(F16),
        Type::BF16 => Some(BF16),
        Type::F32 => Some(F32),
        Type::F64 => Some(F64),
        _ => None,
    }
}

/// The integer that these bits are.
fn integer(bits: u64, ty: Type) -> i128 {
    let bits = bits & ty.mask();
    if ty.is_signed() {
        let unused = 64 - ty.bits();
        ((bits << unused) as i64 >> unused).into()
    } else {
        bits.into()
    }
}

fn limits(ty: Type) -> (i128, i128) {
    if ty.is_signed() { (-(1 << (ty.bits() - 1)), (1 << (ty.bits() - 1)) - 1) } else { (0, ty.mask().into()) }
}

fn flush(bits: u64, format: Format) -> u64 {
    if bits & format.infinity() == 0 { bits & format.sign() } else { bits }
}

impl Conversion {
    pub(crate) fn apply(&self, bits: u64) -> u64 {
        let bits = bits & self.from.mask();
        match (format(self.from), format(self.to)) {
            (None, None) => {
                let value = integer(bits, self.from);
                let (low, high) = limits(self.to);
                self.fill(if self.sat { value.clamp(low, high) } else { value })
            }
            (None, Some(to)) => {
                let value = integer(bits, self.from);
                self.finish(put_together(value < 0, value.unsigned_abs(), 0, to, self.mode), to)
            }
            (Some(from), None) => {
                let bits = if self.ftz && from == F32 { flush(bits, from) } else { bits };
                let (low, high) = limits(self.to);
                self.fill(to_integer(bits, from, self.mode, low, high))
            }
            (Some(from), Some(to)) => {
                let bits = if self.ftz && from == F32 { flush(bits, from) } else { bits };
                let value = if self.integral {
                    to_integral(bits, from, self.mode)
                } else {
                    convert(bits, from, to, self.mode)
                };
                self.finish(value, to)
            }
        }
    }

    /// An integer in its register: cut to its type, then its sign spread over the rest.
    fn fill(&self, value: i128) -> u64 {
        let cut = integer(value as u64, self.to);
        cut as u64 & (u64::MAX >> (64 - self.register))
    }

    fn finish(&self, bits: u64, to: Format) -> u64 {
        let bits = if self.ftz && to == F32 { flush(bits, to) } else { bits };
        let magnitude = bits & !to.sign();
        let negative = bits & to.sign() != 0;
        if self.sat {
            let one = put_together(false, 1, 0, to, Rounding::Nearest);
            return if magnitude > to.infinity() || negative { 0 } else { magnitude.min(one) };
        }
        if self.relu && negative && magnitude <= to.infinity() { 0 } else { bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(to: Type, from: Type, mode: Rounding) -> Conversion {
        let register = to.bits().max(16);
        Conversion { to, from, mode, integral: false, ftz: false, sat: false, relu: false, register }
    }

    #[test]
    fn integers_cut_and_spread() {
        let c = plain(Type::S8, Type::U32, Rounding::Zero);
        assert_eq!(Conversion { register: 32, ..c }.apply(0x1ff), 0xffff_ffff);
        assert_eq!(Conversion { sat: true, register: 32, ..c }.apply(0x1ff), 127);
        assert_eq!(plain(Type::S64, Type::S32, Rounding::Zero).apply(0x8000_0000), 0xffff_ffff_8000_0000);
        assert_eq!(plain(Type::U64, Type::U32, Rounding::Zero).apply(0xdead_0000_8000_0000), 0x8000_0000);
        let c = Conversion { sat: true, ..plain(Type::U8, Type::S32, Rounding::Zero) };
        assert_eq!(c.apply((-5i32) as u32 as u64), 0);
    }

    #[test]
    fn floats_to_integers_agree_with_rust_where_it_is_defined_alike() {
        for bits in (0..=u32::MAX).step_by(99_991) {
            let x = f32::from_bits(bits);
            let of = |to| plain(to, Type::F32, Rounding::Zero).apply(bits.into());
            assert_eq!(of(Type::S32) as u32, x as i32 as u32);
            assert_eq!(of(Type::U32) as u32, x as u32);
            assert_eq!(of(Type::S64), x as i64 as u64);
            assert_eq!(of(Type::U8), u64::from(x as u8));
            let nearest = plain(Type::S32, Type::F32, Rounding::Nearest).apply(bits.into());
            assert_eq!(nearest as u32, x.round_ties_even() as i32 as u32);
        }
    }

    #[test]
    fn saturation_and_relu() {
        let c = Conversion { sat: true, ..plain(Type::F16, Type::F32, Rounding::Nearest) };
        let of = |c: Conversion, x: f32| c.apply(x.to_bits().into());
        assert_eq!([of(c, 3.0), of(c, -3.0), of(c, f32::NAN), of(c, 0.5)], [0x3c00, 0, 0, 0x3800]);
        let c = Conversion { relu: true, ..plain(Type::BF16, Type::F32, Rounding::Nearest) };
        assert_eq!([of(c, -1.0), of(c, 1.0), of(c, f32::NAN)], [0, 0x3f80, 0x7fff]);
    }
}
