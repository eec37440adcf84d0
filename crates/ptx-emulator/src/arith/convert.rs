//! `cvt`: every pair of integer and float types, with PTX's rounding and saturation.

use super::quick::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::round::{BF16, F16, F32, F64, Format, Rounding, convert, put_together, to_integer, to_integral};
use super::{Lanes, vectorised};
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

#[inline(always)]
fn each(source: &Lanes, convert: impl Fn(u64) -> u64) -> Lanes {
    vectorised(|| {
        let mut out = [0; 32];
        for (out, &x) in out.iter_mut().zip(source) {
            *out = convert(x);
        }
        out
    })
}

impl Conversion {
    /// All lanes of a register: as `apply` does one, and quicker where there is a quick way.
    pub(crate) fn apply_all(&self, source: &Lanes) -> Lanes {
        let nearest =
            !self.integral && !self.ftz && !self.sat && !self.relu && self.mode == Rounding::Nearest;
        let single = |x: u64| f32::from_bits(x as u32);
        let bits = |x: f32| u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() });
        match (self.from, self.to) {
            (from, to) if from.is_int() && to.is_int() && !self.sat => {
                let (cut, fill, rest) = (64 - from.bits(), 64 - to.bits(), u64::MAX >> (64 - self.register));
                let (negative, spread) = (from.is_signed(), to.is_signed());
                each(source, |x| {
                    let x = if negative { ((x << cut) as i64 >> cut) as u64 } else { x << cut >> cut };
                    if spread { ((x << fill) as i64 >> fill) as u64 & rest } else { x << fill >> fill }
                })
            }
            (Type::F16, Type::F32) if nearest => each(source, |x| bits(f16_to_f32(x as u16))),
            (Type::BF16, Type::F32) if nearest => each(source, |x| bits(bf16_to_f32(x as u16))),
            (Type::F32, Type::F16) if nearest => each(source, |x| f32_to_f16(single(x)).into()),
            (Type::F32, Type::BF16) if nearest => each(source, |x| f32_to_bf16(single(x)).into()),
            (Type::U32, Type::F32) if nearest => each(source, |x| bits(x as u32 as f32)),
            (Type::S32, Type::F32) if nearest => each(source, |x| bits(x as u32 as i32 as f32)),
            (Type::F32, Type::F32) if self.sat && !self.ftz && !self.integral => each(source, |x| {
                let x = single(x);
                bits(if x > 0.0 { x.min(1.0) } else { 0.0 })
            }),
            _ => source.map(|x| self.apply(x)),
        }
    }

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
    fn the_quick_ways_are_as_in_general() {
        let ints = [Type::U8, Type::S8, Type::U16, Type::S16, Type::U32, Type::S32, Type::U64, Type::S64];
        let floats = [Type::F16, Type::BF16, Type::F32];
        let (all, nearest) = (ints.into_iter().chain(floats), Rounding::Nearest);
        let sources = (0..1u64 << 16).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let edges =
            [0, 1, 0x7fff, 0x8000, 0xffff, 0x7f80_0000, 0x7f80_0001, 0xff80_0000, 0x8000_0000, u64::MAX];
        let sources: Vec<u64> = sources.chain((0..=u16::MAX).map(u64::from)).chain(edges).collect();
        for from in all.clone() {
            for to in all.clone() {
                let fits = from.is_int() && to.is_int() || from != to && (to.is_float() || from.is_float());
                let half = |ty| matches!(ty, Type::F16 | Type::BF16);
                let c = match (from, to) {
                    (Type::F32, Type::F32) => Conversion { sat: true, ..plain(to, from, nearest) },
                    _ if fits && !(half(from) && half(to)) => plain(to, from, nearest),
                    _ => continue,
                };
                for register in [c.register, 64] {
                    let c = if to.is_int() { Conversion { register, ..c } } else { c };
                    for chunk in sources.chunks_exact(32) {
                        let lanes: &Lanes = chunk.try_into().unwrap();
                        assert_eq!(c.apply_all(lanes), lanes.map(|x| c.apply(x)), "{c:?}");
                    }
                }
            }
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
