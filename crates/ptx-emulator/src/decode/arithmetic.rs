//! Arithmetic, bits, conversions, comparisons and selections.

use super::modifiers::Modifiers;
use super::{Decoder, Width};
use crate::arith::convert::{Conversion, format};
use crate::arith::round::Rounding;
use crate::arith::{WarpFn, approx, compare, directed, float, half, int, warp};
use crate::ast::Operand;
use crate::parse::Result;
use crate::profile::Class;
use crate::program::{Logic, Op};
use crate::types::Type;

type Decoded = Result<(Op, Class)>;

/// The class of arithmetic on a type.
fn class(ty: Type) -> Class {
    match ty {
        Type::F32 => Class::F32,
        Type::F64 => Class::F64,
        Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2 => Class::Half,
        _ => Class::Integer,
    }
}

impl Decoder<'_> {
    /// An instruction of one target, and of sources all of one type.
    pub(super) fn map(&mut self, run: WarpFn, to: Type, from: &[Type], operands: &[Operand]) -> Result<Op> {
        if operands.len() != from.len() + 1 {
            return Err(self.operand_error(format!("{} operands expected", from.len() + 1)));
        }
        let target = self.target(&operands[0], to, Width::Exact)?;
        let mut sources = [0; 4];
        for ((source, operand), &ty) in sources.iter_mut().zip(&operands[1..]).zip(from) {
            *source = self.source(operand, ty, Width::Exact)?;
        }
        Ok(Op::Map { run, to: target, from: sources })
    }

    pub(super) fn arithmetic(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let name = m.name();
        let part = match name {
            "mul" | "mad" => m.one_of(&["lo", "hi", "wide"]),
            _ => None,
        };
        if let Some(part) = part {
            return self.product(m, part, operands);
        }
        let rounding = m.one_of(&["rn", "rz", "rm", "rp", "approx", "full"]);
        let ftz = m.eat("ftz");
        let modifier = m.one_of(&["NaN", "relu"]).unwrap_or("");
        let sat = m.eat("sat");
        let ty = m.ty()?;
        let sources = match name {
            "fma" | "mad" => 3,
            "neg" | "abs" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
            _ => 2,
        };
        let from = &[ty; 3][..sources];
        if ty.is_int() && rounding.is_none() && !ftz && !sat && modifier.is_empty() {
            let run = int::plain(name, ty).ok_or_else(|| m.bad_last())?;
            return Ok((self.map(run, ty, from, operands)?, Class::Integer));
        }
        if let Some(written @ ("rz" | "rm" | "rp")) = rounding {
            let fits = ty == Type::F32 && !sat && modifier.is_empty();
            let run = directed::directed(name, mode(Some(written)), ftz).filter(|_| fits);
            return Ok((self.map(run.ok_or_else(|| m.bad_last())?, ty, from, operands)?, Class::F32));
        }
        // Rounding is written where it must be, and may be where nearest is the default.
        let rounding_fits = match name {
            "add" | "sub" | "mul" => matches!(rounding, None | Some("rn")),
            "fma" | "mad" => rounding == Some("rn"),
            "div" | "rcp" | "sqrt" => rounding.is_some(),
            "min" | "max" | "neg" | "abs" => rounding.is_none(),
            _ => rounding == Some("approx"),
        };
        if !rounding_fits {
            return Err(m.bad_last());
        }
        if let Some(kind @ ("approx" | "full")) = rounding {
            if ty != Type::F32 || sat || !modifier.is_empty() {
                return Err(m.bad_last());
            }
            let run = approx::approximate(name, kind, ftz).ok_or_else(|| m.bad_last())?;
            return Ok((self.map(run, ty, from, operands)?, Class::Approximate));
        }
        let run = match ty {
            Type::F32 if modifier != "relu" => {
                let sat_fits = !sat || matches!(name, "add" | "sub" | "mul" | "fma" | "mad");
                float::f32_op(name, modifier == "NaN", ftz, sat).filter(|_| sat_fits)
            }
            Type::F64 if !ftz && !sat && modifier.is_empty() => float::f64_op(name),
            _ if !ftz && !sat => half::half_op(name, modifier, ty),
            _ => None,
        };
        let run = run.ok_or_else(|| m.bad_last())?;
        // Halves stand in plain 16- and 32-bit registers, and PTX has no constants of them.
        let halves = class(ty) == Class::Half;
        if halves && operands.iter().any(|o| !matches!(o, Operand::Name(_))) {
            return Err(self.operand_error("halves take registers alone"));
        }
        let held = match ty {
            Type::F16 | Type::BF16 => Type::B16,
            Type::F16x2 | Type::BF16x2 => Type::B32,
            _ => ty,
        };
        Ok((self.map(run, held, &[held; 3][..sources], operands)?, class(ty)))
    }

    fn product(&mut self, m: &mut Modifiers, part: &str, operands: &[Operand]) -> Decoded {
        let ty = m.ty()?;
        let (part, result) = match part {
            "lo" => (int::Part::Low, ty),
            "hi" => (int::Part::High, ty),
            _ => {
                let wide = match ty {
                    Type::U16 => Type::U32,
                    Type::S16 => Type::S32,
                    Type::U32 => Type::U64,
                    Type::S32 => Type::S64,
                    _ => return Err(m.bad_last()),
                };
                (int::Part::Wide, wide)
            }
        };
        let run = int::mad(part, ty).ok_or_else(|| m.bad_last())?;
        if m.name() == "mad" {
            return Ok((self.map(run, result, &[ty, ty, result], operands)?, Class::Integer));
        }
        let mut op = self.map(run, result, &[ty, ty], operands)?;
        let zero = self.constant(0);
        if let Op::Map { from, .. } = &mut op {
            from[2] = zero;
        }
        Ok((op, Class::Integer))
    }

    pub(super) fn bits(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let name = m.name();
        if let ("and" | "or" | "xor" | "not", true) = (name, m.eat("pred")) {
            return self.predicate_logic(name, operands);
        }
        let b32 = Type::B32;
        let op = match name {
            "lop3" => {
                m.need("b32")?;
                self.map(int::lop3(), b32, &[b32; 4], operands)?
            }
            "prmt" => {
                m.need("b32")?;
                self.map(int::prmt(), b32, &[b32; 3], operands)?
            }
            "bfind" => {
                let shift = m.eat("shiftamt");
                let ty = m.ty()?;
                let run = int::bfind(ty, shift).ok_or_else(|| m.bad_last())?;
                self.map(run, b32, &[ty], operands)?
            }
            "dp4a" => {
                let signs = [m.ty()?, m.ty()?];
                let run = int::dp4a(signs).ok_or_else(|| m.bad_last())?;
                self.map(run, b32, &[b32; 3], operands)?
            }
            "shf" => {
                let left = m.need_one(&["l", "r"])? == "l";
                let wrap = m.need_one(&["wrap", "clamp"])? == "wrap";
                m.need("b32")?;
                self.map(int::shf(left, wrap), b32, &[b32; 3], operands)?
            }
            _ => {
                let ty = m.ty()?;
                let run = match name {
                    "bfe" => int::bfe(ty),
                    "bfi" => int::bfi(ty),
                    _ => int::plain(name, ty),
                };
                let run = run.ok_or_else(|| m.bad_last())?;
                match name {
                    "shl" | "shr" => self.map(run, ty, &[ty, b32], operands)?,
                    "bfe" => self.map(run, ty, &[ty, b32, b32], operands)?,
                    "bfi" => self.map(run, ty, &[ty, ty, b32, b32], operands)?,
                    "popc" | "clz" => self.map(run, b32, &[ty], operands)?,
                    "not" | "brev" => self.map(run, ty, &[ty], operands)?,
                    _ => self.map(run, ty, &[ty, ty], operands)?,
                }
            }
        };
        Ok((op, Class::Integer))
    }

    fn predicate_logic(&mut self, name: &str, operands: &[Operand]) -> Decoded {
        let to = match operands.first() {
            Some(Operand::Name(name)) => self.predicate(name)?,
            _ => return Err(self.operand_error("a predicate expected")),
        };
        if name == "not" {
            let [_, a] = self.exactly(operands)?;
            let (from, negated) = self.predicate_source(a)?;
            return Ok((Op::MovePredicate { to, from: (from, !negated) }, Class::Move));
        }
        let [_, a, b] = self.exactly(operands)?;
        let from = [self.predicate_source(a)?, self.predicate_source(b)?];
        let logic = logic(name).ok_or_else(|| self.operand_error("no such logic"))?;
        Ok((Op::PredicateLogic { logic, to, from }, Class::Move))
    }

    pub(super) fn compare(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        const NAMES: [&str; 18] = [
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
            "geu", "num", "nan",
        ];
        let name = m.need_one(&NAMES)?;
        let with = m.one_of(&["and", "or", "xor"]);
        let ftz = m.eat("ftz");
        let ty = m.ty()?;
        let run = compare::comparison(name, ty, ftz).ok_or_else(|| m.bad_last())?;
        let count = 3 + usize::from(with.is_some());
        if operands.len() != count {
            return Err(self.operand_error(format!("{count} operands expected")));
        }
        let (to, opposite) = match &operands[0] {
            Operand::Name(p) => (self.predicate(p)?, None),
            Operand::Pair(p, q) => (self.predicate(p)?, Some(self.predicate(q)?)),
            _ => return Err(self.operand_error("a predicate expected")),
        };
        let held = if matches!(ty, Type::F16 | Type::BF16) { Type::B16 } else { ty };
        let from =
            [self.source(&operands[1], held, Width::Exact)?, self.source(&operands[2], held, Width::Exact)?];
        let with = match with.and_then(logic) {
            Some(logic) => Some((logic, self.predicate_source(&operands[3])?)),
            None => None,
        };
        Ok((Op::Test { run, to, opposite, from, with }, class(ty)))
    }

    pub(super) fn select(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let ty = m.ty()?;
        if ty.bits() == 8 || matches!(ty, Type::F16x2 | Type::BF16x2) {
            return Err(m.bad_last());
        }
        let [to, a, b, p] = self.exactly(operands)?;
        let to = self.target(to, ty, Width::Exact)?;
        let from = [self.source(a, ty, Width::Exact)?, self.source(b, ty, Width::Exact)?];
        Ok((Op::Select { to, from, by: self.predicate_source(p)? }, Class::Move))
    }

    /// `slct.type.s32 d, a, b, c`: a where c is not negative.
    pub(super) fn select_by_sign(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let ftz = m.eat("ftz");
        let (ty, by) = (m.ty()?, m.ty()?);
        let plain = ty.bits() > 8 && !matches!(ty, Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2);
        let run: WarpFn = match by {
            Type::S32 if plain && !ftz => warp!(|a, b, c| if c as u32 as i32 >= 0 { a } else { b }),
            // Flushed or not, what is negative stays below zero or becomes one that is not.
            Type::F32 if plain && ftz => warp!(|a, b, c| {
                let c = f32::from_bits(c as u32);
                if c >= 0.0 || c.is_subnormal() { a } else { b }
            }),
            Type::F32 if plain => warp!(|a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b }),
            _ => return Err(m.bad_last()),
        };
        Ok((self.map(run, ty, &[ty, ty, by], operands)?, Class::Move))
    }

    /// `isspacep.space p, a`: whether a generic address is in a space.
    pub(super) fn is_in_space(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let space = m.need_one(&["global", "shared", "shared::cta", "local", "param"])?;
        let run = compare::in_space(space);
        let [Operand::Name(to), a] = self.exactly(operands)? else {
            return Err(self.operand_error("a predicate expected"));
        };
        let a = self.source(a, Type::U64, Width::Exact)?;
        let to = self.predicate(to)?;
        Ok((Op::Test { run, to, opposite: None, from: [a, a], with: None }, Class::Move))
    }

    pub(super) fn convert(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let rounding = m.one_of(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"]);
        let relu = m.eat("relu");
        let ftz = m.eat("ftz");
        let sat = m.eat("sat");
        let (to, from) = (m.ty()?, m.ty()?);
        let mode = mode(rounding);
        let integral = rounding.is_some_and(|r| r.ends_with('i'));
        let pair = match to {
            Type::F16x2 => Some(Type::F16),
            Type::BF16x2 => Some(Type::BF16),
            _ => None,
        };
        if let Some(half) = pair {
            let fits = from == Type::F32 && matches!(rounding, Some("rn" | "rz")) && !ftz && !sat;
            if !fits {
                return Err(m.bad_last());
            }
            let [d, a, b] = self.exactly(operands)?;
            let how = Conversion { to: half, from, mode, integral, ftz, sat, relu, register: 16 };
            let sources = [self.source(a, from, Width::Exact)?, self.source(b, from, Width::Exact)?];
            let to = self.target(d, Type::B32, Width::Exact)?;
            return Ok((Op::ConvertPair { how, to, from: sources }, Class::Convert));
        }
        let narrows = |a: Type, b: Type| format(a).map(|f| f.mantissa) < format(b).map(|f| f.mantissa);
        let rounding_fits = match (from.is_float(), to.is_float()) {
            (false, false) => rounding.is_none() && from.is_int() && to.is_int(),
            (true, false) => integral && to.is_int(),
            (false, true) => rounding.is_some() && !integral && from.is_int(),
            (true, true) if from == to => rounding.is_none() || integral,
            (true, true) if narrows(to, from) => rounding.is_some() && !integral,
            // f16 to bf16 is not PTX; to wider formats nothing is rounded.
            (true, true) => rounding.is_none() && !(from == Type::F16 && to == Type::BF16),
        };
        let half_pair = matches!((from, to), (Type::F16, Type::BF16) | (Type::BF16, Type::F16));
        let relu_fits = !relu || from == Type::F32 && matches!(to, Type::F16 | Type::BF16);
        if !rounding_fits || half_pair || !relu_fits || ftz && from != Type::F32 && to != Type::F32 {
            return Err(m.bad_last());
        }
        let [d, a] = self.exactly(operands)?;
        let (target, register) = self.target_with_width(d, to)?;
        let held = |ty| if matches!(ty, Type::F16 | Type::BF16) { Type::B16 } else { ty };
        let source = self.source(a, held(from), Width::AtLeast)?;
        let how = Conversion { to, from, mode, integral, ftz, sat, relu, register };
        Ok((Op::Convert { how, to: target, from: source }, Class::Convert))
    }

    fn target_with_width(&self, operand: &Operand, ty: Type) -> Result<(u32, u32)> {
        let reg = self.target(operand, ty, Width::AtLeast)?;
        let bits = match operand {
            Operand::Name(name) => match self.find(name) {
                Some(super::Register::Data(_, declared)) => declared.bits(),
                _ => ty.bits(),
            },
            _ => ty.bits(),
        };
        Ok((reg, bits))
    }

    /// The bits of the register that a load fills with the sign of a signed type.
    pub(super) fn register_bits(&self, operand: &Operand, ty: Type) -> Result<u32> {
        self.target_with_width(operand, ty).map(|(_, bits)| bits)
    }
}

/// The rounding of a modifier, to floats or to integers; to nearest when there is none.
fn mode(modifier: Option<&str>) -> Rounding {
    match modifier.unwrap_or("rn").trim_end_matches('i') {
        "rz" => Rounding::Zero,
        "rm" => Rounding::Down,
        "rp" => Rounding::Up,
        _ => Rounding::Nearest,
    }
}

pub(super) fn logic(name: &str) -> Option<Logic> {
    match name {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    }
}
