//! Integers and bits. Arithmetic wraps, as PTX's does.

use super::{WarpFn, for_types, warp};
use crate::program::Carried;
use crate::types::Type;

/// `name.type a, b` for instructions of two sources of one type, and `neg`, `abs` of one.
pub(crate) fn plain(name: &str, ty: Type) -> Option<WarpFn> {
    match name {
        "add" => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b) => (a as T).wrapping_add(b as T)),
        "sub" => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b) => (a as T).wrapping_sub(b as T)),
        // What division by zero gives is left open by PTX; here, all ones, and of a remainder the dividend.
        "div" => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b) => if b as T == 0 { !(0 as T) } else { (a as T).wrapping_div(b as T) }),
        "rem" => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b) => if b as T == 0 { a as T } else { (a as T).wrapping_rem(b as T) }),
        "min" => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b) => (a as T).min(b as T)),
        "max" => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b) => (a as T).max(b as T)),
        "neg" => for_types!(ty, T in [S16: i16, S32: i32, S64: i64], (a) => (a as T).wrapping_neg()),
        "abs" => for_types!(ty, T in [S16: i16, S32: i32, S64: i64], (a) => (a as T).wrapping_abs()),
        "and" => for_types!(ty, T in [B16: u16, B32: u32, B64: u64], (a, b) => (a & b) as T),
        "or" => for_types!(ty, T in [B16: u16, B32: u32, B64: u64], (a, b) => (a | b) as T),
        "xor" => for_types!(ty, T in [B16: u16, B32: u32, B64: u64], (a, b) => (a ^ b) as T),
        "not" => for_types!(ty, T in [B16: u16, B32: u32, B64: u64], (a) => !(a as T)),
        "shl" => for_types!(ty, T in [B16: u16, B32: u32, B64: u64],
            (a, b) => (a as T).checked_shl(b as u32).unwrap_or(0)),
        // Amounts past the width are clamped to it: zeros, or the sign all over.
        "shr" => {
            for_types!(ty, T in [B16: u16, B32: u32, B64: u64, U16: u16, U32: u32, U64: u64, S16: i16, S32: i32, S64: i64],
            (a, b) => (a as T) >> (b as u32).min(T::BITS - 1) >> u32::from(b as u32 >= T::BITS))
        }
        "popc" => for_types!(ty, T in [B32: u32, B64: u64], (a) => (a as T).count_ones()),
        "clz" => for_types!(ty, T in [B32: u32, B64: u64], (a) => (a as T).leading_zeros()),
        "brev" => for_types!(ty, T in [B32: u32, B64: u64], (a) => (a as T).reverse_bits()),
        _ => None,
    }
}

/// The part of a product that `mul` and `mad` keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Low,
    High,
    Wide,
}

/// `mul` is `mad` with a zero to add.
pub(crate) fn mad(part: Part, ty: Type) -> Option<WarpFn> {
    match part {
        Part::Low => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
            (a, b, c) => (a as T).wrapping_mul(b as T).wrapping_add(c as T)),
        // The only product that needs the sign bit of its 128.
        Part::High if ty == Type::U64 => {
            Some(warp!(|a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)))
        }
        Part::High => for_types!(ty, T in [U16: u16, S16: i16, U32: u32, S32: i32, S64: i64],
            (a, b, c) => (((a as T as i128 * b as T as i128) >> T::BITS) as T).wrapping_add(c as T)),
        Part::Wide => match ty {
            Type::U16 => Some(warp!(|a, b, c| (a as u16 as u32 * b as u16 as u32).wrapping_add(c as u32))),
            Type::S16 => Some(warp!(|a, b, c| (a as i16 as i32 * b as i16 as i32).wrapping_add(c as i32))),
            Type::U32 => Some(warp!(|a, b, c| (a as u32 as u64 * b as u32 as u64).wrapping_add(c))),
            Type::S32 => Some(warp!(|a, b, c| (a as i32 as i64 * b as i32 as i64).wrapping_add(c as i64))),
            _ => None,
        },
    }
}

/// `mad24`: the product of 24 bits each, of which the lower or the upper 32 of 48 are kept, and a third operand.
pub(crate) fn mad24(high: bool, ty: Type) -> Option<WarpFn> {
    fn signed(x: u64) -> i64 {
        ((x as u32) << 8) as i32 as i64 >> 8
    }
    fn unsigned(x: u64) -> u64 {
        x & 0xff_ffff
    }
    match (ty, high) {
        (Type::U32, false) => {
            Some(warp!(|a, b, c| ((unsigned(a) * unsigned(b)) as u32).wrapping_add(c as u32)))
        }
        (Type::U32, true) => {
            Some(warp!(|a, b, c| (((unsigned(a) * unsigned(b)) >> 16) as u32).wrapping_add(c as u32)))
        }
        (Type::S32, false) => Some(warp!(|a, b, c| ((signed(a) * signed(b)) as u32).wrapping_add(c as u32))),
        (Type::S32, true) => {
            Some(warp!(|a, b, c| (((signed(a) * signed(b)) >> 16) as u32).wrapping_add(c as u32)))
        }
        _ => None,
    }
}

/// A sum or a difference of numbers of a type, and the carry or borrow out of it. The last operand is added to the part
/// of the product that is kept.
pub(crate) fn carried(what: Carried, ty: Type, [a, b, c]: [u64; 3], carry: bool) -> (u64, bool) {
    let (mask, bits) = (u128::from(ty.mask()), ty.bits());
    let wide = |x: u64| {
        if ty.is_signed() { i128::from((x << (64 - bits)) as i64 >> (64 - bits)) } else { i128::from(x) }
    };
    let carry = u128::from(carry);
    let (a, b) = match what {
        Carried::Add | Carried::Subtract => (u128::from(a), u128::from(b)),
        Carried::AddLow => (wide(a).wrapping_mul(wide(b)) as u128 & mask, u128::from(c)),
        Carried::AddHigh => ((wide(a).wrapping_mul(wide(b)) >> bits) as u128 & mask, u128::from(c)),
    };
    if what == Carried::Subtract {
        return ((a.wrapping_sub(b + carry) & mask) as u64, a < b + carry);
    }
    let sum = a + b + carry;
    ((sum & mask) as u64, sum > mask)
}

/// `bfe.type d, a, position, length`
pub(crate) fn bfe(ty: Type) -> Option<WarpFn> {
    fn extract(a: u64, at: u64, length: u64, bits: u32, signed: bool) -> u64 {
        let (at, length) = ((at & 255) as u32, (length & 255) as u32);
        if length == 0 {
            return 0;
        }
        let msb = bits - 1;
        let sign = signed && (a >> (at + length - 1).min(msb)) & 1 == 1;
        let mut out = 0;
        for i in 0..bits {
            let bit = if i < length && at + i <= msb { (a >> (at + i)) & 1 == 1 } else { sign };
            out |= u64::from(bit) << i;
        }
        out
    }
    match ty {
        Type::U32 => Some(warp!(|a, b, c| extract(a, b, c, 32, false))),
        Type::S32 => Some(warp!(|a, b, c| extract(a, b, c, 32, true))),
        Type::U64 => Some(warp!(|a, b, c| extract(a, b, c, 64, false))),
        Type::S64 => Some(warp!(|a, b, c| extract(a, b, c, 64, true))),
        _ => None,
    }
}

/// `bfi.type d, field, into, position, length`
pub(crate) fn bfi(ty: Type) -> Option<WarpFn> {
    fn insert(field: u64, into: u64, at: u64, length: u64, bits: u32) -> u64 {
        let (at, length) = ((at & 255) as u32, (length & 255) as u32);
        let mut out = into;
        for i in 0..length.min(bits) {
            if at + i < bits {
                out = out & !(1 << (at + i)) | ((field >> i) & 1) << (at + i);
            }
        }
        out
    }
    match ty {
        Type::B32 => Some(warp!(|a, b, c, d| insert(a, b, c, d, 32))),
        Type::B64 => Some(warp!(|a, b, c, d| insert(a, b, c, d, 64))),
        _ => None,
    }
}

/// `bfind{.shiftamt}.type d, a`: the highest bit that is not the sign's, or how far to shift it to the top; all ones
/// where there is none.
pub(crate) fn bfind(ty: Type, shift: bool) -> Option<WarpFn> {
    fn find(value: u64, bits: u32, shift: bool) -> u32 {
        match value {
            0 => u32::MAX,
            _ if shift => value.leading_zeros() + bits - 64,
            _ => 63 - value.leading_zeros(),
        }
    }
    Some(match (ty, shift) {
        (Type::U32, false) => warp!(|a| find(a as u32 as u64, 32, false)),
        (Type::U32, true) => warp!(|a| find(a as u32 as u64, 32, true)),
        (Type::S32, false) => warp!(|a| find((a as u32 ^ (a as i32 >> 31) as u32) as u64, 32, false)),
        (Type::S32, true) => warp!(|a| find((a as u32 ^ (a as i32 >> 31) as u32) as u64, 32, true)),
        (Type::U64, false) => warp!(|a| find(a, 64, false)),
        (Type::U64, true) => warp!(|a| find(a, 64, true)),
        (Type::S64, false) => warp!(|a| find(a ^ (a as i64 >> 63) as u64, 64, false)),
        (Type::S64, true) => warp!(|a| find(a ^ (a as i64 >> 63) as u64, 64, true)),
        _ => return None,
    })
}

/// `dp4a.type.type d, a, b, c`: c and the products of four bytes.
pub(crate) fn dp4a(types: [Type; 2]) -> Option<WarpFn> {
    fn dot(a: u64, b: u64, c: u64, signed: [bool; 2]) -> u32 {
        let byte = |x: u8, signed| if signed { i32::from(x as i8) } else { i32::from(x) };
        let (a, b) = ((a as u32).to_le_bytes(), (b as u32).to_le_bytes());
        let products = a.into_iter().zip(b).map(|(a, b)| byte(a, signed[0]) * byte(b, signed[1]));
        (c as u32).wrapping_add_signed(products.sum())
    }
    match types {
        [Type::U32, Type::U32] => Some(warp!(|a, b, c| dot(a, b, c, [false, false]))),
        [Type::U32, Type::S32] => Some(warp!(|a, b, c| dot(a, b, c, [false, true]))),
        [Type::S32, Type::U32] => Some(warp!(|a, b, c| dot(a, b, c, [true, false]))),
        [Type::S32, Type::S32] => Some(warp!(|a, b, c| dot(a, b, c, [true, true]))),
        _ => None,
    }
}

/// `lop3.b32 d, a, b, c, table`
pub(crate) fn lop3() -> WarpFn {
    warp!(|a, b, c, table| {
        let (a, b, c) = (a as u32, b as u32, c as u32);
        let mut out = 0u32;
        for i in 0..8 {
            if (table >> i) & 1 == 1 {
                let pick = |x: u32, bit: u32| if i & bit != 0 { x } else { !x };
                out |= pick(a, 4) & pick(b, 2) & pick(c, 1);
            }
        }
        out
    })
}

/// `prmt.b32 d, a, b, selector` in its default mode.
pub(crate) fn prmt() -> WarpFn {
    warp!(|a, b, selector| {
        let bytes = ((b as u32 as u64) << 32 | a as u32 as u64).to_le_bytes();
        let mut out = [0u8; 4];
        for (i, byte) in out.iter_mut().enumerate() {
            let pick = (selector >> (4 * i)) & 15;
            let value = bytes[(pick & 7) as usize];
            // The fourth bit of a selector spreads the sign of its byte.
            *byte = if pick & 8 != 0 { (value as i8 >> 7) as u8 } else { value };
        }
        u32::from_le_bytes(out)
    })
}

/// `shf.left/right.wrap/clamp.b32 d, low, high, amount`
pub(crate) fn shf(left: bool, wrap: bool) -> WarpFn {
    fn both(low: u64, high: u64) -> u64 {
        (high as u32 as u64) << 32 | low as u32 as u64
    }
    match (left, wrap) {
        (true, true) => warp!(|a, b, n| ((both(a, b) << (n & 31)) >> 32) as u32),
        (true, false) => warp!(|a, b, n| ((both(a, b) << (n as u32).min(32)) >> 32) as u32),
        (false, true) => warp!(|a, b, n| (both(a, b) >> (n & 31)) as u32),
        (false, false) => warp!(|a, b, n| (both(a, b) >> (n as u32).min(32)) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(f: WarpFn, a: u64, b: u64, c: u64, d: u64) -> u64 {
        let mut out = [0; 32];
        f([&[a; 32], &[b; 32], &[c; 32], &[d; 32]], &mut out);
        out[0]
    }

    #[test]
    fn arithmetic_wraps_and_keeps_the_register_zero_extended() {
        assert_eq!(run(plain("add", Type::S32).unwrap(), 0x7fff_ffff, 1, 0, 0), 0x8000_0000);
        assert_eq!(
            run(plain("div", Type::S32).unwrap(), (-7i32) as u32 as u64, 2, 0, 0),
            (-3i32) as u32 as u64
        );
        assert_eq!(
            run(plain("rem", Type::S32).unwrap(), (-7i32) as u32 as u64, 2, 0, 0),
            (-1i32) as u32 as u64
        );
        assert_eq!(run(plain("abs", Type::S16).unwrap(), 0x8000, 0, 0, 0), 0x8000);
    }

    #[test]
    fn shifts_clamp() {
        let sign = plain("shr", Type::S32).unwrap();
        assert_eq!(run(sign, 0x8000_0000, 40, 0, 0), 0xffff_ffff);
        assert_eq!(run(sign, 0x8000_0000, 4, 0, 0), 0xf800_0000);
        assert_eq!(run(plain("shr", Type::U32).unwrap(), 0x8000_0000, 32, 0, 0), 0);
        assert_eq!(run(plain("shl", Type::B32).unwrap(), 1, 32, 0, 0), 0);
        assert_eq!(run(shf(true, true), 0x8000_0000, 1, 33, 0), 3);
        assert_eq!(run(shf(false, false), 5, 7, 64, 0), 7);
    }

    #[test]
    fn products_keep_their_part() {
        let a = (-3i32) as u32 as u64;
        assert_eq!(run(mad(Part::Wide, Type::S32).unwrap(), a, 5, 1, 0), (-14i64) as u64);
        assert_eq!(run(mad(Part::High, Type::S32).unwrap(), a, 5, 0, 0), 0xffff_ffff);
        assert_eq!(run(mad(Part::High, Type::U32).unwrap(), a, 5, 0, 0), 4);
        assert_eq!(run(mad(Part::High, Type::U64).unwrap(), u64::MAX, u64::MAX, 0, 0), u64::MAX - 1);
    }

    #[test]
    fn every_table_of_lop3_and_every_selector_of_prmt() {
        for table in 0..256u64 {
            // Lane by lane of bits: a, b, c run through all eight of their values.
            let found = run(lop3(), 0xf0, 0xcc, 0xaa, table);
            assert_eq!(found & 0xff, table);
        }
        let bytes = [0x80u8, 0x01, 0x7f, 0xff, 0x10, 0x92, 0x33, 0xc4];
        let whole = u64::from_le_bytes(bytes);
        for selector in 0..0x1_0000u64 {
            let expected = [0, 4, 8, 12].map(|shift| {
                let pick = selector >> shift & 15;
                let byte = bytes[(pick & 7) as usize];
                if pick < 8 {
                    byte
                } else if byte >= 0x80 {
                    0xff
                } else {
                    0
                }
            });
            let found = run(prmt(), whole & 0xffff_ffff, whole >> 32, selector, 0);
            assert_eq!(found, u64::from(u32::from_le_bytes(expected)), "{selector:x}");
        }
    }

    #[test]
    fn every_field() {
        let a = 0xdead_beef_8123_4567u64;
        for at in 0..70u64 {
            for length in 0..70u64 {
                // As a shift of more bits than there are: past the end there are zeros, or the sign.
                let field = |x: i128| if length == 0 { 0 } else { x >> at.min(100) & ((1 << length) - 1) };
                let unsigned = |bits: u32| field(i128::from(a & (u64::MAX >> (64 - bits)))) as u64;
                assert_eq!(run(bfe(Type::U32).unwrap(), a & 0xffff_ffff, at, length, 0), unsigned(32));
                assert_eq!(run(bfe(Type::U64).unwrap(), a, at, length, 0), unsigned(64));
                let spread = |x: i128| {
                    let found = field(x);
                    let top = length > 0 && found >> (length - 1) & 1 == 1;
                    if top { found - (1 << length) } else { found }
                };
                let found = run(bfe(Type::S32).unwrap(), a & 0xffff_ffff, at, length, 0);
                assert_eq!(found, u64::from(spread(i128::from(a as i32)) as u32), "{at} {length}");
                assert_eq!(
                    run(bfe(Type::S64).unwrap(), a, at, length, 0),
                    spread(i128::from(a as i64)) as u64
                );
                let mask = ((1u128 << length) - 1) << at;
                let inserted = |into: u64, bits: u32| {
                    let mask = mask as u64 & (u64::MAX >> (64 - bits));
                    let mask = if at >= 64 { 0 } else { mask };
                    into & !mask | ((u128::from(a) << at) as u64 & mask)
                };
                let into = 0x1234_5678_9abc_def0u64;
                assert_eq!(run(bfi(Type::B64).unwrap(), a, into, at, length), inserted(into, 64));
                let low = into & 0xffff_ffff;
                assert_eq!(run(bfi(Type::B32).unwrap(), a & 0xffff_ffff, low, at, length), inserted(low, 32));
            }
        }
    }

    #[test]
    fn fields() {
        assert_eq!(run(bfe(Type::U32).unwrap(), 0xabcd_1234, 8, 8, 0), 0x12);
        assert_eq!(run(bfe(Type::S32).unwrap(), 0xabcd_1234, 24, 8, 0), 0xffff_ffab);
        assert_eq!(run(bfi(Type::B32).unwrap(), 0xff, 0, 4, 8), 0xff0);
        assert_eq!(run(lop3(), 0xf0, 0xcc, 0xaa, 0xe8), 0xe8);
        assert_eq!(run(lop3(), 0xf0, 0xcc, 0xaa, 0x96), 0xf0 ^ 0xcc ^ 0xaa);
        assert_eq!(run(prmt(), 0x3322_1180, 0x7766_5544, 0x8650, 0), 0xff66_5580);
    }
}
