//! What the rooms of GPUs have in common: how sizes are counted, how tokens are divided among groups of threads, and how
//! sequences lie in a device's memory.

pub(crate) mod attention;
mod sequences;
mod tiles;

pub(crate) use sequences::{Uploads, bisection, listed, words};
pub(crate) use tiles::{STEPS, Tiles, window};

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// An error where a size is past a limit of the device.
pub(crate) fn within(what: &'static str, of: &'static str, needed: u64, limit: u64) -> Result<()> {
    if needed <= limit { Ok(()) } else { Err(Error::Limit { what, of, needed, limit }) }
}

/// A size as a kernel counts it, or an error: kernels count in 32 bits.
pub(crate) fn word(what: &'static str, of: &'static str, size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::Limit {
        what,
        of,
        needed: size as u64,
        limit: u64::from(u32::MAX),
    })
}

/// A lock that a panic of another thread does not take away: what it guards is whole at any time.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
