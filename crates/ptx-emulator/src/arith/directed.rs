//! f32 arithmetic rounded toward zero, down or up.
//!
//! Products are exact in f64, and sums are rounded there to odd, so that the rounding to f32 is as of the exact result.

use super::half::add_to_odd;
use super::quick::{down, toward_zero};
use super::round::Rounding;
use super::{Lanes, WarpFn, vectorised};

trait Exact {
    fn apply(a: f64, b: f64, c: f64, down: bool) -> f64;
}

/// A sum that vanishes is negative when rounding down, unless both terms are positive zeros.
#[inline(always)]
fn sum(a: f64, b: f64, down: bool) -> f64 {
    let value = add_to_odd(a, b);
    let positive = |x: f64| x == 0.0 && x.is_sign_positive();
    if down && value == 0.0 && !(positive(a) && positive(b)) { -0.0 } else { value }
}

struct Add;
struct Sub;
struct Mul;
struct Fma;

impl Exact for Add {
    #[inline(always)]
    fn apply(a: f64, b: f64, _: f64, down: bool) -> f64 {
        sum(a, b, down)
    }
}

impl Exact for Sub {
    #[inline(always)]
    fn apply(a: f64, b: f64, _: f64, down: bool) -> f64 {
        sum(a, -b, down)
    }
}

impl Exact for Mul {
    #[inline(always)]
    fn apply(a: f64, b: f64, _: f64, _: bool) -> f64 {
        a * b
    }
}

impl Exact for Fma {
    #[inline(always)]
    fn apply(a: f64, b: f64, c: f64, down: bool) -> f64 {
        sum(a * b, c, down)
    }
}

const ZERO: u8 = 0;
const DOWN: u8 = 1;
const UP: u8 = 2;

fn run<O: Exact, const MODE: u8, const FTZ: bool>([a, b, c, _]: [&Lanes; 4], out: &mut Lanes) {
    let flush = |x: f32| if FTZ && x.is_subnormal() { 0f32.copysign(x) } else { x };
    vectorised(|| {
        for i in 0..32 {
            let of = |x: u64| f64::from(flush(f32::from_bits(x as u32)));
            let exact = O::apply(of(a[i]), of(b[i]), of(c[i]), MODE == DOWN);
            let value = flush(match MODE {
                ZERO => toward_zero(exact),
                DOWN => down(exact),
                _ => -down(-exact),
            });
            out[i] = u64::from(if value.is_nan() { 0x7fff_ffff } else { value.to_bits() });
        }
    })
}

fn with<O: Exact>(mode: Rounding, ftz: bool) -> Option<WarpFn> {
    match (mode, ftz) {
        (Rounding::Zero, false) => Some(run::<O, ZERO, false>),
        (Rounding::Zero, true) => Some(run::<O, ZERO, true>),
        (Rounding::Down, false) => Some(run::<O, DOWN, false>),
        (Rounding::Down, true) => Some(run::<O, DOWN, true>),
        (Rounding::Up, false) => Some(run::<O, UP, false>),
        (Rounding::Up, true) => Some(run::<O, UP, true>),
        (Rounding::Nearest, _) => None,
    }
}

/// `name.rz/rm/rp{.ftz}.f32`
pub(crate) fn directed(name: &str, mode: Rounding, ftz: bool) -> Option<WarpFn> {
    match name {
        "add" => with::<Add>(mode, ftz),
        "sub" => with::<Sub>(mode, ftz),
        "mul" => with::<Mul>(mode, ftz),
        "fma" => with::<Fma>(mode, ftz),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_bracket_the_nearest() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents near one another, so that sums lose some bits and not all.
            let magnitude = 0x3d00_0000 + (state >> 8) + (state >> 3 & 0x0180_0000);
            f32::from_bits(magnitude | state & 0x8000_0000)
        };
        for _ in 0..50_000 {
            let (a, b, c) = (next(), next(), next());
            let of = |name, mode| {
                let lanes = |x: f32| [u64::from(x.to_bits()); 32];
                let mut out = [0; 32];
                directed(name, mode, false).unwrap()([&lanes(a), &lanes(b), &lanes(c), &[0; 32]], &mut out);
                f32::from_bits(out[5] as u32)
            };
            for (name, nearest) in [("add", a + b), ("sub", a - b), ("mul", a * b), ("fma", a.mul_add(b, c))]
            {
                let (zero, down, up) =
                    (of(name, Rounding::Zero), of(name, Rounding::Down), of(name, Rounding::Up));
                assert!(down <= nearest && nearest <= up, "{name} {a:e} {b:e} {c:e}");
                assert!(up == down || up == down.next_up(), "{name} {a:e} {b:e} {c:e}: {down:e} {up:e}");
                assert_eq!(zero, if nearest > 0.0 { down } else { up });
            }
        }
    }

    #[test]
    fn what_vanishes_has_the_sign_of_the_rounding() {
        assert_eq!(sum(1.0, -1.0, true).to_bits(), (-0f64).to_bits());
        assert_eq!(sum(1.0, -1.0, false).to_bits(), 0);
        assert_eq!(sum(0.0, 0.0, true).to_bits(), 0);
    }
}
