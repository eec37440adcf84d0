//! Global memory: allocations far apart, each byte with a mark that says whether it was written.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use crate::allocation::Allocation;
use crate::fault::{FaultKind, Nearest, Space};

/// Every allocation has a slot of its own, so that an overrun of any plausible length meets no other.
const FIRST_SLOT: u64 = 1 << 44;
const SLOT_BITS: u32 = 36;
/// Where an allocation begins in its slot: what lies before it in the slot is nearest to it too.
const IN_SLOT: u64 = 1 << 34;

/// Global memory of the emulated device.
///
/// Addresses are made up: each allocation begins at a multiple of 256, 64 GiB after the one before. They are never
/// used again, so that an access to what was freed is known for what it is, and named; of a freed allocation some tens
/// of bytes stay, its name and length.
///
/// All is done through a shared reference, so that a device can be an `Arc<Memory>` with no lock around it: any thread
/// may allocate, free, read, write and launch at any time. A launch sees the allocations that there were when it began,
/// and keeps them: what is freed while it runs is gone for later launches and not for that one. As on a device, what
/// one thread writes to bytes that another one's kernel reads at that moment is seen or not, by chance.
#[derive(Debug, Default)]
pub struct Memory {
    /// Copied on change when a launch holds it.
    table: RwLock<Arc<Table>>,
}

/// Memory that the host asked for wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// An address that no allocation holds, bytes past its end, or bytes that nobody wrote.
    #[error("{0}")]
    Access(#[from] FaultKind),
    /// An allocation longer than its slot.
    #[error("an allocation of {0} bytes is too long")]
    TooLong(u64),
    /// An allocation for which the host has no room.
    #[error("there is no room for an allocation of {0} bytes")]
    NoRoom(u64),
    /// An address at which no allocation begins, or no longer does.
    #[error("no allocation begins at {0:#x}")]
    NotAnAllocation(u64),
}

#[derive(Debug, Clone)]
enum Slot {
    Held(Arc<Allocation>),
    Freed(Arc<Nearest>),
}

/// The allocations that there are, and were.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
}

impl Memory {
    /// Memory with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for `length` bytes that nobody has written, and its address. The name is for reports.
    pub fn allocate(&self, name: &str, length: u64) -> Result<u64, MemoryError> {
        self.allocate_as(name, length, false)
    }

    pub(crate) fn allocate_as(&self, name: &str, length: u64, read_only: bool) -> Result<u64, MemoryError> {
        if length > IN_SLOT {
            return Err(MemoryError::TooLong(length));
        }
        let allocation = Allocation::new(name, length, read_only).ok_or(MemoryError::NoRoom(length))?;
        let allocation = Slot::Held(Arc::new(allocation));
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.len() as u64;
        Arc::make_mut(&mut table).slots.push(allocation);
        Ok(FIRST_SLOT + (slot << SLOT_BITS) + IN_SLOT)
    }

    /// Gives an allocation back. Its addresses are never used again: accesses to them are faults that name it.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let wrong = MemoryError::NotAnAllocation(address);
        let Some((slot, 0)) = split(address) else {
            return Err(wrong);
        };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Slot::Held(allocation)) = table.slots.get(slot) else {
            return Err(wrong);
        };
        let freed = Slot::Freed(Arc::new(allocation.nearest(0)));
        Arc::make_mut(&mut table).slots[slot] = freed;
        Ok(())
    }

    /// How many allocations are held, and their bytes: what a test compares to find out what was not given back.
    pub fn held(&self) -> (usize, u64) {
        let table = self.table();
        let held = table.slots.iter().filter_map(|slot| match slot {
            Slot::Held(allocation) => Some(allocation.length()),
            Slot::Freed(_) => None,
        });
        held.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length))
    }

    /// Copies from the host, to an address anywhere in an allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.locate(address, bytes.len() as u64)?;
        allocation.write(offset, bytes);
        Ok(())
    }

    /// Copies to the host, from an address anywhere in an allocation. Bytes that nobody wrote are an error.
    pub fn read(&self, address: u64, length: u64) -> Result<Vec<u8>, MemoryError> {
        // Before there is room for it: a length out of bounds may be one that no host has room for.
        self.table().locate(address, length)?;
        let mut bytes = vec![0; length as usize];
        self.read_into(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies to the host, as [`read`](Self::read) does.
    pub fn read_into(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.locate(address, bytes.len() as u64)?;
        match allocation.read(offset, bytes) {
            None => Ok(()),
            Some(at) => Err(allocation.uninitialised(address + (at - offset), at, 1).into()),
        }
    }

    /// Which of these bytes nobody wrote: ranges of addresses, lowest first. A test sees by it that a kernel wrote all
    /// of what it had to, and nothing beside it.
    pub fn unwritten(&self, address: u64, length: u64) -> Result<Vec<Range<u64>>, MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.locate(address, length)?;
        let mut out: Vec<Range<u64>> = Vec::new();
        for at in allocation.unwritten(offset, length) {
            let at = address + (at - offset);
            match out.last_mut() {
                Some(range) if range.end == at => range.end += 1,
                _ => out.push(at..at + 1),
            }
        }
        Ok(out)
    }

    /// Makes these bytes ones that nobody wrote, as they are in a new allocation: a buffer that is used again then
    /// hides nothing that the next kernel leaves out.
    pub fn forget(&self, address: u64, length: u64) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.locate(address, length)?;
        allocation.forget(offset, length);
        Ok(())
    }

    /// The allocations that there are now.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// The allocation that holds all of these bytes, and where in it they begin.
    #[inline]
    pub(crate) fn locate(&self, address: u64, bytes: u64) -> Result<(&Allocation, u64), FaultKind> {
        if let Some((slot, offset)) = split(address)
            && let Some(Slot::Held(allocation)) = self.slots.get(slot)
            && let Ok(offset) = u64::try_from(offset)
            && offset <= allocation.length()
            && bytes <= allocation.length() - offset
        {
            return Ok((allocation, offset));
        }
        Err(self.fault(address, bytes))
    }

    /// Why there are no such bytes.
    #[cold]
    fn fault(&self, address: u64, bytes: u64) -> FaultKind {
        let space = Space::Global;
        let found = split(address).and_then(|(slot, offset)| Some((self.slots.get(slot)?, offset)));
        match found {
            Some((Slot::Freed(was), offset)) => {
                let of = Nearest { offset, ..Nearest::clone(was) };
                FaultKind::Freed { space, address, bytes, of }
            }
            Some((Slot::Held(allocation), offset)) => {
                let nearest = Some(allocation.nearest(offset));
                FaultKind::OutOfBounds { space, address, bytes, nearest }
            }
            None => FaultKind::OutOfBounds { space, address, bytes, nearest: None },
        }
    }
}

#[inline]
fn split(address: u64) -> Option<(usize, i64)> {
    let rest = address.checked_sub(FIRST_SLOT)?;
    let slot = usize::try_from(rest >> SLOT_BITS).ok()?;
    Some((slot, (rest & ((1 << SLOT_BITS) - 1)) as i64 - IN_SLOT as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let memory = Memory::new();
        let a = memory.allocate("a", 10).unwrap();
        let b = memory.allocate("b", 10).unwrap();
        assert!(a.is_multiple_of(256) && b - a > 1 << 32);
        memory.write(a + 1, &[1, 2, 3, 4, 5]).unwrap();
        assert_eq!(memory.read(a + 1, 5).unwrap(), [1, 2, 3, 4, 5]);
        let mut part = [0; 3];
        memory.read_into(a + 2, &mut part).unwrap();
        assert_eq!(part, [2, 3, 4]);
        for (from, length, first) in [(a, 2, a), (a + 5, 3, a + 6), (a + 1, 9, a + 6)] {
            let error = memory.read(from, length).unwrap_err();
            let MemoryError::Access(FaultKind::Uninitialised { address, .. }) = error else {
                panic!("{error}")
            };
            assert_eq!(address, first);
        }
        let error = memory.write(a + 8, &[0; 3]).unwrap_err();
        assert!(error.to_string().contains("byte 8 of `a`, which has 10"), "{error}");
        assert!(memory.write(a - 4, &[0]).unwrap_err().to_string().contains("byte -4 of `a`"));
        assert!(memory.read(a, u64::MAX).is_err());
    }

    #[test]
    fn what_is_freed_is_gone_and_named() {
        let memory = Memory::new();
        let (a, b) = (memory.allocate("a", 16).unwrap(), memory.allocate("b", 8).unwrap());
        assert_eq!(memory.held(), (2, 24));
        assert_eq!(memory.free(b + 1), Err(MemoryError::NotAnAllocation(b + 1)));
        memory.free(a).unwrap();
        assert_eq!(memory.held(), (1, 8));
        let error = memory.write(a + 4, &[1]).unwrap_err();
        assert!(error.to_string().contains("byte 4 of `a`, which has 16"), "{error}");
        assert!(matches!(error, MemoryError::Access(FaultKind::Freed { .. })));
        assert!(memory.free(a).is_err());
        assert_ne!(memory.allocate("c", 16).unwrap(), a);
    }

    #[test]
    fn bytes_that_nobody_wrote_are_told() {
        let memory = Memory::new();
        let a = memory.allocate("a", 40).unwrap();
        let one = |range| vec![range];
        assert_eq!(memory.unwritten(a, 40).unwrap(), one(a..a + 40));
        memory.write(a + 3, &[1; 9]).unwrap();
        memory.write(a + 13, &[1; 20]).unwrap();
        assert_eq!(memory.unwritten(a, 40).unwrap(), [a..a + 3, a + 12..a + 13, a + 33..a + 40]);
        assert_eq!(memory.unwritten(a + 14, 8).unwrap(), []);
        memory.forget(a + 15, 7).unwrap();
        assert_eq!(memory.unwritten(a + 13, 20).unwrap(), one(a + 15..a + 22));
        assert!(memory.unwritten(a, 41).is_err() && memory.forget(a + 1, 40).is_err());
    }
}
