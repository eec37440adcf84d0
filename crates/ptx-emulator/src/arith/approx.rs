//! Instructions that PTX leaves approximate, and what stands for each here.
//!
//! The model of all but one is the same: the f64 result rounded to nearest f32. Devices differ from it within the
//! bounds PTX gives: 2 ulp for `div.full` and `div.approx`, 1 ulp for `rcp.approx` and `sqrt.approx`, a relative error
//! of 2^-22 or so for `rsqrt.approx`, `ex2.approx` and `lg2.approx`, absolute ones for `sin.approx` and `cos.approx`
//! (2^-21 or so within a period or two of zero, more further out), 2^-11 for `tanh.approx`. The exception is
//! `div.approx`, which is zero for divisors above 2^126, as PTX requires. A test that holds a kernel to exact bits of
//! these instructions holds it to this model, not to a device.

use super::WarpFn;
use super::float::{F32Op, f32_with};

macro_rules! approximations {
    ($($name:ident: |$a:ident, $b:ident| $e:expr;)*) => { $(
        struct $name;
        impl F32Op for $name {
            fn apply(a: f32, b: f32, _: f32) -> f32 {
                let ($a, $b) = (f64::from(a), f64::from(b));
                let value: f64 = $e;
                value as f32
            }
        }
    )* };
}

approximations! {
    Div: |a, b| a / b;
    DivApprox: |a, b| if b.abs() > 2f64.powi(126) && b.is_finite() { if a.is_infinite() { f64::NAN } else { 0.0 * a * b.signum() } } else { a / b };
    Rcp: |a, _b| 1.0 / a;
    Sqrt: |a, _b| a.sqrt();
    Rsqrt: |a, _b| 1.0 / a.sqrt();
    Ex2: |a, _b| a.exp2();
    Lg2: |a, _b| a.log2();
    Sin: |a, _b| a.sin();
    Cos: |a, _b| a.cos();
    Tanh: |a, _b| a.tanh();
}

/// `name.kind{.ftz}.f32`
pub(crate) fn approximate(name: &str, kind: &str, ftz: bool) -> Option<WarpFn> {
    Some(match (name, kind) {
        ("div", "full") => f32_with::<Div>(ftz, false),
        ("div", "approx") => f32_with::<DivApprox>(ftz, false),
        ("rcp", "approx") => f32_with::<Rcp>(ftz, false),
        ("sqrt", "approx") => f32_with::<Sqrt>(ftz, false),
        ("rsqrt", "approx") => f32_with::<Rsqrt>(ftz, false),
        ("ex2", "approx") => f32_with::<Ex2>(ftz, false),
        ("lg2", "approx") => f32_with::<Lg2>(ftz, false),
        ("sin", "approx") => f32_with::<Sin>(ftz, false),
        ("cos", "approx") => f32_with::<Cos>(ftz, false),
        ("tanh", "approx") if !ftz => f32_with::<Tanh>(ftz, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_divisor_gives_zero() {
        assert_eq!(DivApprox::apply(1e38, 1.5e38, 0.0), 0.0);
        assert_eq!(DivApprox::apply(1e38, 1e37, 0.0), 10.0);
        assert!(DivApprox::apply(f32::INFINITY, 1.5e38, 0.0).is_nan());
        assert_eq!(Div::apply(3e38, 1.5e38, 0.0), 2.0);
    }

    #[test]
    fn exponentials_and_logarithms() {
        assert_eq!(Ex2::apply(-1.0, 0.0, 0.0), 0.5);
        assert_eq!(Ex2::apply(f32::NEG_INFINITY, 0.0, 0.0), 0.0);
        assert_eq!(Lg2::apply(0.0, 0.0, 0.0), f32::NEG_INFINITY);
        assert!(Rsqrt::apply(-1.0, 0.0, 0.0).is_nan());
    }
}
