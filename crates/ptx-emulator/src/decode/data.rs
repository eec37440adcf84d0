//! Moves, loads and stores, atomics, asynchronous copies, matrices.

use super::modifiers::Modifiers;
use super::{Decoder, Width};
use crate::arith::warp;
use crate::ast::{Operand, Storage};
use crate::error::Refusal;
use crate::fault::Space;
use crate::parse::Result;
use crate::profile::Class;
use crate::program::{Address, Atomic, LOCAL_WINDOW, Op, PARAM_WINDOW, Reg, SHARED_WINDOW};
use crate::types::Type;

type Decoded = Result<(Op, Class)>;

/// Modifiers of loads and stores that steer caches: they make no difference to what is read.
const CACHE: [&str; 7] = ["ca", "cg", "cs", "cv", "lu", "wb", "wt"];
const EVICTION: [&str; 5] =
    ["L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"];
const PREFETCH: [&str; 3] = ["L2::64B", "L2::128B", "L2::256B"];
const SCOPES: [&str; 4] = ["cta", "cluster", "gpu", "sys"];

impl Decoder<'_> {
    pub(super) fn mov(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let [d, a] = self.exactly(operands)?;
        if m.eat("pred") {
            let to = match d {
                Operand::Name(name) => self.predicate(name)?,
                _ => return Err(self.operand_error("a predicate expected")),
            };
            if let Operand::Int(value) = a {
                return Ok((Op::PredicateConstant { to, value: *value != 0 }, Class::Move));
            }
            return Ok((Op::MovePredicate { to, from: self.predicate_source(a)? }, Class::Move));
        }
        let ty = m.ty()?;
        if matches!(ty.bits(), 8) || matches!(ty, Type::F16x2 | Type::BF16x2) {
            return Err(m.bad_last());
        }
        let part_type = |count: usize| match ty.bits() / count as u32 {
            16 => Ok(Type::B16),
            32 => Ok(Type::B32),
            _ => Err(self.operand_error("parts of 16 or 32 bits expected")),
        };
        match (d, a) {
            (_, Operand::Vector(parts)) if parts.len() > 1 => {
                let part = part_type(parts.len())?;
                let from = parts.iter().map(|p| self.source(p, part, Width::Exact)).collect::<Result<_>>()?;
                let to = self.target(d, ty, Width::Exact)?;
                Ok((Op::Pack { to, from, bits: part.bits() }, Class::Move))
            }
            (Operand::Vector(parts), _) if parts.len() > 1 => {
                let part = part_type(parts.len())?;
                let to = parts
                    .iter()
                    .map(|p| self.target_or_sink(p, part, Width::Exact))
                    .collect::<Result<_>>()?;
                let from = self.source(a, ty, Width::Exact)?;
                Ok((Op::Unpack { to, from, bits: part.bits() }, Class::Move))
            }
            _ => {
                let to = self.target(d, ty, Width::Exact)?;
                let from = self.movable(a, ty)?;
                Ok((Op::Map { run: warp!(|a| a), to, from: [from, 0, 0, 0] }, Class::Move))
            }
        }
    }

    /// A register, a constant, a special register or the address of a variable.
    fn movable(&mut self, operand: &Operand, ty: Type) -> Result<Reg> {
        let Operand::Name(name) = operand else {
            return self.source(operand, ty, Width::Exact);
        };
        if self.find(name).is_some() || name == "WARP_SZ" {
            return self.source(operand, ty, Width::Exact);
        }
        if name.starts_with('%') {
            let what =
                super::control::special(name).ok_or_else(|| self.refuse(Refusal::Name(name.clone())))?;
            if ty.bits() != 32 {
                return Err(self.operand_error(format!("`{name}` has 32 bits")));
            }
            return Ok(self.filled(what));
        }
        let (storage, address) = self.symbol(name)?;
        let fits = ty.bits() == 64 || ty.bits() == 32 && matches!(storage, Storage::Shared | Storage::Local);
        if !fits || ty.is_float() {
            return Err(self.operand_error(format!("the address of `{name}` cannot be moved so")));
        }
        Ok(self.constant(address))
    }

    /// `cvta{.to}.space.u64`: generic addresses are those of global memory, and two windows.
    pub(super) fn convert_address(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        let to_space = m.eat("to");
        let window = match m.need_one(&["global", "const", "shared", "shared::cta", "local", "param"])? {
            "param" => PARAM_WINDOW,
            "shared" | "shared::cta" => SHARED_WINDOW,
            "local" => LOCAL_WINDOW,
            _ => 0,
        };
        m.need("u64")?;
        let [d, a] = self.exactly(operands)?;
        let to = self.target(d, Type::U64, Width::Exact)?;
        let a = self.movable(a, Type::U64)?;
        let shift = self.constant(if to_space { window.wrapping_neg() } else { window });
        Ok((Op::Map { run: warp!(|a, b| a.wrapping_add(b)), to, from: [a, shift, 0, 0] }, Class::Integer))
    }

    /// The space that modifiers name, and the storage a variable must have to be named in its addresses.
    fn space(&self, m: &mut Modifiers) -> (Space, Option<Storage>) {
        match m.one_of(&["global", "const", "shared", "shared::cta", "local", "param"]) {
            Some("global") => (Space::Global, Some(Storage::Global)),
            Some("const") => (Space::Global, Some(Storage::Const)),
            Some("local") => (Space::Local, Some(Storage::Local)),
            Some("param") => (Space::Param, Some(Storage::Param)),
            Some(_) => (Space::Shared, Some(Storage::Shared)),
            None => (Space::Generic, None),
        }
    }

    fn address(&mut self, operand: &Operand, (space, storage): (Space, Option<Storage>)) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return Err(self.operand_error("an address expected"));
        };
        let base = match &**base {
            Operand::Name(name) if self.find(name).is_none() => {
                let (found, address) = self.symbol(name)?;
                if storage != Some(found) {
                    return Err(self.operand_error(format!("`{name}` is not in {space} memory")));
                }
                self.constant(address)
            }
            // Registers of 32 bits reach shared and local memory alone.
            name @ Operand::Name(_) if matches!(space, Space::Shared | Space::Local) => {
                self.source(name, Type::B32, Width::AtLeast)?
            }
            other => self.source(other, Type::B64, Width::Exact)?,
        };
        Ok(Address { base, offset: *offset })
    }

    fn class(space: Space) -> Class {
        match space {
            Space::Shared => Class::Shared,
            Space::Local => Class::Local,
            Space::Param => Class::Param,
            Space::Global | Space::Generic => Class::Global,
        }
    }

    /// The vector and the type of a load or a store.
    fn shape(&self, m: &mut Modifiers) -> Result<(usize, Type)> {
        let count = match m.one_of(&["v2", "v4"]) {
            Some("v2") => 2,
            Some(_) => 4,
            None => 1,
        };
        let ty = m.ty()?;
        let scalar = ty.is_int() || ty.is_bits() || matches!(ty, Type::F32 | Type::F64);
        if !scalar || count as u64 * ty.bytes() > 16 {
            return Err(m.bad_last());
        }
        Ok((count, ty))
    }

    pub(super) fn load(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        if let Some("relaxed" | "acquire") = m.one_of(&["weak", "volatile", "relaxed", "acquire"]) {
            m.need_one(&SCOPES)?;
        }
        let space = self.space(m);
        let cached = m.one_of(&CACHE[..5]).is_some();
        if !cached && space.0 == Space::Global {
            m.eat("nc");
        }
        m.one_of(&EVICTION);
        m.one_of(&PREFETCH);
        let (count, ty) = self.shape(m)?;
        let [d, a] = self.exactly(operands)?;
        let parts = self.parts(d, count)?;
        let to = parts.iter().map(|p| self.target_or_sink(p, ty, Width::AtLeast)).collect::<Result<_>>()?;
        let sign = match parts.iter().find(|p| !matches!(p, Operand::Name(n) if n == "_")) {
            Some(part) if ty.is_signed() => {
                Some(self.register_bits(part, ty)?).filter(|&register| register != ty.bits())
            }
            _ => None,
        };
        let at = self.address(a, space)?;
        Ok((Op::Load { space: space.0, bytes: ty.bytes(), sign, to, at }, Self::class(space.0)))
    }

    pub(super) fn store(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        if let Some("relaxed" | "release") = m.one_of(&["weak", "volatile", "relaxed", "release"]) {
            m.need_one(&SCOPES)?;
        }
        let space = self.space(m);
        if space.0 == Space::Param || space.1 == Some(Storage::Const) {
            return Err(m.bad_last());
        }
        m.one_of(&["wb", "cg", "cs", "wt"]);
        m.one_of(&EVICTION);
        let (count, ty) = self.shape(m)?;
        let [a, b] = self.exactly(operands)?;
        let at = self.address(a, space)?;
        // One part may stand without braces, and be a constant.
        let parts = if count == 1 { std::slice::from_ref(unwrapped(b)) } else { self.parts(b, count)? };
        let from = parts.iter().map(|p| self.source(p, ty, Width::AtLeast)).collect::<Result<_>>()?;
        Ok((Op::Store { space: space.0, bytes: ty.bytes(), from, at }, Self::class(space.0)))
    }

    pub(super) fn atomic(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        m.one_of(&["relaxed", "acquire", "release", "acq_rel"]);
        m.one_of(&SCOPES);
        let space = self.space(m);
        if !matches!(space.0, Space::Global | Space::Shared | Space::Generic)
            || space.1 == Some(Storage::Const)
        {
            return Err(m.bad_last());
        }
        let returns = m.name() == "atom";
        let (what, types): (_, &[Type]) =
            match m.need_one(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"])? {
                "add" => (Atomic::Add, &[Type::U32, Type::S32, Type::U64, Type::F32, Type::F64]),
                "min" => (Atomic::Min, &[Type::U32, Type::S32, Type::U64, Type::S64]),
                "max" => (Atomic::Max, &[Type::U32, Type::S32, Type::U64, Type::S64]),
                "and" => (Atomic::And, &[Type::B32, Type::B64]),
                "or" => (Atomic::Or, &[Type::B32, Type::B64]),
                "xor" => (Atomic::Xor, &[Type::B32, Type::B64]),
                "inc" => (Atomic::Increment, &[Type::U32]),
                "dec" => (Atomic::Decrement, &[Type::U32]),
                "exch" if returns => (Atomic::Exchange, &[Type::B32, Type::B64]),
                "cas" if returns => (Atomic::CompareAndSwap, &[Type::B32, Type::B64]),
                _ => return Err(m.bad_last()),
            };
        let ty = m.ty()?;
        if !types.contains(&ty) {
            return Err(m.bad_last());
        }
        let (d, rest) = match operands {
            [d, rest @ ..] if returns => (self.target_or_sink(d, ty, Width::Exact)?, rest),
            _ => (None, operands),
        };
        let sources = if what == Atomic::CompareAndSwap { 2 } else { 1 };
        if rest.len() != sources + 1 {
            return Err(self.operand_error("an address and the sources of the operation expected"));
        }
        let at = self.address(&rest[0], space)?;
        let b = self.source(&rest[1], ty, Width::Exact)?;
        let c = if sources == 2 { self.source(&rest[2], ty, Width::Exact)? } else { b };
        // What an atomic returns, and the order of float sums, depend on the order of blocks.
        self.ordered |= space.0 != Space::Shared;
        Ok((Op::Atomic { space: space.0, what, ty, to: d, at, from: [b, c] }, Class::Atomic))
    }

    pub(super) fn async_copy(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        m.need("async")?;
        match m.need_one(&["ca", "cg", "commit_group", "wait_group", "wait_all"])? {
            "commit_group" => {
                let [] = self.exactly(operands)?;
                Ok((Op::AsyncCommit, Class::Synchronise))
            }
            "wait_all" => {
                let [] = self.exactly(operands)?;
                Ok((Op::AsyncWait { left: 0, uncommitted: true }, Class::Synchronise))
            }
            "wait_group" => match self.exactly(operands)? {
                [Operand::Int(left)] => {
                    Ok((Op::AsyncWait { left: *left, uncommitted: false }, Class::Synchronise))
                }
                _ => Err(self.operand_error("a constant expected")),
            },
            cache => {
                m.need_one(&["shared", "shared::cta"])?;
                m.need("global")?;
                m.one_of(&PREFETCH);
                let (&[ref d, ref a, Operand::Int(bytes)] | &[ref d, ref a, Operand::Int(bytes), _]) =
                    operands
                else {
                    return Err(self.operand_error("two addresses and a constant size expected"));
                };
                if bytes != 16 && (cache == "cg" || bytes != 4 && bytes != 8) {
                    return Err(self.operand_error(format!("{bytes} bytes cannot be copied so")));
                }
                let to = self.address(d, (Space::Shared, Some(Storage::Shared)))?;
                let from = self.address(a, (Space::Global, Some(Storage::Global)))?;
                let source_bytes = match operands.get(3) {
                    Some(n) => Some(self.source(n, Type::B32, Width::Exact)?),
                    None => None,
                };
                Ok((Op::AsyncCopy { bytes, to, from, source_bytes }, Class::Global))
            }
        }
    }

    pub(super) fn matrix_load(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        m.need("sync")?;
        m.need("aligned")?;
        m.need("m8n8")?;
        let count = match m.need_one(&["x1", "x2", "x4"])? {
            "x1" => 1,
            "x2" => 2,
            _ => 4,
        };
        let transposed = m.eat("trans");
        m.need_one(&["shared", "shared::cta"])?;
        m.need("b16")?;
        let [d, a] = self.exactly(operands)?;
        let to = self
            .parts(d, count)?
            .iter()
            .map(|p| self.target(p, Type::B32, Width::Exact))
            .collect::<Result<_>>()?;
        let at = self.address(a, (Space::Shared, Some(Storage::Shared)))?;
        Ok((Op::MatrixLoad { to, at, transposed }, Class::Shared))
    }

    pub(super) fn matrix_multiply(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded {
        m.need("sync")?;
        m.need("aligned")?;
        let depth = if m.need_one(&["m16n8k16", "m16n8k8"])? == "m16n8k16" { 16 } else { 8 };
        for modifier in ["row", "col", "f32"] {
            m.need(modifier)?;
        }
        let half = m.need_one(&["f16", "bf16"])?;
        m.need(half)?;
        m.need("f32")?;
        let ty = if half == "f16" { Type::F16 } else { Type::BF16 };
        let [d, a, b, c] = self.exactly(operands)?;
        let mut all = |operand, count, ty| -> Result<Vec<Reg>> {
            self.parts(operand, count)?.iter().map(|p| self.source(p, ty, Width::Exact)).collect()
        };
        let (a, b) = (all(a, depth / 4, Type::B32)?, all(b, depth / 8, Type::B32)?);
        let c = all(c, 4, Type::F32)?;
        let to = self
            .parts(d, 4)?
            .iter()
            .map(|p| self.target(p, Type::F32, Width::Exact))
            .collect::<Result<Vec<_>>>()?;
        let four = |v: Vec<Reg>| [v[0], v[1], v[2], v[3]];
        Ok((Op::MatrixMultiply { ty, to: four(to), a, b, c: four(c) }, Class::Matrix))
    }
}

/// The one part of a vector of one.
fn unwrapped(operand: &Operand) -> &Operand {
    match operand {
        Operand::Vector(parts) if parts.len() == 1 => &parts[0],
        _ => operand,
    }
}
