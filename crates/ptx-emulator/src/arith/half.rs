//! f16 and bf16 arithmetic, scalar and in pairs, rounded once to nearest even.
//!
//! Every operation goes through f64, in which products of both types are exact. A sum may not be: it is then rounded
//! to odd, after which the second rounding gives what one alone would have given. Subnormal numbers are kept, and a
//! NaN that comes out is always `7fff`.

use super::quick::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, to_odd};
use super::{Lanes, WarpFn, vectorised};
use crate::types::Type;

#[inline(always)]
fn widen<const BF: bool>(x: u16) -> f64 {
    f64::from(if BF { bf16_to_f32(x) } else { f16_to_f32(x) })
}

#[inline(always)]
fn narrow<const BF: bool>(x: f64) -> u16 {
    let once = to_odd(x);
    if BF { f32_to_bf16(once) } else { f32_to_f16(once) }
}

/// a + b, rounded to odd: the last bit set whenever anything was lost.
#[inline(always)]
pub(crate) fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let virtual_b = sum - a;
    let lost = (a - (sum - virtual_b)) + (b - virtual_b);
    if lost == 0.0 || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // Toward what was lost: away from zero when it has the sign of the sum.
    let bits = sum.to_bits();
    f64::from_bits(if (lost > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 })
}

trait HalfOp {
    fn apply(a: f64, b: f64, c: f64) -> f64;
}

macro_rules! half_ops {
    ($($name:ident: |$a:ident, $b:ident, $c:ident| $e:expr;)*) => { $(
        struct $name;
        impl HalfOp for $name {
            #[inline(always)]
            fn apply($a: f64, $b: f64, $c: f64) -> f64 {
                $e
            }
        }
    )* };
}

half_ops! {
    Add: |a, b, _c| add_to_odd(a, b);
    Sub: |a, b, _c| add_to_odd(a, -b);
    Mul: |a, b, _c| a * b;
    Fma: |a, b, c| add_to_odd(a * b, c);
    FmaRelu: |a, b, c| {
        let value = add_to_odd(a * b, c);
        // A NaN stays one, and negative zero becomes positive.
        if value <= 0.0 { 0.0 } else { value }
    };
    Neg: |a, _b, _c| -a;
    Abs: |a, _b, _c| a.abs();
    Min: |a, b, _c| least(a, b);
    Max: |a, b, _c| -least(-a, -b);
    MinNan: |a, b, _c| if a.is_nan() || b.is_nan() { f64::NAN } else { least(a, b) };
    MaxNan: |a, b, _c| if a.is_nan() || b.is_nan() { f64::NAN } else { -least(-a, -b) };
}

#[inline(always)]
fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() || b < a || a == b && b.is_sign_negative() { b } else { a }
}

fn run<O: HalfOp, const BF: bool, const PAIR: bool>([a, b, c, _]: [&Lanes; 4], out: &mut Lanes) {
    vectorised(|| {
        for i in 0..32 {
            let at = |shift: u32| {
                let of = |x: u64| widen::<BF>((x >> shift) as u16);
                u64::from(narrow::<BF>(O::apply(of(a[i]), of(b[i]), of(c[i])))) << shift
            };
            out[i] = if PAIR { at(0) | at(16) } else { at(0) };
        }
    })
}

fn for_type<O: HalfOp>(ty: Type) -> Option<WarpFn> {
    match ty {
        Type::F16 => Some(run::<O, false, false>),
        Type::F16x2 => Some(run::<O, false, true>),
        Type::BF16 => Some(run::<O, true, false>),
        Type::BF16x2 => Some(run::<O, true, true>),
        _ => None,
    }
}

/// Half arithmetic of this name; `modifier` is `NaN` of `min` and `max`, `relu` of `fma`, or nothing.
pub(crate) fn half_op(name: &str, modifier: &str, ty: Type) -> Option<WarpFn> {
    match (name, modifier) {
        ("add", "") => for_type::<Add>(ty),
        ("sub", "") => for_type::<Sub>(ty),
        ("mul", "") => for_type::<Mul>(ty),
        ("fma", "") => for_type::<Fma>(ty),
        ("fma", "relu") => for_type::<FmaRelu>(ty),
        ("neg", "") => for_type::<Neg>(ty),
        ("abs", "") => for_type::<Abs>(ty),
        ("min", "") => for_type::<Min>(ty),
        ("max", "") => for_type::<Max>(ty),
        ("min", "NaN") => for_type::<MinNan>(ty),
        ("max", "NaN") => for_type::<MaxNan>(ty),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn sums_and_products_of_f16_agree_with_f64_rounded_once() {
        // Sums of two f16 are exact in f64, so that `half` rounds them once.
        for a in (0..=u16::MAX).step_by(7) {
            for b in (0..=u16::MAX).step_by(331) {
                let (x, y) = (f16::from_bits(a), f16::from_bits(b));
                let check = |ours: f64, theirs: f64| {
                    let (ours, theirs) = (narrow::<false>(ours), f16::from_f64(theirs));
                    assert!(theirs.is_nan() && ours == 0x7fff || ours == theirs.to_bits(), "{a:04x} {b:04x}");
                };
                check(Add::apply(x.to_f64(), y.to_f64(), 0.0), x.to_f64() + y.to_f64());
                check(Mul::apply(x.to_f64(), y.to_f64(), 0.0), x.to_f64() * y.to_f64());
            }
        }
    }

    #[test]
    fn a_sum_is_not_rounded_twice() {
        // 1 + 2^-8 is halfway between two bf16; the least bit more must round up, though f64 cannot hold it.
        let half_way = bf16::from_f64(1.0).to_f64();
        let c = bf16::from_bits(1).to_f64();
        let product = 2f64.powi(-8);
        assert_eq!(narrow::<true>(half_way + product + c), 0x3f80);
        assert_eq!(narrow::<true>(add_to_odd(half_way + product, c)), 0x3f81);
        assert_eq!(narrow::<true>(add_to_odd(half_way + product, -c)), 0x3f80);
        assert_eq!(narrow::<true>(add_to_odd(-half_way - product, -c)), 0xbf81);
    }

    #[test]
    fn pairs_are_two_of_one() {
        let mut out = [0; 32];
        let add = half_op("add", "", Type::F16x2).unwrap();
        add([&[0x3c00_4000; 32], &[0x3c00_3c00; 32], &[0; 32], &[0; 32]], &mut out);
        assert_eq!(out[0], 0x4000_4200);
    }
}
