//! `setp`: comparisons of integers and floats, ordered and unordered.

use super::quick::{bf16_to_f32, f16_to_f32};
use super::{Lanes, WarpTest, vectorised};
use crate::program::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::types::Type;

trait Operand {
    type Number: PartialOrd + Copy;
    fn read(bits: u64) -> Self::Number;
}

macro_rules! operands {
    ($($name:ident: $t:ty = |$x:ident| $e:expr;)*) => { $(
        struct $name;
        impl Operand for $name {
            type Number = $t;
            #[inline(always)]
            fn read($x: u64) -> $t {
                $e
            }
        }
    )* };
}

operands! {
    U16: u16 = |x| x as u16;
    S16: i16 = |x| x as i16;
    U32: u32 = |x| x as u32;
    S32: i32 = |x| x as i32;
    U64: u64 = |x| x;
    S64: i64 = |x| x as i64;
    F32: f32 = |x| f32::from_bits(x as u32);
    F32Flushed: f32 = |x| {
        let x = f32::from_bits(x as u32);
        if x.is_subnormal() { 0.0 } else { x }
    };
    Double: f64 = |x| f64::from_bits(x);
    Half: f32 = |x| f16_to_f32(x as u16);
    Brain: f32 = |x| bf16_to_f32(x as u16);
}

macro_rules! test {
    ($o:ident, |$a:ident, $b:ident| $e:expr) => {{
        fn run<$o: Operand>(a: &Lanes, b: &Lanes) -> u32 {
            vectorised(|| {
                let mut out = 0;
                for i in 0..32 {
                    let ($a, $b) = ($o::read(a[i]), $o::read(b[i]));
                    out |= u32::from($e) << i;
                }
                out
            })
        }
        run::<$o> as WarpTest
    }};
}

fn ordered<O: Operand>(comparison: &str) -> Option<WarpTest> {
    Some(match comparison {
        "eq" => test!(O, |a, b| a == b),
        // Unlike Rust's, PTX's `ne` does not hold when a source is a NaN.
        "ne" => test!(O, |a, b| a.partial_cmp(&b).is_some_and(|o| o.is_ne())),
        "lt" => test!(O, |a, b| a < b),
        "le" => test!(O, |a, b| a <= b),
        "gt" => test!(O, |a, b| a > b),
        "ge" => test!(O, |a, b| a >= b),
        _ => return None,
    })
}

#[expect(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "an unordered comparison is the negation of the opposite one"
)]
fn float<O: Operand>(comparison: &str) -> Option<WarpTest> {
    Some(match comparison {
        "equ" => test!(O, |a, b| a.partial_cmp(&b).is_none_or(|o| o.is_eq())),
        "neu" => test!(O, |a, b| a != b),
        "ltu" => test!(O, |a, b| !(a >= b)),
        "leu" => test!(O, |a, b| !(a > b)),
        "gtu" => test!(O, |a, b| !(a <= b)),
        "geu" => test!(O, |a, b| !(a < b)),
        "num" => test!(O, |a, b| a.partial_cmp(&b).is_some()),
        "nan" => test!(O, |a, b| a.partial_cmp(&b).is_none()),
        _ => return ordered::<O>(comparison),
    })
}

/// `setp.comparison{.ftz}.type`
pub(crate) fn comparison(name: &str, ty: Type, ftz: bool) -> Option<WarpTest> {
    let signless = matches!(name, "eq" | "ne");
    // The names that say unsigned outright, for unsigned types alone.
    let unsigned = match name {
        "lo" => Some("lt"),
        "ls" => Some("le"),
        "hi" => Some("gt"),
        "hs" => Some("ge"),
        _ => None,
    };
    match ty {
        Type::F32 if ftz => float::<F32Flushed>(name),
        Type::F32 => float::<F32>(name),
        _ if ftz => None,
        Type::F64 => float::<Double>(name),
        Type::F16 => float::<Half>(name),
        Type::BF16 => float::<Brain>(name),
        Type::B16 if signless => ordered::<U16>(name),
        Type::B32 if signless => ordered::<U32>(name),
        Type::B64 if signless => ordered::<U64>(name),
        Type::U16 => ordered::<U16>(unsigned.unwrap_or(name)),
        Type::U32 => ordered::<U32>(unsigned.unwrap_or(name)),
        Type::U64 => ordered::<U64>(unsigned.unwrap_or(name)),
        Type::S16 => ordered::<S16>(name),
        Type::S32 => ordered::<S32>(name),
        Type::S64 => ordered::<S64>(name),
        _ => None,
    }
}

/// `isspacep.space`: whether generic addresses are in a space. Parameters are in global memory too, as PTX has it.
pub(crate) fn in_space(space: &str) -> WarpTest {
    fn within(addresses: &Lanes, window: u64) -> u32 {
        let of = |i: usize| addresses[i].wrapping_sub(window) < WINDOW_BYTES;
        (0..32).fold(0, |out, i| out | u32::from(of(i)) << i)
    }
    match space {
        "shared" | "shared::cta" => |a, _| within(a, SHARED_WINDOW),
        "local" => |a, _| within(a, LOCAL_WINDOW),
        "param" => |a, _| within(a, PARAM_WINDOW),
        _ => |a, _| !(within(a, SHARED_WINDOW) | within(a, LOCAL_WINDOW)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_holds_unordered_alone() {
        let (nan, one) = ([u64::from(f32::NAN.to_bits()); 32], [u64::from(1f32.to_bits()); 32]);
        for name in ["eq", "ne", "lt", "le", "gt", "ge", "num"] {
            assert_eq!(comparison(name, Type::F32, false).unwrap()(&nan, &one), 0, "{name}");
            assert_eq!(
                comparison(&format!("{name}u"), Type::F32, false).map(|f| f(&nan, &one)).unwrap_or(u32::MAX),
                u32::MAX
            );
        }
        assert_eq!(comparison("nan", Type::F32, false).unwrap()(&nan, &one), u32::MAX);
    }

    #[test]
    fn signs_matter() {
        let (minus, one) = ([0xffff_ffff; 32], [1; 32]);
        assert_eq!(comparison("lt", Type::S32, false).unwrap()(&minus, &one), u32::MAX);
        assert_eq!(comparison("lt", Type::U32, false).unwrap()(&minus, &one), 0);
        assert_eq!(comparison("hi", Type::U32, false).unwrap()(&minus, &one), u32::MAX);
        assert!(comparison("hi", Type::S32, false).is_none());
        assert!(comparison("lt", Type::B32, false).is_none());
    }
}
