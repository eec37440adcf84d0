//! Who accessed some bytes of shared memory, and whether another access races with that.

/// A thread, and how often its warp has met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub thread: u32,
    pub meeting: u32,
}

/// When bytes were accessed, and by whom. Phase zero is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    phase: u32,
    meeting: u32,
    thread: u16,
}

/// The last write, and reads since the last barrier, of bytes that were always accessed together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Accesses {
    write: Stamp,
    read: Stamp,
    atomic: bool,
    /// Read by several lanes of the reader's warp since it last met, and by several warps.
    several_lanes: bool,
    several_warps: bool,
    /// Of a word: its bytes are told apart elsewhere.
    pub split: bool,
}

/// The linear index of the other thread of a race, and whether it wrote.
pub(crate) type Race = (u32, bool);

impl Stamp {
    #[inline]
    fn of(phase: u32, who: Who) -> Self {
        Self { phase, meeting: who.meeting, thread: who.thread as u16 }
    }

    #[inline]
    fn same_warp(self, who: Who) -> bool {
        u32::from(self.thread) / 32 == who.thread / 32
    }

    /// Whether an access now, by this thread, is not ordered after the one stamped.
    #[inline]
    fn clashes(self, phase: u32, who: Who) -> bool {
        self.phase == phase
            && u32::from(self.thread) != who.thread
            && !(self.same_warp(who) && self.meeting != who.meeting)
    }
}

impl Accesses {
    pub(crate) fn of_writer(phase: u32, who: Who) -> Self {
        Self { write: Stamp::of(phase, who), ..Self::default() }
    }

    #[inline]
    pub(crate) fn read(&mut self, phase: u32, who: Who) -> Result<(), Race> {
        if self.write.clashes(phase, who) {
            return Err((self.write.thread.into(), true));
        }
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
        Ok(())
    }

    #[inline]
    pub(crate) fn write(&mut self, phase: u32, who: Who, atomic: bool) -> Result<(), Race> {
        if self.write.clashes(phase, who) && !(atomic && self.atomic) {
            return Err((self.write.thread.into(), true));
        }
        if self.was_read_beside(phase, who) {
            return Err((self.read.thread.into(), false));
        }
        self.write = Stamp::of(phase, who);
        self.atomic = atomic;
        Ok(())
    }

    #[inline]
    fn was_read_beside(&self, phase: u32, who: Who) -> bool {
        if self.read.phase != phase {
            return false;
        }
        let several = self.several_lanes && self.read.meeting == who.meeting;
        self.several_warps || self.read.clashes(phase, who) || several
    }

    /// What of this matters still in a phase.
    pub(crate) fn since(mut self, phase: u32) -> Self {
        self.split = false;
        if self.write.phase != phase {
            (self.write, self.atomic) = (Stamp::default(), false);
        }
        if self.read.phase != phase {
            self.read = Stamp::default();
            (self.several_lanes, self.several_warps) = (false, false);
        }
        self
    }
}
