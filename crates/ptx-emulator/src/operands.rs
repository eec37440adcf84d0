//! Which registers an instruction reads and writes.

use crate::program::{Op, Reg, Together};

/// What an instruction does with a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Written,
}

impl Op {
    /// How many of `from` an instruction without side effects reads is known to its function alone: all are visited,
    /// and those it does not have are register 0.
    pub(crate) fn visit(&mut self, mut visit: impl FnMut(&mut Reg, Use)) {
        let mut read = |regs: &mut [Reg]| regs.iter_mut().for_each(|r| visit(r, Use::Read));
        match self {
            Op::Map { from, .. } => read(from),
            Op::Carry { from, .. } => read(from),
            Op::Convert { from, .. } | Op::Unpack { from, .. } => read(std::slice::from_mut(from)),
            Op::ConvertPair { from, .. } | Op::Test { from, .. } | Op::Select { from, .. } => read(from),
            Op::Pack { from, .. } => read(from),
            Op::Load { at, .. } | Op::MatrixLoad { at, .. } => read(std::slice::from_mut(&mut at.base)),
            Op::Store { from, at, .. } => {
                read(from);
                read(std::slice::from_mut(&mut at.base));
            }
            Op::Atomic { from, at, .. } => {
                read(from);
                read(std::slice::from_mut(&mut at.base));
            }
            Op::Barrier { id, threads, .. } => {
                read(std::slice::from_mut(id));
                read(threads.as_mut_slice());
            }
            Op::BranchIndexed { index, .. } => read(std::slice::from_mut(index)),
            Op::WarpBarrier { mask } | Op::Ballot { mask, .. } | Op::VotePredicate { mask, .. } => {
                read(std::slice::from_mut(mask));
            }
            Op::Shuffle { value, lane, clamp, mask, .. } => {
                for reg in [value, lane, clamp, mask] {
                    read(std::slice::from_mut(reg));
                }
            }
            Op::Reduce { value, mask, .. } | Op::Match { value, mask, .. } => {
                read(std::slice::from_mut(value));
                read(std::slice::from_mut(mask));
            }
            Op::AsyncCopy { to, from, source_bytes, .. } => {
                read(std::slice::from_mut(&mut to.base));
                read(std::slice::from_mut(&mut from.base));
                read(source_bytes.as_mut_slice());
            }
            Op::MatrixMultiply { a, b, c, .. } => {
                read(a);
                read(b);
                read(c);
            }
            Op::MovePredicate { .. }
            | Op::PredicateConstant { .. }
            | Op::PredicateLogic { .. }
            | Op::Branch { .. }
            | Op::Exit
            | Op::Trap
            | Op::ActiveMask { .. }
            | Op::Nothing
            | Op::AsyncCommit
            | Op::AsyncWait { .. } => {}
        }
        let mut write = |reg: &mut Reg| visit(reg, Use::Written);
        match self {
            Op::Map { to, .. }
            | Op::Carry { to, .. }
            | Op::Convert { to, .. }
            | Op::ConvertPair { to, .. }
            | Op::Select { to, .. }
            | Op::Pack { to, .. }
            | Op::Shuffle { to, .. }
            | Op::Ballot { to, .. }
            | Op::Reduce { to, .. }
            | Op::Match { to, .. }
            | Op::Barrier { reduction: Some((Together::Count(to), _)), .. }
            | Op::ActiveMask { to } => write(to),
            Op::Unpack { to, .. } | Op::Load { to, .. } => to.iter_mut().flatten().for_each(write),
            Op::Atomic { to, .. } => to.iter_mut().for_each(write),
            Op::MatrixLoad { to, .. } => to.iter_mut().for_each(write),
            Op::MatrixMultiply { to, .. } => to.iter_mut().for_each(write),
            Op::Test { .. }
            | Op::MovePredicate { .. }
            | Op::PredicateConstant { .. }
            | Op::PredicateLogic { .. }
            | Op::Store { .. }
            | Op::Branch { .. }
            | Op::BranchIndexed { .. }
            | Op::Exit
            | Op::Trap
            | Op::Barrier { .. }
            | Op::WarpBarrier { .. }
            | Op::VotePredicate { .. }
            | Op::Nothing
            | Op::AsyncCopy { .. }
            | Op::AsyncCommit
            | Op::AsyncWait { .. } => {}
        }
    }
}
