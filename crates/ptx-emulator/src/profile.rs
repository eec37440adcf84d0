//! What a launch did, counted.

use std::ops::AddAssign;

/// The kinds of instructions that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Class {
    /// Integer arithmetic, logic and comparisons.
    Integer,
    /// f32 arithmetic and comparisons.
    F32,
    /// f64 arithmetic and comparisons.
    F64,
    /// f16 and bf16 arithmetic and comparisons.
    Half,
    /// Approximate functions.
    Approximate,
    /// Conversions.
    Convert,
    /// Moves, selections, predicates, packing.
    Move,
    /// Loads and stores of global memory, generic ones, and asynchronous copies.
    Global,
    /// Loads and stores of shared memory, `ldmatrix` among them.
    Shared,
    /// Loads and stores of local memory.
    Local,
    /// Loads of parameters.
    Param,
    /// Atomics.
    Atomic,
    /// Branches and exits.
    Control,
    /// Barriers, fences, waits.
    Synchronise,
    /// Shuffles, votes and reductions in a warp.
    Warp,
    /// Matrix products.
    Matrix,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 16;
}

/// Instructions of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Instructions {
    /// Instructions issued, one a warp.
    pub warps: u64,
    /// Instructions executed, one an active thread.
    pub threads: u64,
}

/// Traffic of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Instructions, one a warp.
    pub instructions: u64,
    /// Bytes that the threads asked for, each thread's counted.
    pub bytes: u64,
    /// Sectors of 32 bytes that the instructions touched, each once an instruction. No cache is modelled.
    pub sectors: u64,
}

/// Accesses of shared memory and the passes over its 32 banks that they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Banks {
    /// Instructions, one a warp.
    pub instructions: u64,
    /// Passes that the widths of the accesses require.
    pub least: u64,
    /// Passes taken.
    pub passes: u64,
}

impl Banks {
    /// Passes beyond those required.
    pub fn conflicts(&self) -> u64 {
        self.passes - self.least
    }
}

/// What a launch did. The counts depend on the kernel and its data alone: they are the same in every run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profile {
    instructions: [Instructions; Class::COUNT],
    /// Global loads, and the reading half of asynchronous copies and atomics.
    pub global_loads: Traffic,
    /// Global stores, and the writing half of atomics.
    pub global_stores: Traffic,
    /// Shared loads, `ldmatrix` among them.
    pub shared_loads: Banks,
    /// Shared stores. Those of asynchronous copies are not counted here.
    pub shared_stores: Banks,
    /// Multiply-adds of matrix instructions.
    pub matrix_multiply_adds: u64,
}

impl Profile {
    /// Instructions of a class.
    pub fn instructions(&self, class: Class) -> Instructions {
        self.instructions[class as usize]
    }

    /// Instructions of all classes.
    pub fn total(&self) -> Instructions {
        self.instructions.iter().fold(Instructions::default(), |mut sum, n| {
            sum.warps += n.warps;
            sum.threads += n.threads;
            sum
        })
    }

    pub(crate) fn count(&mut self, class: Class, active: u32) {
        let n = &mut self.instructions[class as usize];
        n.warps += 1;
        n.threads += u64::from(active.count_ones());
    }
}

impl AddAssign<&Profile> for Profile {
    fn add_assign(&mut self, other: &Profile) {
        for (n, more) in self.instructions.iter_mut().zip(&other.instructions) {
            n.warps += more.warps;
            n.threads += more.threads;
        }
        for (n, more) in
            [(&mut self.global_loads, other.global_loads), (&mut self.global_stores, other.global_stores)]
        {
            n.instructions += more.instructions;
            n.bytes += more.bytes;
            n.sectors += more.sectors;
        }
        for (n, more) in
            [(&mut self.shared_loads, other.shared_loads), (&mut self.shared_stores, other.shared_stores)]
        {
            n.instructions += more.instructions;
            n.least += more.least;
            n.passes += more.passes;
        }
        self.matrix_multiply_adds += other.matrix_multiply_adds;
    }
}
