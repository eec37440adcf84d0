//! What atomics make of what they find.

use crate::arith::float::{Add, F32Op};
use crate::program::Atomic;
use crate::types::Type;

/// The new value; `b` and `c` are the operands after the address. Float sums flush nothing.
pub(crate) fn apply(what: Atomic, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let mask = ty.mask();
    let signed = |x: u64| if ty.bits() == 32 { i64::from(x as u32 as i32) } else { x as i64 };
    match (what, ty) {
        (Atomic::Add, Type::F32) => {
            let sum = Add::apply(f32::from_bits(old as u32), f32::from_bits(b as u32), 0.0);
            u64::from(if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() })
        }
        (Atomic::Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Atomic::Add, _) => old.wrapping_add(b) & mask,
        (Atomic::Min, _) if ty.is_signed() => {
            if signed(b) < signed(old) {
                b
            } else {
                old
            }
        }
        (Atomic::Max, _) if ty.is_signed() => {
            if signed(b) > signed(old) {
                b
            } else {
                old
            }
        }
        (Atomic::Min, _) => old.min(b),
        (Atomic::Max, _) => old.max(b),
        (Atomic::And, _) => old & b,
        (Atomic::Or, _) => old | b,
        (Atomic::Xor, _) => old ^ b,
        (Atomic::Exchange, _) => b,
        (Atomic::CompareAndSwap, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (Atomic::Increment, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (Atomic::Decrement, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
