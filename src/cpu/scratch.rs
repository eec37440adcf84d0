use std::sync::{Mutex, MutexGuard, PoisonError};

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
    pub(crate) fn with<T>(&self, len: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
        let mut buffer = self.take(len);
        let result = body(&mut buffer[..len]);
        if buffer.len() <= KEPT {
            self.lock().push(buffer);
        }
        result
    }

    /// The smallest free buffer that is large enough, or a new one in place of the largest that is not.
    fn take(&self, len: usize) -> Vec<f32> {
        let mut free = self.lock();
        let fitting = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let outgrown = || (0..free.len()).max_by_key(|&i| free[i].len());
        let Some(index) = fitting.or_else(outgrown) else {
            return vec![0.0; len];
        };
        let buffer = free.swap_remove(index);
        if buffer.len() >= len { buffer } else { vec![0.0; len] }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
