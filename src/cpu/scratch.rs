//! Scratch memory: how a caller's is divided, and where calls on tensors get theirs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cpu::buffer::zeros;
use crate::cpu::padded;
use crate::cpu::tiles::workers;
use crate::{Error, Result};

/// Numbers in a cache line. Parts begin on one, or every other vector would lie on two.
const LINE: usize = 16;

/// How the scratch memory of a run is divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Division {
    /// Numbers that all workers share.
    pub(crate) shared: usize,
    /// Numbers for each worker.
    pub(crate) per_worker: usize,
}

impl Division {
    /// Numbers in all, on the threads of the current rayon pool.
    pub(crate) fn len(self) -> usize {
        let workers = workers().saturating_mul(padded(self.per_worker));
        padded(self.shared).saturating_add(workers).saturating_add(LINE)
    }

    /// The shared part, and that of the workers: equal parts of [`Division::worker_len`].
    pub(crate) fn split(self, given: &mut [f32]) -> Result<(&mut [f32], &mut [f32])> {
        let (expected, got) = (self.len(), given.len());
        if got < expected {
            return Err(Error::Scratch { expected, got });
        }
        // Where alignment cannot be had, the parts are merely slower.
        let start = given.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (shared, workers) = given[start..start + expected - LINE].split_at_mut(padded(self.shared));
        Ok((&mut shared[..self.shared], workers))
    }

    /// Numbers of one worker's part.
    pub(crate) fn worker_len(self) -> usize {
        padded(self.per_worker)
    }
}

/// Scratch memory that calls on tensors borrow and give back, so that a call does not have to ask the system for
/// memory that the last one had.
#[derive(Default)]
pub(crate) struct ScratchPool {
    free: Mutex<Vec<Vec<f32>>>,
}

/// Numbers of the largest buffer that is kept, 1 GiB: more than any operator but naive attention asks for.
const KEPT: usize = 256 << 20;

impl ScratchPool {
    /// Calls `body` with `len` numbers that may hold anything.
    pub(crate) fn with<T>(&self, len: usize, body: impl FnOnce(&mut [f32]) -> Result<T>) -> Result<T> {
        let mut buffer = self.take(len)?;
        let result = body(&mut buffer[..len]);
        if buffer.len() <= KEPT {
            self.lock().push(buffer);
        }
        result
    }

    /// The smallest free buffer that is large enough, or a new one in place of the largest that is not.
    fn take(&self, len: usize) -> Result<Vec<f32>> {
        let mut free = self.lock();
        let fitting = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let outgrown = || (0..free.len()).max_by_key(|&i| free[i].len());
        if let Some(index) = fitting.or_else(outgrown) {
            let buffer = free.swap_remove(index);
            if buffer.len() >= len {
                return Ok(buffer);
            }
        }
        drop(free);
        zeros("scratch", len)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
