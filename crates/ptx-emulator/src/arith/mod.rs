//! What instructions compute, for the 32 lanes of a warp at a time.

pub(crate) mod approx;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod directed;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod int;
pub(crate) mod quick;
pub(crate) mod round;

use std::sync::OnceLock;

use pulp::Arch;

/// A register of a warp: one value a lane, zero-extended from the width of the register.
pub(crate) type Lanes = [u64; 32];

/// An instruction without side effects. It computes every lane; the machine keeps those that are active.
pub(crate) type WarpFn = fn([&Lanes; 4], &mut Lanes);

/// A comparison: the lanes for which it holds.
pub(crate) type WarpTest = fn(&Lanes, &Lanes) -> u32;

/// Runs a loop over lanes with the widest instructions that this CPU has.
#[inline(always)]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    ARCH.get_or_init(Arch::new).dispatch(run)
}

/// A number as the bits of a register.
pub(crate) trait Bits {
    fn bits(self) -> u64;
}

macro_rules! bits {
    ($($t:ty as $u:ty),*) => { $(impl Bits for $t {
        fn bits(self) -> u64 {
            (self as $u).into()
        }
    })* };
}

bits!(u8 as u8, u16 as u16, u32 as u32, u64 as u64, i8 as u8, i16 as u16, i32 as u32, i64 as u64);

/// A function of one lane as one of the warp.
macro_rules! warp {
    (($($x:ident),*) $e:expr) => {
        $crate::arith::warp!(|$($x),*| $e)
    };
    (|$a:ident| $e:expr) => {{
        fn run([a, ..]: [&$crate::arith::Lanes; 4], out: &mut $crate::arith::Lanes) {
            $crate::arith::vectorised(|| {
                for i in 0..32 {
                    let $a = a[i];
                    out[i] = $crate::arith::Bits::bits($e);
                }
            })
        }
        run as $crate::arith::WarpFn
    }};
    (|$a:ident, $b:ident| $e:expr) => {{
        fn run([a, b, ..]: [&$crate::arith::Lanes; 4], out: &mut $crate::arith::Lanes) {
            $crate::arith::vectorised(|| {
                for i in 0..32 {
                    let ($a, $b) = (a[i], b[i]);
                    out[i] = $crate::arith::Bits::bits($e);
                }
            })
        }
        run as $crate::arith::WarpFn
    }};
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {{
        fn run([a, b, c, _]: [&$crate::arith::Lanes; 4], out: &mut $crate::arith::Lanes) {
            $crate::arith::vectorised(|| {
                for i in 0..32 {
                    let ($a, $b, $c) = (a[i], b[i], c[i]);
                    out[i] = $crate::arith::Bits::bits($e);
                }
            })
        }
        run as $crate::arith::WarpFn
    }};
    (|$a:ident, $b:ident, $c:ident, $d:ident| $e:expr) => {{
        fn run([a, b, c, d]: [&$crate::arith::Lanes; 4], out: &mut $crate::arith::Lanes) {
            $crate::arith::vectorised(|| {
                for i in 0..32 {
                    let ($a, $b, $c, $d) = (a[i], b[i], c[i], d[i]);
                    out[i] = $crate::arith::Bits::bits($e);
                }
            })
        }
        run as $crate::arith::WarpFn
    }};
}
pub(crate) use warp;

/// The same expression over the primitive of each admitted type, called `$t` in the expression.
macro_rules! for_types {
    ($ty:expr, $t:ident in [$($variant:ident: $prim:ty),*], $sources:tt => $e:expr) => {
        match $ty {
            $($crate::types::Type::$variant => {
                type $t = $prim;
                Some($crate::arith::warp!($sources $e))
            })*
            _ => None,
        }
    };
}
pub(crate) use for_types;
