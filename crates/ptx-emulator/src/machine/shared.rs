//! Shared memory of a block, and the checks on it.
//!
//! Two accesses of a byte by different threads, one of them a write, must have a barrier of the block between them, or,
//! when the threads are of one warp, a `bar.warp.sync` of all its live lanes. Atomics race with plain accesses and
//! not with one another. Each byte remembers its last writer and a reader since the last barrier; of readers of several
//! warps it remembers one, which is enough to find every race and name one party to it.

use crate::fault::{FaultKind, Nearest, Space};
use crate::program::OWN_BASE;

/// A thread, and how often its warp has met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub thread: u32,
    pub meeting: u32,
}

/// When a byte was accessed, and by whom. Phase zero is never.
#[derive(Debug, Clone, Copy, Default)]
struct Stamp {
    phase: u32,
    meeting: u32,
    thread: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Byte {
    value: u8,
    written: bool,
    in_flight: bool,
    atomic: bool,
    /// Read by several lanes of the reader's warp since it last met, and by several warps.
    several_lanes: bool,
    several_warps: bool,
    write: Stamp,
    read: Stamp,
}

#[derive(Debug)]
pub(crate) struct Shared {
    bytes: Vec<Byte>,
    /// Counts the barriers of the block, from 1.
    phase: u32,
    races: bool,
}

impl Shared {
    pub(crate) fn new(length: u64, races: bool) -> Self {
        Self { bytes: vec![Byte::default(); length as usize], phase: 1, races }
    }

    pub(crate) fn barrier(&mut self) {
        self.phase += 1;
    }

    /// The bytes of an access, as indices.
    fn range(&self, address: u64, bytes: u64) -> Result<std::ops::Range<usize>, FaultKind> {
        let start = address.wrapping_sub(OWN_BASE);
        if start >= self.bytes.len() as u64 || bytes > self.bytes.len() as u64 - start {
            let length = self.bytes.len() as u64;
            let nearest = Some(Nearest { name: "shared memory".into(), length, offset: start as i64 });
            return Err(FaultKind::OutOfBounds { space: Space::Shared, address, bytes, nearest });
        }
        Ok(start as usize..(start + bytes) as usize)
    }

    pub(crate) fn load(&mut self, address: u64, bytes: u64, who: Who) -> Result<u64, FaultKind> {
        let range = self.range(address, bytes)?;
        let (phase, races) = (self.phase, self.races);
        let mut value = 0;
        for (i, byte) in self.bytes[range].iter_mut().enumerate() {
            if byte.in_flight {
                return Err(FaultKind::AsyncNotWaited { address: address + i as u64 });
            }
            if !byte.written {
                return Err(FaultKind::Uninitialised { space: Space::Shared, address, bytes, nearest: None });
            }
            if races {
                if byte.write.clashes(phase, who) {
                    let other = byte.write.thread.into();
                    return Err(FaultKind::Race { address: address + i as u64, other, other_wrote: true });
                }
                byte.note_read(phase, who);
            }
            value |= u64::from(byte.value) << (8 * i);
        }
        Ok(value)
    }

    pub(crate) fn store(&mut self, address: u64, bytes: u64, value: u64, who: Who) -> Result<(), FaultKind> {
        self.check_write(address, bytes, who, false)?;
        self.put(address, &value.to_le_bytes()[..bytes as usize], false)
    }

    /// Replaces a number by what `change` makes of it, and returns what was there.
    pub(crate) fn update(
        &mut self,
        address: u64,
        bytes: u64,
        who: Who,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<u64, FaultKind> {
        self.check_write(address, bytes, who, true)?;
        let range = self.range(address, bytes)?;
        if self.bytes[range.clone()].iter().any(|b| !b.written) {
            return Err(FaultKind::Uninitialised { space: Space::Shared, address, bytes, nearest: None });
        }
        let old = self.bytes[range].iter().rev().fold(0, |value, byte| value << 8 | u64::from(byte.value));
        self.put(address, &change(old).to_le_bytes()[..bytes as usize], false)?;
        Ok(old)
    }

    /// A copy sets out: what it will overwrite must not be in use.
    pub(crate) fn depart(&mut self, address: u64, bytes: u64, who: Who) -> Result<(), FaultKind> {
        self.check_write(address, bytes, who, false)?;
        let range = self.range(address, bytes)?;
        self.bytes[range].iter_mut().for_each(|b| b.in_flight = true);
        Ok(())
    }

    /// A copy was waited for by the thread that sent it: from now on it is that thread's write.
    pub(crate) fn arrive(&mut self, address: u64, data: &[u8], who: Who) -> Result<(), FaultKind> {
        let range = self.range(address, data.len() as u64)?;
        let stamp = Stamp::of(self.phase, who);
        self.bytes[range].iter_mut().for_each(|b| b.write = stamp);
        self.put(address, data, true)
    }

    fn put(&mut self, address: u64, data: &[u8], landing: bool) -> Result<(), FaultKind> {
        let range = self.range(address, data.len() as u64)?;
        for (byte, &value) in self.bytes[range].iter_mut().zip(data) {
            byte.value = value;
            byte.written = true;
            byte.in_flight &= !landing;
        }
        Ok(())
    }

    fn check_write(&mut self, address: u64, bytes: u64, who: Who, atomic: bool) -> Result<(), FaultKind> {
        let range = self.range(address, bytes)?;
        let (phase, races) = (self.phase, self.races);
        for (i, byte) in self.bytes[range].iter_mut().enumerate() {
            let address = address + i as u64;
            if byte.in_flight {
                return Err(FaultKind::AsyncNotWaited { address });
            }
            if !races {
                continue;
            }
            if byte.write.clashes(phase, who) && !(atomic && byte.atomic) {
                let other = byte.write.thread.into();
                return Err(FaultKind::Race { address, other, other_wrote: true });
            }
            if byte.was_read_beside(phase, who) {
                return Err(FaultKind::Race { address, other: byte.read.thread.into(), other_wrote: false });
            }
            byte.write = Stamp::of(phase, who);
            byte.atomic = atomic;
        }
        Ok(())
    }
}

impl Stamp {
    fn of(phase: u32, who: Who) -> Self {
        Self { phase, meeting: who.meeting, thread: who.thread as u16 }
    }

    fn same_warp(self, who: Who) -> bool {
        u32::from(self.thread) / 32 == who.thread / 32
    }

    /// Whether an access now, by this thread, is not ordered after the one stamped.
    fn clashes(self, phase: u32, who: Who) -> bool {
        self.phase == phase
            && u32::from(self.thread) != who.thread
            && !(self.same_warp(who) && self.meeting != who.meeting)
    }
}

impl Byte {
    fn note_read(&mut self, phase: u32, who: Who) {
        let read = self.read;
        if read.phase != phase {
            (self.several_lanes, self.several_warps) = (false, false);
        } else if !read.same_warp(who) {
            self.several_warps = true;
        } else if read.meeting == who.meeting {
            self.several_lanes |= u32::from(read.thread) != who.thread;
        } else {
            self.several_lanes = false;
        }
        self.read = Stamp::of(phase, who);
    }

    fn was_read_beside(&self, phase: u32, who: Who) -> bool {
        if self.read.phase != phase {
            return false;
        }
        let several = self.several_lanes && self.read.meeting == who.meeting;
        self.several_warps || self.read.clashes(phase, who) || several
    }
}
