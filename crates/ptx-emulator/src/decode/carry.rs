//! Arithmetic with carries, and products of 24 bits: what inline assembly and intrinsics ask for.

use super::modifiers::Modifiers;
use super::{Decoder, Width};
use crate::arith::int;
use crate::ast::Operand;
use crate::parse::Result;
use crate::profile::Class;
use crate::program::{Carried, Op, Pred};
use crate::types::Type;

impl Decoder<'_> {
    /// `add{c}{.cc}.type d, a, b`, `sub` alike, and `mad{c}.lo/hi{.cc}.type d, a, b, c`.
    pub(super) fn carry(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<(Op, Class)> {
        let (name, takes) = match m.name().strip_suffix('c') {
            Some(name) => (name, true),
            None => (m.name(), false),
        };
        let what = match name {
            "add" => Carried::Add,
            "sub" => Carried::Subtract,
            _ if m.need_one(&["lo", "hi"])? == "lo" => Carried::AddLow,
            _ => Carried::AddHigh,
        };
        let gives = m.eat("cc");
        let ty = m.ty()?;
        if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64) {
            return Err(m.bad_last());
        }
        let (to, from) = match (what, operands) {
            (Carried::Add | Carried::Subtract, [to, a, b]) => (to, [a, b, b]),
            (Carried::AddLow | Carried::AddHigh, [to, a, b, c]) => (to, [a, b, c]),
            _ => return Err(self.operand_error("the operands of the instruction without a carry expected")),
        };
        let to = self.target(to, ty, Width::Exact)?;
        let mut sources = [0; 3];
        for (source, operand) in sources.iter_mut().zip(from) {
            *source = self.source(operand, ty, Width::Exact)?;
        }
        let carry = self.carry_flag();
        Ok((Op::Carry { what, ty, to, from: sources, carry, takes, gives }, Class::Integer))
    }

    fn carry_flag(&mut self) -> Pred {
        let next = self.predicates;
        *self.carry.get_or_insert_with(|| {
            self.predicates += 1;
            next
        })
    }

    /// `mul24.lo/hi.type d, a, b` and `mad24`.
    pub(super) fn product_of_24(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<(Op, Class)> {
        let high = m.need_one(&["lo", "hi"])? == "hi";
        let ty = m.ty()?;
        let run = int::mad24(high, ty).ok_or_else(|| m.bad_last())?;
        let sources = if m.name() == "mad24" { 3 } else { 2 };
        let mut op = self.map(run, ty, &[ty; 3][..sources], operands)?;
        if let (Op::Map { from, .. }, 2) = (&mut op, sources) {
            from[2] = self.constant(0);
        }
        Ok((op, Class::Integer))
    }
}
