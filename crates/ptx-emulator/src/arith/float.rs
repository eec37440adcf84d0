//! f32 and f64 arithmetic, exact and rounded to nearest even.
//!
//! A NaN that an f32 instruction gives is always `7fffffff`, as on the devices. `.ftz` makes subnormal sources and
//! results zeros of their sign; `.sat` clamps to [0, 1] and makes a NaN zero.

use super::{Lanes, WarpFn, vectorised, warp};

pub(crate) trait F32Op {
    fn apply(a: f32, b: f32, c: f32) -> f32;
}

macro_rules! f32_ops {
    ($($name:ident: |$a:ident, $b:ident, $c:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl F32Op for $name {
            #[inline(always)]
            fn apply($a: f32, $b: f32, $c: f32) -> f32 {
                $e
            }
        }
    )* };
}

f32_ops! {
    Add: |a, b, _c| a + b;
    Sub: |a, b, _c| a - b;
    Mul: |a, b, _c| a * b;
    Fma: |a, b, c| a.mul_add(b, c);
    Div: |a, b, _c| a / b;
    Rcp: |a, _b, _c| 1.0 / a;
    Sqrt: |a, _b, _c| a.sqrt();
    Neg: |a, _b, _c| -a;
    Abs: |a, _b, _c| a.abs();
    Min: |a, b, _c| least(a, b);
    Max: |a, b, _c| -least(-a, -b);
    MinNan: |a, b, _c| if a.is_nan() || b.is_nan() { f32::NAN } else { least(a, b) };
    MaxNan: |a, b, _c| if a.is_nan() || b.is_nan() { f32::NAN } else { -least(-a, -b) };
}

/// The lesser, -0 below +0; of a number and a NaN, the number.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a.is_nan() || b < a {
        b
    } else if a == b {
        f32::from_bits(a.to_bits() | (b.to_bits() & 0x8000_0000))
    } else {
        a
    }
}

#[inline(always)]
fn flush<const FTZ: bool>(x: f32) -> f32 {
    if FTZ && x.is_subnormal() { 0f32.copysign(x) } else { x }
}

pub(crate) fn run<O: F32Op, const FTZ: bool, const SAT: bool>([a, b, c, _]: [&Lanes; 4], out: &mut Lanes) {
    vectorised(|| {
        for i in 0..32 {
            let of = |x: u64| flush::<FTZ>(f32::from_bits(x as u32));
            let value = flush::<FTZ>(O::apply(of(a[i]), of(b[i]), of(c[i])));
            let value = if SAT { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
            out[i] = u64::from(if value.is_nan() { 0x7fff_ffff } else { value.to_bits() });
        }
    })
}

/// The instruction with its `.ftz` and `.sat`.
pub(crate) fn f32_with<O: F32Op>(ftz: bool, sat: bool) -> WarpFn {
    match (ftz, sat) {
        (false, false) => run::<O, false, false>,
        (false, true) => run::<O, false, true>,
        (true, false) => run::<O, true, false>,
        (true, true) => run::<O, true, true>,
    }
}

/// f32 arithmetic of this name; `nan` is the modifier `.NaN` of `min` and `max`.
pub(crate) fn f32_op(name: &str, nan: bool, ftz: bool, sat: bool) -> Option<WarpFn> {
    Some(match (name, nan) {
        ("add", false) => f32_with::<Add>(ftz, sat),
        ("sub", false) => f32_with::<Sub>(ftz, sat),
        ("mul", false) => f32_with::<Mul>(ftz, sat),
        ("fma" | "mad", false) => f32_with::<Fma>(ftz, sat),
        ("div", false) => f32_with::<Div>(ftz, sat),
        ("rcp", false) => f32_with::<Rcp>(ftz, sat),
        ("sqrt", false) => f32_with::<Sqrt>(ftz, sat),
        ("neg", false) => f32_with::<Neg>(ftz, sat),
        ("abs", false) => f32_with::<Abs>(ftz, sat),
        ("min", false) => f32_with::<Min>(ftz, sat),
        ("max", false) => f32_with::<Max>(ftz, sat),
        ("min", true) => f32_with::<MinNan>(ftz, sat),
        ("max", true) => f32_with::<MaxNan>(ftz, sat),
        _ => return None,
    })
}

/// f64 arithmetic of this name.
pub(crate) fn f64_op(name: &str) -> Option<WarpFn> {
    fn of(x: u64) -> f64 {
        f64::from_bits(x)
    }
    Some(match name {
        "add" => warp!(|a, b| (of(a) + of(b)).to_bits()),
        "sub" => warp!(|a, b| (of(a) - of(b)).to_bits()),
        "mul" => warp!(|a, b| (of(a) * of(b)).to_bits()),
        "fma" | "mad" => warp!(|a, b, c| of(a).mul_add(of(b), of(c)).to_bits()),
        "div" => warp!(|a, b| (of(a) / of(b)).to_bits()),
        "rcp" => warp!(|a| (1.0 / of(a)).to_bits()),
        "sqrt" => warp!(|a| of(a).sqrt().to_bits()),
        "neg" => warp!(|a| (-of(a)).to_bits()),
        "abs" => warp!(|a| of(a).abs().to_bits()),
        "min" => warp!(|a, b| least_f64(of(a), of(b)).to_bits()),
        "max" => warp!(|a, b| (-least_f64(-of(a), -of(b))).to_bits()),
        _ => return None,
    })
}

fn least_f64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b < a {
        b
    } else if a == b {
        f64::from_bits(a.to_bits() | (b.to_bits() & 1 << 63))
    } else {
        a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(f: WarpFn, a: f32, b: f32, c: f32) -> u32 {
        let lanes = |x: f32| [u64::from(x.to_bits()); 32];
        let mut out = [0; 32];
        f([&lanes(a), &lanes(b), &lanes(c), &[0; 32]], &mut out);
        out[31] as u32
    }

    #[test]
    fn minimum_and_maximum() {
        let (min, max) =
            (f32_op("min", false, false, false).unwrap(), f32_op("max", false, false, false).unwrap());
        assert_eq!(one(min, f32::NAN, 2.0, 0.0), 2f32.to_bits());
        assert_eq!(one(max, 2.0, f32::NAN, 0.0), 2f32.to_bits());
        assert_eq!(one(min, 0.0, -0.0, 0.0), (-0f32).to_bits());
        assert_eq!(one(max, -0.0, 0.0, 0.0), 0);
        assert_eq!(one(max, f32::NAN, f32::NAN, 0.0), 0x7fff_ffff);
        assert_eq!(one(f32_op("max", true, false, false).unwrap(), 2.0, f32::NAN, 0.0), 0x7fff_ffff);
    }

    #[test]
    fn flush_and_saturation() {
        let tiny = f32::from_bits(1);
        assert_eq!(one(f32_op("add", false, true, false).unwrap(), -tiny, -tiny, 0.0), (-0f32).to_bits());
        assert_eq!(one(f32_op("add", false, false, false).unwrap(), tiny, tiny, 0.0), 2);
        assert_eq!(one(f32_op("mul", false, true, false).unwrap(), 1e-30, 1e-10, 0.0), 0);
        let saturated = f32_op("add", false, false, true).unwrap();
        assert_eq!(one(saturated, 2.0, 3.0, 0.0), 1f32.to_bits());
        assert_eq!(one(saturated, f32::NAN, 3.0, 0.0), 0);
    }

    #[test]
    fn fma_rounds_once() {
        let x = 1.0 + f32::EPSILON;
        let fma = f32_op("fma", false, false, false).unwrap();
        assert_eq!(f32::from_bits(one(fma, x, x, -(1.0 + 2.0 * f32::EPSILON))), f32::EPSILON * f32::EPSILON);
    }
}
