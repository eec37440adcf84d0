//! What a launch did, counted.

use std::cmp::Reverse;
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
///
/// A bank is four bytes wide, and gives or takes one word of them a pass; lanes that access one word share it, also
/// when they access different bytes of it. Accesses of up to 4 bytes a lane are served together for the whole warp,
/// of 8 bytes for each half of it, of 16 for each quarter, `ldmatrix` for each matrix of eight rows; halves and quarters
/// with no active lane cost nothing. So a warp needs at [`least`](Self::least) 1, 2, 4 passes, or one a matrix.
///
/// Some devices serve two halves or quarters in one pass where neighbouring lanes access the same words; that is not
/// modelled, and so counts of wide loads that many lanes share are upper bounds.
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

/// The accesses of memory of one line of the PTX.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line {
    /// The line, counted from 1; [`Module::line`](crate::Module::line) has its text.
    pub line: u32,
    /// Global loads, and the reading half of asynchronous copies and atomics.
    pub global_loads: Traffic,
    /// Global stores, and the writing half of atomics.
    pub global_stores: Traffic,
    /// Shared loads, `ldmatrix` among them.
    pub shared_loads: Banks,
    /// Shared stores, and the writing half of asynchronous copies.
    pub shared_stores: Banks,
}

impl Line {
    /// Passes over the banks beyond those required, of both directions.
    pub fn conflicts(&self) -> u64 {
        self.shared_loads.conflicts() + self.shared_stores.conflicts()
    }
}

impl AddAssign<&Line> for Line {
    fn add_assign(&mut self, other: &Line) {
        self.global_loads += other.global_loads;
        self.global_stores += other.global_stores;
        self.shared_loads += other.shared_loads;
        self.shared_stores += other.shared_stores;
    }
}

impl AddAssign for Instructions {
    fn add_assign(&mut self, more: Instructions) {
        self.warps += more.warps;
        self.threads += more.threads;
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Traffic) {
        self.instructions += more.instructions;
        self.bytes += more.bytes;
        self.sectors += more.sectors;
    }
}

impl AddAssign for Banks {
    fn add_assign(&mut self, more: Banks) {
        self.instructions += more.instructions;
        self.least += more.least;
        self.passes += more.passes;
    }
}

/// What a launch did. The counts depend on the kernel and its data alone: they are the same in every run.
///
/// Where global loads go to a cache first (`.nc`, `.ca`, `.L2::128B` and their like) makes no difference to a count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    instructions: [Instructions; Class::COUNT],
    /// Global loads, and the reading half of asynchronous copies and atomics.
    pub global_loads: Traffic,
    /// Global stores, and the writing half of atomics.
    pub global_stores: Traffic,
    /// Shared loads, `ldmatrix` among them. Atomics on shared memory are not counted here.
    pub shared_loads: Banks,
    /// Shared stores, and the writing half of asynchronous copies.
    pub shared_stores: Banks,
    /// Multiply-adds of matrix instructions.
    pub matrix_multiply_adds: u64,
    /// While a block runs, one for each instruction that accesses memory; after that, one for each line.
    lines: Vec<Line>,
}

impl Profile {
    /// Instructions of a class.
    pub fn instructions(&self, class: Class) -> Instructions {
        self.instructions[class as usize]
    }

    /// Instructions of all classes.
    pub fn total(&self) -> Instructions {
        let mut sum = Instructions::default();
        self.instructions.iter().for_each(|&n| sum += n);
        sum
    }

    /// The lines that accessed global or shared memory, in their order. In a sum of launches of several modules, lines
    /// of one number are one.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The lines with bank conflicts, those with the most first.
    pub fn conflicts(&self) -> Vec<Line> {
        let mut found: Vec<Line> = self.lines.iter().filter(|l| l.conflicts() > 0).copied().collect();
        found.sort_by_key(|l| (Reverse(l.conflicts()), l.line));
        found
    }

    /// Counters of these lines, to count with.
    pub(crate) fn of(counted: &[u32]) -> Self {
        let lines = counted.iter().map(|&line| Line { line, ..Line::default() }).collect();
        Self { lines, ..Self::default() }
    }

    pub(crate) fn count(&mut self, class: Class, active: u32) {
        let n = &mut self.instructions[class as usize];
        n.warps += 1;
        n.threads += u64::from(active.count_ones());
    }

    /// The counters of an instruction that accesses memory.
    pub(crate) fn at(&mut self, counter: usize) -> &mut Line {
        &mut self.lines[counter]
    }

    /// Takes over what another one of the same counters has counted.
    pub(crate) fn gather(&mut self, other: &mut Profile) {
        for (n, more) in self.instructions.iter_mut().zip(&mut other.instructions) {
            *n += std::mem::take(more);
        }
        for (line, more) in self.lines.iter_mut().zip(&mut other.lines) {
            *line += &std::mem::replace(more, Line { line: more.line, ..Line::default() });
        }
        self.matrix_multiply_adds += std::mem::take(&mut other.matrix_multiply_adds);
    }

    /// All that was counted, put together.
    pub(crate) fn finish(mut self) -> Self {
        let counted = std::mem::take(&mut self.lines);
        for line in &counted {
            self.global_loads += line.global_loads;
            self.global_stores += line.global_stores;
            self.shared_loads += line.shared_loads;
            self.shared_stores += line.shared_stores;
        }
        self.merge(&counted);
        self
    }

    /// Adds lines to those that there are, one for each number.
    fn merge(&mut self, more: &[Line]) {
        let busy = |l: &&Line| **l != Line { line: l.line, ..Line::default() };
        self.lines.extend(more.iter().filter(busy));
        self.lines.sort_by_key(|l| l.line);
        self.lines.dedup_by(|later, first| {
            let same = later.line == first.line;
            if same {
                *first += later;
            }
            same
        });
    }
}

impl AddAssign<&Profile> for Profile {
    fn add_assign(&mut self, other: &Profile) {
        for (n, more) in self.instructions.iter_mut().zip(&other.instructions) {
            *n += *more;
        }
        self.global_loads += other.global_loads;
        self.global_stores += other.global_stores;
        self.shared_loads += other.shared_loads;
        self.shared_stores += other.shared_stores;
        self.matrix_multiply_adds += other.matrix_multiply_adds;
        self.merge(&other.lines);
    }
}
