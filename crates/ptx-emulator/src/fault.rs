//! What can go wrong while a kernel runs.

use std::fmt;

/// A kernel that did what it must not: which thread did it, where, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}, PTX line {line}, block {block:?}, thread {thread:?}: {kind}\n  {text}")]
pub struct Fault {
    /// The entry.
    pub kernel: String,
    /// The line of the PTX, counted from 1.
    pub line: u32,
    /// The text of that line, trimmed.
    pub text: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid` of the thread, or of one of them where a whole warp is at fault.
    pub thread: [u32; 3],
    /// What it did.
    pub kind: FaultKind,
}

/// A state space of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory, and constant memory within it.
    Global,
    /// Memory of a block.
    Shared,
    /// Memory of a thread.
    Local,
    /// Parameters of a kernel.
    Param,
    /// Whatever the address says.
    Generic,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Param => "param",
            Self::Generic => "generic",
        })
    }
}

/// Where an address lies with respect to the allocation nearest to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// The name of the allocation.
    pub name: String,
    /// Its bytes.
    pub length: u64,
    /// The address less that of the allocation.
    pub offset: i64,
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of `{}`, which has {}", self.offset, self.name, self.length)
    }
}

/// What a thread did that it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access that no allocation holds whole.
    #[error("{bytes} bytes of {space} memory at {address:#x} are out of bounds{}", nearest_text(.nearest))]
    OutOfBounds {
        /// The space that was accessed.
        space: Space,
        /// The first byte of the access.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// The allocation nearest to it.
        nearest: Option<Nearest>,
    },
    /// An access to an allocation that was freed.
    #[error("{bytes} bytes of {space} memory at {address:#x} were freed ({of})")]
    Freed {
        /// The space that was accessed.
        space: Space,
        /// The first byte of the access.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// What the allocation was.
        of: Nearest,
    },
    /// An address that is no multiple of the size of the access.
    #[error("{bytes} bytes of {space} memory at {address:#x} are misaligned")]
    Misaligned {
        /// The space that was accessed.
        space: Space,
        /// The first byte of the access.
        address: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// A read of bytes that nobody wrote.
    #[error("{bytes} bytes of {space} memory at {address:#x} were never written{}", nearest_text(.nearest))]
    Uninitialised {
        /// The space that was read.
        space: Space,
        /// The first byte of the read.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// The allocation that holds it.
        nearest: Option<Nearest>,
    },
    /// A write to constant memory or to a parameter.
    #[error("{address:#x} is read-only")]
    ReadOnly {
        /// Where.
        address: u64,
    },
    /// Two threads accessed a byte of shared memory, one of them writing, with no barrier between.
    #[error("a race: shared memory at {address:#x} was {} by thread {other} with no barrier since", if *.other_wrote { "written" } else { "read" })]
    Race {
        /// The byte.
        address: u64,
        /// The linear index of the other thread in its block.
        other: u32,
        /// Whether the other thread wrote.
        other_wrote: bool,
    },
    /// A barrier that some threads wait at and others will not reach.
    #[error(
        "a barrier that {missing} threads do not reach, this one among them; thread {waiting} waits at it"
    )]
    BarrierNotReached {
        /// How many threads do not reach it.
        missing: u32,
        /// The linear index of a thread that waits.
        waiting: u32,
    },
    /// A `.sync` instruction of a warp that not all lanes of its mask reach.
    #[error("lanes {missing:#010x} of the mask {mask:#010x} do not reach this instruction")]
    WarpSyncNotReached {
        /// The membership mask.
        mask: u32,
        /// The lanes that are not there.
        missing: u32,
    },
    /// A `.sync` instruction executed by a lane outside its own mask.
    #[error("the thread is not in its own mask {mask:#010x}")]
    NotInMask {
        /// The membership mask.
        mask: u32,
    },
    /// Shared memory that a `cp.async` writes, accessed before the copy was waited for.
    #[error("shared memory at {address:#x} is the target of a cp.async that was not waited for")]
    AsyncNotWaited {
        /// The byte.
        address: u64,
    },
    /// A `trap`: what an assertion that does not hold becomes.
    #[error("a trap")]
    Trap,
    /// A branch by a number that its table of labels does not have.
    #[error("label {index} of a table of {labels}")]
    NoSuchLabel {
        /// The number.
        index: u32,
        /// How many labels there are.
        labels: usize,
    },
    /// A block that ran more instructions than the launch allows.
    #[error("the block ran more than {0} warp instructions")]
    TooLong(u64),
    /// Something that an operand asks for at run time and that is not emulated.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

fn nearest_text(nearest: &Option<Nearest>) -> String {
    nearest.as_ref().map_or(String::new(), |n| format!(" ({n})"))
}
