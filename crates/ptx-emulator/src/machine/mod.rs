//! The machine: blocks of warps that run a program.

mod access;
mod accesses;
mod across;
mod atomic;
mod block;
mod count;
mod execute;
pub(crate) mod launch;
mod matrix;
mod shared;
mod warp;

use crate::fault::FaultKind;

/// A fault and the lane of the warp that committed it.
pub(crate) type Outcome<T> = std::result::Result<T, (u32, FaultKind)>;

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
