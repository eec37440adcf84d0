//! An entry, decoded: what the machine runs.

use std::ops::Range;

use crate::arith::convert::Conversion;
use crate::arith::{Lanes, WarpFn, WarpTest};
use crate::fault::{FaultKind, Nearest, Space};
use crate::profile::Class;
use crate::types::Type;

/// Where the shared and local memory of a block and a thread begin in their own spaces: not at zero, so that a null
/// pointer is out of bounds.
pub(crate) const OWN_BASE: u64 = 0x400;
/// Where they begin in the generic space.
pub(crate) const SHARED_WINDOW: u64 = 1 << 40;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 40;
pub(crate) const PARAM_WINDOW: u64 = 3 << 40;
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
/// Parameters lie far apart in their space, as allocations do in memory: no overrun of one lands in another. A device
/// packs them, and a compiler does not count on it, for it names each.
pub(crate) const PARAM_SLOT: u64 = 1 << 16;

/// Index of a register of a warp. Constants and special registers are registers too.
pub(crate) type Reg = u32;
pub(crate) type Pred = u32;

#[derive(Debug)]
pub(crate) struct Program {
    pub name: String,
    pub instructions: Vec<Instruction>,
    /// The same in every warp: the registers below these in number are their own.
    pub constants: Vec<Lanes>,
    /// Registers of a warp, after the constants in number.
    pub registers: usize,
    pub predicates: usize,
    pub filled: Vec<(Reg, Filled)>,
    /// Registers that may be read before they are written.
    pub zeroed: Vec<Reg>,
    /// The lines of the instructions that access memory, each with counters of its own.
    pub counted: Vec<u32>,
    pub params: Vec<Param>,
    pub param_bytes: u64,
    /// Static shared memory, up to where the dynamic one begins.
    pub shared_bytes: u64,
    pub local_bytes: u64,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    /// Whether a global atomic may make the order of blocks matter.
    pub ordered: bool,
}

#[derive(Debug)]
pub(crate) struct Param {
    pub name: String,
    /// Where it lies among the bytes of all arguments.
    pub offset: u64,
    pub bytes: u64,
}

/// What a register holds from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Filled {
    Constant(u64),
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Laneid,
    Warpid,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    /// `%dynamic_smem_size`
    DynamicShared,
}

#[derive(Debug)]
pub(crate) struct Instruction {
    pub line: u32,
    /// The predicate, and whether it is negated.
    pub guard: Option<(Pred, bool)>,
    pub class: Class,
    /// Which counters its accesses of memory go to.
    pub counter: usize,
    pub op: Op,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub base: Reg,
    pub offset: i64,
}

impl Program {
    /// Where in the bytes of all arguments an access of parameter memory lies.
    pub(crate) fn locate_param(&self, address: u64, bytes: u64) -> Result<Range<usize>, FaultKind> {
        // What lies a quarter of a slot before a parameter is nearest to it too.
        let slot = address.saturating_add(PARAM_SLOT / 4) / PARAM_SLOT;
        let param = usize::try_from(slot).ok().and_then(|s| self.params.get(s.checked_sub(1)?));
        let Some(param) = param else {
            return Err(FaultKind::OutOfBounds { space: Space::Param, address, bytes, nearest: None });
        };
        let offset = address.wrapping_sub(slot * PARAM_SLOT);
        if offset >= param.bytes || bytes > param.bytes - offset {
            let nearest =
                Some(Nearest { name: param.name.clone(), length: param.bytes, offset: offset as i64 });
            return Err(FaultKind::OutOfBounds { space: Space::Param, address, bytes, nearest });
        }
        let start = (param.offset + offset) as usize;
        Ok(start..start + bytes as usize)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub(crate) fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

/// What an instruction with a carry adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    Add,
    Subtract,
    /// The lower half of a product, and a third operand.
    AddLow,
    AddHigh,
}

/// What a barrier makes of a predicate of all threads of the block, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Together {
    Count(Reg),
    All(Pred),
    Any(Pred),
}

/// A predicate as a source, and whether it is negated.
pub(crate) type PredSource = (Pred, bool);

#[derive(Debug)]
pub(crate) enum Op {
    Map {
        run: WarpFn,
        to: Reg,
        from: [Reg; 4],
    },
    /// `add.cc`, `addc` and their like.
    Carry {
        what: Carried,
        ty: Type,
        to: Reg,
        from: [Reg; 3],
        carry: Pred,
        takes: bool,
        gives: bool,
    },
    Convert {
        how: Conversion,
        to: Reg,
        from: Reg,
    },
    /// `cvt.rn.f16x2.f32 d, a, b`: a above b.
    ConvertPair {
        how: Conversion,
        to: Reg,
        from: [Reg; 2],
    },
    Test {
        run: WarpTest,
        to: Pred,
        opposite: Option<Pred>,
        from: [Reg; 2],
        with: Option<(Logic, PredSource)>,
    },
    Select {
        to: Reg,
        from: [Reg; 2],
        by: PredSource,
    },
    MovePredicate {
        to: Pred,
        from: PredSource,
    },
    PredicateConstant {
        to: Pred,
        value: bool,
    },
    PredicateLogic {
        logic: Logic,
        to: Pred,
        from: [PredSource; 2],
    },
    /// Parts into one register, low first, each of this many bits.
    Pack {
        to: Reg,
        from: Vec<Reg>,
        bits: u32,
    },
    Unpack {
        to: Vec<Option<Reg>>,
        from: Reg,
        bits: u32,
    },
    Load {
        space: Space,
        bytes: u64,
        sign: Option<u32>,
        to: Vec<Option<Reg>>,
        at: Address,
    },
    Store {
        space: Space,
        bytes: u64,
        from: Vec<Reg>,
        at: Address,
    },
    Atomic {
        space: Space,
        what: Atomic,
        ty: Type,
        to: Option<Reg>,
        at: Address,
        from: [Reg; 2],
    },
    Branch {
        to: usize,
    },
    /// `brx.idx`
    BranchIndexed {
        index: Reg,
        to: Vec<usize>,
    },
    Exit,
    Trap,
    Barrier {
        id: Reg,
        threads: Option<Reg>,
        reduction: Option<(Together, PredSource)>,
    },
    WarpBarrier {
        mask: Reg,
    },
    Shuffle {
        how: Shuffle,
        to: Reg,
        valid: Option<Pred>,
        value: Reg,
        lane: Reg,
        clamp: Reg,
        mask: Reg,
    },
    Ballot {
        to: Reg,
        from: PredSource,
        mask: Reg,
    },
    VotePredicate {
        how: Vote,
        to: Pred,
        from: PredSource,
        mask: Reg,
    },
    /// `match.sync`: the lanes of the same value, or all or none.
    Match {
        all: bool,
        to: Reg,
        valid: Option<Pred>,
        value: Reg,
        mask: Reg,
    },
    /// `redux.sync`
    Reduce {
        what: Atomic,
        signed: bool,
        to: Reg,
        value: Reg,
        mask: Reg,
    },
    ActiveMask {
        to: Reg,
    },
    /// Fences and prefetches: the emulated memory is in order.
    Nothing,
    AsyncCopy {
        bytes: u64,
        to: Address,
        from: Address,
        source_bytes: Option<Reg>,
    },
    AsyncCommit,
    /// Waits until at most this many groups are on their way.
    AsyncWait {
        left: u64,
        uncommitted: bool,
    },
    MatrixLoad {
        to: Vec<Reg>,
        at: Address,
        transposed: bool,
    },
    /// `mma.sync.m16n8`, as deep as there are sources for
    MatrixMultiply {
        ty: Type,
        to: [Reg; 4],
        a: Vec<Reg>,
        b: Vec<Reg>,
        c: [Reg; 4],
    },
}
