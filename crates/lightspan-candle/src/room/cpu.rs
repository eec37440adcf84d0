use std::cell::RefCell;

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

/// Numbers of scratch that a thread keeps from one call to the next: 256 MiB.
const KEPT: usize = 64 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(vec![]) };
}

/// Calls `run` with `len` numbers that may hold anything.
pub(crate) fn with_scratch<T>(len: usize, run: impl FnOnce(&mut [f32]) -> Result<T>) -> Result<T> {
    // Taken and not borrowed: while this thread waits for others, its pool may give it another call to run.
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        // Given back before there is another.
        drop(scratch);
        scratch = zeros("scratch", len)?;
    }
    let result = run(&mut scratch[..len]);
    if scratch.len() <= KEPT {
        SCRATCH.set(scratch);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_kept_and_a_call_within_a_call_has_its_own() {
        let address = |scratch: &mut [f32]| Ok(scratch.as_ptr() as usize);
        let first = with_scratch(1000, address).unwrap();
        assert_eq!(with_scratch(500, address).unwrap(), first);
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
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        let expected = Error::OutOfMemory { what: "scratch", bytes: usize::MAX / 4 * 4 };
        assert_eq!(with_scratch(usize::MAX / 4, |_| Ok(())), Err(expected));
        assert!(matches!(Cpu.output(DType::F16, usize::MAX / 2), Err(Error::OutOfMemory { .. })));
        assert_eq!(with_scratch(10, |scratch| Ok(scratch.len())), Ok(10));
    }
}
