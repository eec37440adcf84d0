use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, Storage};
use lightspan::cpu::{Elements, ElementsMut, Rows};
use lightspan::{DType, Element, Error, Result};

use crate::room::{Input, Room};

/// The processor.
pub(crate) struct Cpu;

impl Room for Cpu {
    type Storage = CpuStorage;
    type Elements<'a> = Elements<'a>;
    type ElementsMut<'a> = ElementsMut<'a>;

    fn of(storage: &Storage) -> Option<&CpuStorage> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn elements(storage: &CpuStorage, start: usize) -> Option<Elements<'_>> {
        match storage {
            CpuStorage::F32(vec) => vec.get(start..).map(Elements::from),
            CpuStorage::F16(vec) => vec.get(start..).map(Elements::from),
            CpuStorage::BF16(vec) => vec.get(start..).map(Elements::from),
            _ => None,
        }
    }

    fn output(&self, dtype: DType, len: usize) -> Result<CpuStorage> {
        match dtype {
            DType::F32 => zeros("tensor", len).map(CpuStorage::F32),
            DType::F16 => zeros("tensor", len).map(CpuStorage::F16),
            DType::BF16 => zeros("tensor", len).map(CpuStorage::BF16),
            // lightspan may come to have more types than this crate hands it.
            other => Err(Error::DType { tensor: "output", expected: DType::ALL.to_vec(), got: other }),
        }
    }

    fn elements_mut(storage: &mut CpuStorage) -> Option<ElementsMut<'_>> {
        match storage {
            CpuStorage::F32(vec) => Some(ElementsMut::from(&mut vec[..])),
            CpuStorage::F16(vec) => Some(ElementsMut::from(&mut vec[..])),
            CpuStorage::BF16(vec) => Some(ElementsMut::from(&mut vec[..])),
            _ => None,
        }
    }

    fn into_storage(storage: CpuStorage) -> Storage {
        Storage::Cpu(storage)
    }
}

impl<'a> Input<Elements<'a>> {
    /// The rows of tokens.
    pub(crate) fn rows(self) -> Rows<'a> {
        match self.stride {
            Some(stride) => Rows::strided(self.elements, stride),
            None => Rows::contiguous(self.elements),
        }
    }
}

/// Memory of the system's that holds zeros already: nothing is written here.
fn zeros<E: Element>(what: &'static str, len: usize) -> Result<Vec<E>> {
    let bytes = len.saturating_mul(size_of::<E>());
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| Error::OutOfMemory { what, bytes })
}

/// Numbers of the largest scratch memory that is kept from one call to the next: 256 MiB.
const KEPT: usize = 64 << 20;

/// Scratch memory that calls borrow and give back: no more is kept than calls have had at once.
static SCRATCH: Mutex<Vec<Vec<f32>>> = Mutex::new(vec![]);

fn kept() -> MutexGuard<'static, Vec<Vec<f32>>> {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `run` with `len` numbers that may hold anything.
pub(crate) fn with_scratch<T>(len: usize, run: impl FnOnce(&mut [f32]) -> Result<T>) -> Result<T> {
    if len == 0 {
        return run(&mut []);
    }
    let mut scratch = take(len)?;
    let result = run(&mut scratch[..len]);
    if scratch.len() <= KEPT {
        kept().push(scratch);
    }
    result
}

/// The smallest that is kept and large enough, or a new one in the place of the largest that is not.
fn take(len: usize) -> Result<Vec<f32>> {
    let mut kept = kept();
    let fitting = (0..kept.len()).filter(|&i| kept[i].len() >= len).min_by_key(|&i| kept[i].len());
    let outgrown = || (0..kept.len()).max_by_key(|&i| kept[i].len());
    if let Some(index) = fitting.or_else(outgrown) {
        let scratch = kept.swap_remove(index);
        if scratch.len() >= len {
            return Ok(scratch);
        }
    }
    // The outgrown one is gone before there is another, and the system is asked with nothing locked.
    drop(kept);
    zeros("scratch", len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of one program share what is kept.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn scratch_is_kept_and_a_call_within_a_call_has_its_own() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        kept().clear();
        let address = |scratch: &mut [f32]| Ok(scratch.as_ptr() as usize);
        let first = with_scratch(1000, address).unwrap();
        assert_eq!(with_scratch(500, address).unwrap(), first);
        // Other threads have it too.
        let other = std::thread::spawn(move || with_scratch(500, address)).join().unwrap();
        assert_eq!(other.unwrap(), first);
        let (outer, inner) = with_scratch(1000, |outer| {
            outer.fill(1.0);
            let inner = with_scratch(1000, |inner| {
                inner.fill(2.0);
                address(inner)
            })?;
            assert!(outer.iter().all(|&x| x == 1.0));
            Ok((address(outer)?, inner))
        })
        .unwrap();
        assert_eq!(outer, first);
        assert_ne!(outer, inner);
        let lengths = || {
            let mut lengths: Vec<_> = kept().iter().map(Vec::len).collect();
            lengths.sort();
            lengths
        };
        assert_eq!(lengths(), [1000, 1000]);
        // The smallest that is large enough; an outgrown one makes room for what is larger, and what is very large goes.
        with_scratch(3000, |_| Ok(())).unwrap();
        assert_eq!(lengths(), [1000, 3000]);
        let inner = with_scratch(900, |_| with_scratch(2000, |scratch| Ok(scratch.len())));
        assert_eq!(inner, Ok(2000));
        assert_eq!(lengths(), [1000, 3000]);
        with_scratch(KEPT + 1, |_| Ok(())).unwrap();
        assert_eq!(lengths(), [1000]);
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = Error::OutOfMemory { what: "scratch", bytes: usize::MAX / 4 * 4 };
        assert_eq!(with_scratch(usize::MAX / 4, |_| Ok(())), Err(expected));
        assert!(matches!(Cpu.output(DType::F16, usize::MAX / 2), Err(Error::OutOfMemory { .. })));
        assert_eq!(with_scratch(10, |scratch| Ok(scratch.len())), Ok(10));
    }
}
