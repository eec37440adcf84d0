//! The conversions that kernels are full of, each a few instructions; the general ones of `round` say what is right.

/// An f16 as f32, exactly; a NaN as instructions give it.
#[inline(always)]
pub(crate) fn f16_to_f32(x: u16) -> f32 {
    let magnitude = u32::from(x & 0x7fff);
    // The bits where an f32 has its own, and the difference of the biases as a factor: subnormal numbers become normal.
    let value = if magnitude >= 0x7c00 {
        if magnitude == 0x7c00 { f32::INFINITY } else { f32::from_bits(0x7fff_ffff) }
    } else {
        f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)
    };
    if magnitude > 0x7c00 { value } else { f32::from_bits(value.to_bits() | u32::from(x & 0x8000) << 16) }
}

/// A bf16 as f32, exactly; a NaN as instructions give it.
#[inline(always)]
pub(crate) fn bf16_to_f32(x: u16) -> f32 {
    if x & 0x7fff > 0x7f80 { f32::from_bits(0x7fff_ffff) } else { f32::from_bits(u32::from(x) << 16) }
}

/// An f32 as the nearest f16.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let sign = (bits >> 16) as u16 & 0x8000;
    if magnitude > 0x7f80_0000 {
        return 0x7fff;
    }
    let rounded = if magnitude >= 143 << 23 {
        0x7c00
    } else if magnitude < 113 << 23 {
        // Next to a half, the last bit of an f32 is the last one of a subnormal f16.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13
    };
    sign | rounded as u16
}

/// An f32 as the nearest bf16.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// An f64 as the f32 next to it toward zero.
#[inline(always)]
pub(crate) fn toward_zero(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest).abs() > x.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}

/// An f64 as the greatest f32 that is not above it.
#[inline(always)]
pub(crate) fn down(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) > x { nearest.next_down() } else { nearest }
}

/// An f64 as an f32 whose last bit says whether anything was lost: rounded once more, it is as if rounded once.
#[inline(always)]
pub(crate) fn to_odd(x: f64) -> f32 {
    let cut = toward_zero(x);
    if f64::from(cut) == x || x.is_nan() { cut } else { f32::from_bits(cut.to_bits() | 1) }
}

#[cfg(test)]
mod tests {
    use super::super::round::{BF16, F16, F32, F64, Format, Rounding, convert};
    use super::*;

    /// The bits of an f32, with every NaN as instructions give it.
    fn bits(x: f32) -> u64 {
        if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
    }

    #[test]
    fn halves_widen_as_in_general() {
        for x in 0..=u16::MAX {
            let of = |format: Format| convert(x.into(), format, F32, Rounding::Nearest);
            assert_eq!(u64::from(f16_to_f32(x).to_bits()), of(F16), "{x:04x}");
            assert_eq!(u64::from(bf16_to_f32(x).to_bits()), of(BF16), "{x:04x}");
        }
    }

    #[test]
    fn numbers_narrow_as_in_general() {
        // All around every half of both types, and some of all others.
        let near = (0..=u16::MAX).flat_map(|h| [f16_to_f32(h), bf16_to_f32(h)]).flat_map(|x| {
            let x = x.to_bits();
            [0u32, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001]
                .map(|d| f32::from_bits(x.wrapping_add(d)))
        });
        for x in near.chain((0..=u32::MAX).step_by(65_521).map(f32::from_bits)) {
            let of = |format: Format| convert(x.to_bits().into(), F32, format, Rounding::Nearest);
            assert_eq!(u64::from(f32_to_f16(x)), of(F16), "{x:e}");
            assert_eq!(u64::from(f32_to_bf16(x)), of(BF16), "{x:e}");
        }
    }

    #[test]
    fn directed_roundings_are_as_in_general() {
        let middle = (0..=u32::MAX).step_by(400_009).map(|b| f64::from(f32::from_bits(b)));
        let all = middle.flat_map(|x| {
            [0i64, 1, -1, 1 << 28, 1 << 29, -(1 << 28), 12345]
                .map(|d| f64::from_bits(x.to_bits().wrapping_add_signed(d)))
        });
        for x in all.chain([1e39, -1e39, 1e-46, -1e-46, 0.0, -0.0, f64::MAX, f64::INFINITY]) {
            let of = |mode| convert(x.to_bits(), F64, F32, mode);
            assert_eq!(bits(toward_zero(x)), of(Rounding::Zero), "{x:e}");
            assert_eq!(bits(down(x)), of(Rounding::Down), "{x:e}");
            assert_eq!(bits(-down(-x)), of(Rounding::Up), "{x:e}");
            for (format, narrow) in [(F16, f32_to_f16 as fn(f32) -> u16), (BF16, f32_to_bf16)] {
                let once = convert(x.to_bits(), F64, format, Rounding::Nearest);
                assert_eq!(u64::from(narrow(to_odd(x))), once, "{x:e}");
            }
        }
    }
}
