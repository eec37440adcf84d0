//! Global memory: allocations far apart, each byte with a mark that says whether it was written.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::fault::{FaultKind, Nearest, Space};

/// Every allocation has a slot of its own, so that an overrun of any plausible length meets no other.
const FIRST_SLOT: u64 = 1 << 44;
const SLOT_BITS: u32 = 36;
/// Where an allocation begins in its slot: what lies before it in the slot is nearest to it too.
const IN_SLOT: u64 = 1 << 34;

/// Global memory of the emulated device.
///
/// Addresses are made up: each allocation begins at a multiple of 256, 64 GiB after the one before.
#[derive(Debug, Default)]
pub struct Memory {
    allocations: Vec<Option<Allocation>>,
}

/// Memory that the host asked for wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// An address that no allocation holds, or bytes past its end.
    #[error("{0}")]
    Access(#[from] FaultKind),
    /// An allocation longer than its slot.
    #[error("an allocation of {0} bytes is too long")]
    TooLong(u64),
    /// An address at which no allocation begins.
    #[error("no allocation begins at {0:#x}")]
    NotAnAllocation(u64),
}

/// One allocation, in words: blocks that run at the same time may write different bytes of one.
#[derive(Debug)]
pub(crate) struct Allocation {
    name: String,
    length: u64,
    read_only: bool,
    words: Vec<AtomicU32>,
    /// Four bits a word, one for each of its bytes.
    written: Vec<AtomicU8>,
}

impl Memory {
    /// Memory with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for `length` bytes that nobody has written, and its address. The name is for reports.
    pub fn allocate(&mut self, name: &str, length: u64) -> Result<u64, MemoryError> {
        self.allocate_as(name, length, false)
    }

    pub(crate) fn allocate_as(
        &mut self,
        name: &str,
        length: u64,
        read_only: bool,
    ) -> Result<u64, MemoryError> {
        if length > IN_SLOT {
            return Err(MemoryError::TooLong(length));
        }
        let words = length.div_ceil(4) as usize;
        let allocation = Allocation {
            name: name.to_owned(),
            length,
            read_only,
            words: (0..words).map(|_| AtomicU32::new(0)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
        };
        let slot = self.allocations.len() as u64;
        self.allocations.push(Some(allocation));
        Ok(FIRST_SLOT + (slot << SLOT_BITS) + IN_SLOT)
    }

    /// Gives an allocation back. Its addresses are never used again.
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let (slot, offset) = split(address).ok_or(MemoryError::NotAnAllocation(address))?;
        match self.allocations.get_mut(slot) {
            Some(allocation @ Some(_)) if offset == 0 => *allocation = None,
            _ => return Err(MemoryError::NotAnAllocation(address)),
        }
        Ok(())
    }

    /// Copies from the host.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.locate(address, bytes.len() as u64)?;
        for (i, &byte) in bytes.iter().enumerate() {
            allocation.store(offset + i as u64, 1, byte.into());
        }
        Ok(())
    }

    /// Copies to the host. Bytes that nobody wrote are an error.
    pub fn read(&self, address: u64, length: u64) -> Result<Vec<u8>, MemoryError> {
        let (allocation, offset) = self.locate(address, length)?;
        let byte = |i| allocation.load(offset + i, 1).map(|v| v as u8);
        let found =
            (0..length).map(|i| byte(i).ok_or_else(|| allocation.uninitialised(address + i, offset + i, 1)));
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// The allocation that holds all of these bytes, and where in it they begin.
    pub(crate) fn locate(&self, address: u64, bytes: u64) -> Result<(&Allocation, u64), FaultKind> {
        let out = |nearest| FaultKind::OutOfBounds { space: Space::Global, address, bytes, nearest };
        let (slot, offset) = split(address).ok_or_else(|| out(None))?;
        let Some(Some(allocation)) = self.allocations.get(slot) else {
            return Err(out(None));
        };
        if offset < 0 || offset as u64 + bytes > allocation.length {
            return Err(out(Some(allocation.nearest(offset))));
        }
        Ok((allocation, offset as u64))
    }
}

fn split(address: u64) -> Option<(usize, i64)> {
    let rest = address.checked_sub(FIRST_SLOT)?;
    let slot = usize::try_from(rest >> SLOT_BITS).ok()?;
    Some((slot, (rest & ((1 << SLOT_BITS) - 1)) as i64 - IN_SLOT as i64))
}

impl Allocation {
    fn nearest(&self, offset: i64) -> Nearest {
        Nearest { name: self.name.clone(), length: self.length, offset }
    }

    pub(crate) fn uninitialised(&self, address: u64, offset: u64, bytes: u64) -> FaultKind {
        let nearest = Some(self.nearest(offset as i64));
        FaultKind::Uninitialised { space: Space::Global, address, bytes, nearest }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// A number of 1, 2, 4 or 8 bytes, aligned; none when a byte of it was never written.
    pub(crate) fn load(&self, offset: u64, bytes: u64) -> Option<u64> {
        let (word, shift) = ((offset / 4) as usize, offset % 4);
        if bytes == 8 {
            return Some(self.load(offset, 4)? | self.load(offset + 4, 4)? << 32);
        }
        let needed = (15u8 >> (4 - bytes)) << shift;
        if self.written[word].load(Ordering::Relaxed) & needed != needed {
            return None;
        }
        let value = u64::from(self.words[word].load(Ordering::Relaxed)) >> (8 * shift);
        Some(value & (u64::MAX >> (64 - 8 * bytes)))
    }

    /// Writes a number of 1, 2, 4 or 8 bytes, aligned.
    pub(crate) fn store(&self, offset: u64, bytes: u64, value: u64) {
        let (word, shift) = ((offset / 4) as usize, offset % 4);
        match bytes {
            8 => {
                self.store(offset, 4, value & 0xffff_ffff);
                self.store(offset + 4, 4, value >> 32);
            }
            4 => {
                self.words[word].store(value as u32, Ordering::Relaxed);
                self.written[word].store(15, Ordering::Relaxed);
            }
            // Another block may write the other bytes of the word at the same time.
            _ => {
                let mask = (u32::MAX >> (32 - 8 * bytes)) << (8 * shift);
                let put = |old: u32| Some(old & !mask | ((value as u32) << (8 * shift)) & mask);
                let _ = self.words[word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
                self.written[word].fetch_or((15u8 >> (4 - bytes)) << shift, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let mut memory = Memory::new();
        let a = memory.allocate("a", 10).unwrap();
        let b = memory.allocate("b", 10).unwrap();
        assert!(a.is_multiple_of(256) && b - a > 1 << 32);
        memory.write(a + 1, &[1, 2, 3, 4, 5]).unwrap();
        assert_eq!(memory.read(a + 1, 5).unwrap(), [1, 2, 3, 4, 5]);
        let MemoryError::Access(FaultKind::Uninitialised { address, .. }) = memory.read(a, 2).unwrap_err()
        else {
            panic!()
        };
        assert_eq!(address, a);
        assert!(memory.read(a + 5, 2).is_err());
        let error = memory.write(a + 8, &[0; 3]).unwrap_err();
        assert!(error.to_string().contains("byte 8 of `a`, which has 10"), "{error}");
        assert!(memory.write(a - 4, &[0]).unwrap_err().to_string().contains("byte -4 of `a`"));
        memory.free(a).unwrap();
        assert!(memory.read(a + 1, 1).is_err());
        assert!(memory.free(b + 1).is_err());
    }

    #[test]
    fn numbers_of_every_width() {
        let mut memory = Memory::new();
        let a = memory.allocate("a", 16).unwrap();
        let (allocation, _) = memory.locate(a, 16).unwrap();
        allocation.store(8, 8, 0x1122_3344_5566_7788);
        assert_eq!(allocation.load(8, 8), Some(0x1122_3344_5566_7788));
        assert_eq!(allocation.load(14, 2), Some(0x1122));
        allocation.store(13, 1, 0xff);
        assert_eq!(allocation.load(12, 4), Some(0x1122_ff44));
        assert_eq!(allocation.load(6, 2), None);
    }
}
