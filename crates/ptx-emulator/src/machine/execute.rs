//! One instruction of a warp.

use crate::arith::int;
use crate::fault::FaultKind;
use crate::machine::Outcome;
use crate::machine::block::Block;
use crate::machine::warp::{Group, State, Warp};
use crate::program::Op;

impl Block<'_> {
    /// Runs the instruction at which a group of lanes stands, and moves the group on.
    pub(crate) fn step(&mut self, warp: &mut Warp, current: usize, at: usize) -> Outcome<()> {
        let program = self.program;
        let instruction = &program.instructions[at];
        let group = warp.groups[current].lanes;
        let active = instruction.guard.map_or(group, |guard| group & warp.predicate(guard));
        // Counted when they happen: a lane may come back to one of these while it waits.
        let sync = matches!(
            instruction.op,
            Op::WarpBarrier { .. }
                | Op::Shuffle { .. }
                | Op::Ballot { .. }
                | Op::VotePredicate { .. }
                | Op::Reduce { .. }
                | Op::Match { .. }
                | Op::MatrixLoad { .. }
                | Op::MatrixMultiply { .. }
        );
        if !sync {
            self.profile.count(instruction.class, active);
        }
        if active == 0 {
            warp.groups[current].at += 1;
            return Ok(());
        }
        match instruction.op {
            Op::Branch { to } => {
                warp.groups[current].at = to;
                if active != group {
                    warp.groups[current].lanes = active;
                    warp.groups.push(Group { at: at + 1, lanes: group & !active, state: State::Running });
                }
                Ok(())
            }
            Op::BranchIndexed { index, ref to } => {
                warp.groups[current].lanes &= !active;
                warp.groups[current].at += 1;
                let index = *warp.register(index);
                for lane in super::lanes(active) {
                    let labels = to.len();
                    let at = *to.get(index[lane] as usize).ok_or_else(|| {
                        (lane as u32, FaultKind::NoSuchLabel { index: index[lane] as u32, labels })
                    })?;
                    warp.groups.push(Group { at, lanes: 1 << lane, state: State::Running });
                }
                Ok(())
            }
            Op::Trap => Err((active.trailing_zeros(), FaultKind::Trap)),
            Op::Exit => {
                warp.live &= !active;
                warp.groups[current].lanes &= !active;
                warp.groups[current].at += 1;
                Ok(())
            }
            Op::Barrier { id, threads, .. } => {
                let lane = active.trailing_zeros() as usize;
                let id = warp.register(id)[lane] as u32;
                let threads = threads.map(|n| warp.register(n)[lane] as u32);
                self.wait_at_barrier(warp, current, active, id, threads)
            }
            _ if sync => self.together(warp, current, active, |block, warp, set| block.across(warp, set, at)),
            ref op => {
                self.plain(warp, active, instruction.counter, op)?;
                warp.groups[current].at += 1;
                Ok(())
            }
        }
    }

    /// An instruction after which the lanes go on to the next.
    fn plain(&mut self, warp: &mut Warp, active: u32, counter: usize, op: &Op) -> Outcome<()> {
        match *op {
            Op::Map { run, to, from: [a, b, c, d] } => {
                let mut out = [0; 32];
                run([warp.register(a), warp.register(b), warp.register(c), warp.register(d)], &mut out);
                warp.set(to, &out, active);
            }
            Op::Carry { what, ty, to, from, carry, takes, gives } => {
                let [a, b, c] = from.map(|r| warp.register(r));
                let before = if takes { warp.predicates[carry as usize] } else { 0 };
                let (mut out, mut after) = ([0; 32], 0);
                for lane in 0..32 {
                    let sources = [a[lane], b[lane], c[lane]];
                    let (value, carried) = int::carried(what, ty, sources, before >> lane & 1 == 1);
                    out[lane] = value;
                    after |= u32::from(carried) << lane;
                }
                warp.set(to, &out, active);
                if gives {
                    warp.set_predicate(carry, after, active);
                }
            }
            Op::Convert { ref how, to, from } => {
                let out = how.apply_all(warp.register(from));
                warp.set(to, &out, active);
            }
            Op::ConvertPair { ref how, to, from: [high, low] } => {
                let (high, low) = (how.apply_all(warp.register(high)), how.apply_all(warp.register(low)));
                let out = std::array::from_fn(|i| high[i] << 16 | low[i]);
                warp.set(to, &out, active);
            }
            Op::Test { run, to, opposite, from: [a, b], with } => {
                let found = run(warp.register(a), warp.register(b));
                let combine = |value| match with {
                    Some((logic, by)) => logic.apply(value, warp.predicate(by)),
                    None => value,
                };
                let (value, other) = (combine(found), combine(!found));
                warp.set_predicate(to, value, active);
                if let Some(opposite) = opposite {
                    warp.set_predicate(opposite, other, active);
                }
            }
            Op::Select { to, from: [a, b], by } => {
                let by = warp.predicate(by);
                let (a, b) = (warp.register(a), warp.register(b));
                let out = std::array::from_fn(|i| if by >> i & 1 == 1 { a[i] } else { b[i] });
                warp.set(to, &out, active);
            }
            Op::MovePredicate { to, from } => warp.set_predicate(to, warp.predicate(from), active),
            Op::PredicateConstant { to, value } => {
                warp.set_predicate(to, if value { u32::MAX } else { 0 }, active)
            }
            Op::PredicateLogic { logic, to, from: [a, b] } => {
                let value = logic.apply(warp.predicate(a), warp.predicate(b));
                warp.set_predicate(to, value, active);
            }
            Op::Pack { to, ref from, bits } => {
                let mut out = [0; 32];
                for (i, &part) in from.iter().enumerate() {
                    for (out, part) in out.iter_mut().zip(warp.register(part)) {
                        *out |= part << (i as u32 * bits);
                    }
                }
                warp.set(to, &out, active);
            }
            Op::Unpack { ref to, from, bits } => {
                let whole = *warp.register(from);
                for (i, to) in to.iter().enumerate() {
                    if let Some(to) = *to {
                        let out = whole.map(|x| x >> (i as u32 * bits) & (u64::MAX >> (64 - bits)));
                        warp.set(to, &out, active);
                    }
                }
            }
            Op::Load { space, bytes, sign, ref to, at } => {
                return self.load(warp, active, counter, space, bytes, sign, to, at);
            }
            Op::Store { space, bytes, ref from, at } => {
                return self.store(warp, active, counter, space, bytes, from, at);
            }
            Op::Atomic { space, what, ty, to, at, from } => {
                return self.atomic(warp, active, counter, space, what, ty, to, at, from);
            }
            Op::ActiveMask { to } => warp.set(to, &[active.into(); 32], active),
            Op::AsyncCopy { bytes, to, from, source_bytes } => {
                return self.async_copy(warp, active, counter, bytes, to, from, source_bytes);
            }
            Op::AsyncCommit => {
                for lane in super::lanes(active) {
                    warp.committed[lane] += 1;
                }
            }
            Op::AsyncWait { left, uncommitted } => return self.async_wait(warp, active, left, uncommitted),
            // The rest is done in `step` and `across`.
            _ => {}
        }
        Ok(())
    }
}
