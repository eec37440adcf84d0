use std::sync::{Mutex, PoisonError};

/// Scratch memory that calls on tensors borrow and give back, so that a call does not have to ask the system for
/// memory that the last one had.
#[derive(Default)]
pub(crate) struct ScratchPool {
    free: Mutex<Vec<Vec<f32>>>,
}

/// Numbers of the largest buffer that is kept, 64 MiB.
const KEPT: usize = 16 << 20;

impl ScratchPool {
    /// Calls `body` with `len` numbers that may hold anything.
    pub(crate) fn with<T>(&self, len: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = free().pop().filter(|buffer| buffer.len() >= len);
        let mut buffer = reused.unwrap_or_else(|| vec![0.0; len]);
        let result = body(&mut buffer[..len]);
        if buffer.len() <= KEPT {
            free().push(buffer);
        }
        result
    }
}
