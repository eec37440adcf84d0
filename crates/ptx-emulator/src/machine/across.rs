//! Instructions across a warp, once all lanes that they name are there.

use crate::fault::FaultKind;
use crate::machine::block::Block;
use crate::machine::warp::Warp;
use crate::machine::{Outcome, atomic, lanes};
use crate::program::{Op, Shuffle, Vote};
use crate::types::Type;

impl Block<'_> {
    /// Runs the instruction for the lanes of a set.
    pub(crate) fn across(&mut self, warp: &mut Warp, set: u32, at: usize) -> Outcome<()> {
        let program = self.program;
        let (op, counter) = (&program.instructions[at].op, program.instructions[at].counter);
        // PTX leaves it open what these do in a warp that is not whole.
        if matches!(op, Op::MatrixLoad { .. } | Op::MatrixMultiply { .. }) && set != u32::MAX {
            let kind = FaultKind::WarpSyncNotReached { mask: u32::MAX, missing: !set };
            return Err((set.trailing_zeros(), kind));
        }
        match *op {
            // Only a meeting of all orders every access before it with every one after.
            Op::WarpBarrier { .. } => warp.meetings += u32::from(set == warp.live),
            Op::Shuffle { how, to, valid, value, lane, clamp, .. } => {
                let (value, by, clamp) = (*warp.register(value), *warp.register(lane), *warp.register(clamp));
                let mut out = [0; 32];
                let mut within = 0;
                for lane in lanes(set) {
                    let (from, ok) = source_lane(how, lane as u32, by[lane] as u32 & 31, clamp[lane] as u32);
                    if set >> from & 1 == 0 {
                        let missing = 1 << from;
                        return Err((lane as u32, FaultKind::WarpSyncNotReached { mask: set, missing }));
                    }
                    out[lane] = value[from as usize];
                    within |= u32::from(ok) << lane;
                }
                warp.set(to, &out, set);
                if let Some(valid) = valid {
                    warp.set_predicate(valid, within, set);
                }
            }
            Op::Ballot { to, from, .. } => {
                let ballot = warp.predicate(from) & set;
                warp.set(to, &[ballot.into(); 32], set);
            }
            Op::VotePredicate { how, to, from, .. } => {
                let ballot = warp.predicate(from) & set;
                let holds = match how {
                    Vote::All => ballot == set,
                    Vote::Any => ballot != 0,
                    Vote::Uniform => ballot == set || ballot == 0,
                };
                warp.set_predicate(to, if holds { u32::MAX } else { 0 }, set);
            }
            Op::Match { all, to, valid, value, .. } => {
                let value = *warp.register(value);
                let mut out = [0; 32];
                for lane in lanes(set) {
                    let alike = lanes(set).filter(|&other| value[other] == value[lane]);
                    let alike = alike.fold(0u32, |mask, other| mask | 1 << other);
                    out[lane] = u64::from(if all && alike != set { 0 } else { alike });
                }
                warp.set(to, &out, set);
                if let Some(valid) = valid {
                    let all = lanes(set).all(|lane| out[lane] != 0);
                    warp.set_predicate(valid, if all { u32::MAX } else { 0 }, set);
                }
            }
            Op::Reduce { what, signed, to, value, .. } => {
                let ty = if signed { Type::S32 } else { Type::U32 };
                let value = warp.register(value);
                let all = lanes(set).map(|lane| value[lane]).reduce(|a, b| atomic::apply(what, ty, a, b, 0));
                warp.set(to, &[all.unwrap_or(0); 32], set);
            }
            Op::MatrixLoad { .. } | Op::MatrixMultiply { .. } if set != u32::MAX => {
                let kind = FaultKind::WarpSyncNotReached { mask: u32::MAX, missing: !set };
                return Err((set.trailing_zeros(), kind));
            }
            Op::MatrixLoad { ref to, at, transposed } => {
                return self.matrix_load(warp, counter, to, at, transposed);
            }
            Op::MatrixMultiply { ty, ref to, ref a, ref b, ref c, .. } => {
                return self.matrix_multiply(warp, ty, to, a, b, c);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The lane that a lane reads from, and whether it is within bounds; one that is not reads itself.
fn source_lane(how: Shuffle, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let (segment, clamp) = (clamp >> 8 & 31, clamp & 31);
    let least = lane & segment;
    let most = least | clamp & !segment;
    let (from, ok) = match how {
        // Here the clamp is the lowest lane.
        Shuffle::Up => (lane as i32 - by as i32, lane as i32 - by as i32 >= most as i32),
        Shuffle::Down => ((lane + by) as i32, lane + by <= most),
        Shuffle::Butterfly => ((lane ^ by) as i32, (lane ^ by) <= most),
        Shuffle::Index => ((least | by & !segment) as i32, (least | by & !segment) <= most),
    };
    if ok { (from as u32, true) } else { (lane, false) }
}
