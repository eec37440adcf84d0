//! Branches, barriers, and instructions across a warp.

use super::modifiers::Modifiers;
use super::{Decoder, Width};
use crate::ast::Operand;
use crate::error::Refusal;
use crate::parse::Result;
use crate::profile::Class;
use crate::program::{Atomic, Filled, Op, Shuffle, Together, Vote};
use crate::types::Type;

type Decoded = Result<(Op, Class)>;

/// The special register of this name.
pub(super) fn special(name: &str) -> Option<Filled> {
    let axis = |suffix: &str| ["x", "y", "z"].iter().position(|a| *a == suffix);
    let (base, suffix) = name.split_once('.').unwrap_or((name, ""));
    Some(match base {
        "%tid" => Filled::Tid(axis(suffix)?),
        "%ntid" => Filled::Ntid(axis(suffix)?),
        "%ctaid" => Filled::Ctaid(axis(suffix)?),
        "%nctaid" => Filled::Nctaid(axis(suffix)?),
        _ if !suffix.is_empty() => return None,
        "%laneid" => Filled::Laneid,
        "%warpid" => Filled::Warpid,
        "%lanemask_eq" => Filled::LanemaskEq,
        "%lanemask_lt" => Filled::LanemaskLt,
        "%lanemask_le" => Filled::LanemaskLe,
        "%lanemask_gt" => Filled::LanemaskGt,
        "%lanemask_ge" => Filled::LanemaskGe,
        "%dynamic_smem_size" => Filled::DynamicShared,
        _ => return None,
    })
}

impl Decoder<'_> {
    pub(super) fn control(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        if m.name() == "trap" {
            let [] = self.exactly(operands)?;
            return Ok((Op::Trap, Class::Control));
        }
        if m.name() == "brx" {
            m.need("idx")?;
            m.eat("uni");
            let [index, Operand::Name(table)] = self.exactly(operands)? else {
                return Err(self.operand_error("an index and a table of labels expected"));
            };
            let index = self.source(index, Type::U32, Width::Exact)?;
            return Ok((Op::BranchIndexed { index, to: self.table(table)? }, Class::Control));
        }
        if m.name() != "bra" {
            let [] = self.exactly(operands)?;
            // Without functions, both end the thread.
            if m.name() == "ret" {
                m.eat("uni");
            }
            return Ok((Op::Exit, Class::Control));
        }
        m.eat("uni");
        match self.exactly(operands)? {
            [Operand::Name(label)] => Ok((Op::Branch { to: self.label(label)? }, Class::Control)),
            _ => Err(self.operand_error("a label expected")),
        }
    }

    pub(super) fn synchronise(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        match m.name() {
            "membar" => {
                m.need_one(&["cta", "gl", "sys"])?;
                let [] = self.exactly(operands)?;
                return Ok((Op::Nothing, Class::Synchronise));
            }
            "fence" => {
                m.one_of(&["sc", "acq_rel"]);
                m.need_one(&["cta", "cluster", "gpu", "sys"])?;
                let [] = self.exactly(operands)?;
                return Ok((Op::Nothing, Class::Synchronise));
            }
            // Nothing here takes time.
            "nanosleep" => {
                m.need("u32")?;
                let [time] = self.exactly(operands)?;
                self.source(time, Type::U32, Width::Exact)?;
                return Ok((Op::Nothing, Class::Synchronise));
            }
            "bar" if m.eat("warp") => {
                m.need("sync")?;
                let [mask] = self.exactly(operands)?;
                let mask = self.source(mask, Type::B32, Width::Exact)?;
                return Ok((Op::WarpBarrier { mask }, Class::Synchronise));
            }
            _ => {}
        }
        m.eat("cta");
        if m.need_one(&["sync", "red"])? == "red" {
            return self.barrier_reduction(m, operands);
        }
        if m.name() == "barrier" {
            m.eat("aligned");
        }
        let (id, threads) = match operands {
            [id] => (id, None),
            [id, threads] => (id, Some(threads)),
            _ => return Err(self.operand_error("one or two operands expected")),
        };
        let id = self.source(id, Type::B32, Width::Exact)?;
        let threads = match threads {
            Some(n) => Some(self.source(n, Type::B32, Width::Exact)?),
            None => None,
        };
        Ok((Op::Barrier { id, threads, reduction: None }, Class::Synchronise))
    }

    /// `barrier.red.popc.u32 d, barrier, p`, and `.and.pred`, `.or.pred`.
    fn barrier_reduction(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let how = m.need_one(&["popc", "and", "or"])?;
        if m.name() == "barrier" {
            m.eat("aligned");
        }
        m.need(if how == "popc" { "u32" } else { "pred" })?;
        let (d, id, threads, from) = match operands {
            [d, id, from] => (d, id, None, from),
            [d, id, threads, from] => (d, id, Some(threads), from),
            _ => return Err(self.operand_error("three or four operands expected")),
        };
        let to = match (how, d) {
            ("popc", d) => Together::Count(self.target(d, Type::B32, Width::Exact)?),
            ("and", Operand::Name(p)) => Together::All(self.predicate(p)?),
            (_, Operand::Name(p)) => Together::Any(self.predicate(p)?),
            _ => return Err(self.operand_error("a predicate expected")),
        };
        let id = self.source(id, Type::B32, Width::Exact)?;
        let threads = match threads {
            Some(n) => Some(self.source(n, Type::B32, Width::Exact)?),
            None => None,
        };
        let reduction = Some((to, self.predicate_source(from)?));
        Ok((Op::Barrier { id, threads, reduction }, Class::Synchronise))
    }

    pub(super) fn warp(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let b32 = Type::B32;
        if m.name() == "activemask" {
            m.need("b32")?;
            let [d] = self.exactly(operands)?;
            return Ok((Op::ActiveMask { to: self.target(d, b32, Width::Exact)? }, Class::Warp));
        }
        // The only one whose kind comes before.
        if m.name() != "match" {
            m.need("sync")?;
        }
        let op = match m.name() {
            "shfl" => self.shuffle(m, operands)?,
            "vote" => {
                let how = match m.need_one(&["all", "any", "uni", "ballot"])? {
                    "all" => Some(Vote::All),
                    "any" => Some(Vote::Any),
                    "uni" => Some(Vote::Uniform),
                    _ => None,
                };
                m.need(if how.is_none() { "b32" } else { "pred" })?;
                let [d, a, mask] = self.exactly(operands)?;
                let mask = self.source(mask, b32, Width::Exact)?;
                let from = self.predicate_source(a)?;
                match (d, how) {
                    (Operand::Name(p), Some(how)) => {
                        Op::VotePredicate { how, to: self.predicate(p)?, from, mask }
                    }
                    _ => Op::Ballot { to: self.target(d, b32, Width::Exact)?, from, mask },
                }
            }
            "match" => self.matching(m, operands)?,
            _ => {
                let what = match m.need_one(&["add", "min", "max", "and", "or", "xor"])? {
                    "add" => Atomic::Add,
                    "min" => Atomic::Min,
                    "max" => Atomic::Max,
                    "and" => Atomic::And,
                    "or" => Atomic::Or,
                    _ => Atomic::Xor,
                };
                let bits = matches!(what, Atomic::And | Atomic::Or | Atomic::Xor);
                let ty = m.need_one(if bits { &["b32"] } else { &["u32", "s32"] })?;
                let [d, a, mask] = self.exactly(operands)?;
                Op::Reduce {
                    what,
                    signed: ty == "s32",
                    to: self.target(d, b32, Width::Exact)?,
                    value: self.source(a, b32, Width::Exact)?,
                    mask: self.source(mask, b32, Width::Exact)?,
                }
            }
        };
        Ok((op, Class::Warp))
    }

    fn matching(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let all = m.need_one(&["any", "all"])? == "all";
        m.need("sync")?;
        let ty = if m.need_one(&["b32", "b64"])? == "b32" { Type::B32 } else { Type::B64 };
        let [d, value, mask] = self.exactly(operands)?;
        let (d, valid) = match d {
            Operand::Pair(d, p) if all => (d, Some(self.predicate(p)?)),
            Operand::Name(d) => (d, None),
            _ => return Err(self.operand_error("a register expected")),
        };
        Ok(Op::Match {
            all,
            to: self.data(d, Type::B32, Width::Exact)?,
            valid,
            value: self.source(value, ty, Width::Exact)?,
            mask: self.source(mask, Type::B32, Width::Exact)?,
        })
    }

    fn shuffle(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let b32 = Type::B32;
        let how = match m.need_one(&["up", "down", "bfly", "idx"])? {
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            _ => Shuffle::Index,
        };
        m.need("b32")?;
        let [d, value, lane, clamp, mask] = self.exactly(operands)?;
        let (d, valid) = match d {
            Operand::Pair(d, p) => (d, Some(self.predicate(p)?)),
            Operand::Name(d) => (d, None),
            _ => return Err(self.refuse(Refusal::Operand("a register expected".into()))),
        };
        Ok(Op::Shuffle {
            how,
            to: self.data(d, b32, Width::Exact)?,
            valid,
            value: self.source(value, b32, Width::Exact)?,
            lane: self.source(lane, b32, Width::Exact)?,
            clamp: self.source(clamp, b32, Width::Exact)?,
            mask: self.source(mask, b32, Width::Exact)?,
        })
    }
}
