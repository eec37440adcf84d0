//! Statements into instructions: names resolved, modifiers understood one by one, operands checked.

mod arithmetic;
mod carry;
mod control;
mod data;
mod modifiers;
mod names;
mod places;

use std::collections::HashMap;

use crate::ast::{Entry, Operand, Statement, Storage, Table};
use crate::error::{Located, Refusal};
use crate::parse::Result;
use crate::profile::Class;
use crate::program::{Filled, Instruction, Op, Pred, PredSource, Program, Reg};
use crate::types::Type;
use modifiers::Modifiers;

pub(crate) use names::Symbols;

/// What a name in `.reg` stands for.
#[derive(Debug, Clone, Copy)]
enum Register {
    Data(Reg, Type),
    Predicate(Pred),
}

/// How wide a register may be next to the type of the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Exact,
    /// As in `ld`, `st` and `cvt`.
    AtLeast,
}

struct Decoder<'a> {
    entry: &'a Entry,
    scopes: Vec<HashMap<String, Register>>,
    labels: HashMap<(usize, &'a str), usize>,
    tables: HashMap<(usize, &'a str), &'a Table>,
    symbols: Symbols,
    registers: Reg,
    predicates: Pred,
    filled: HashMap<Filled, Reg>,
    /// The carry of each lane, which no register declares.
    carry: Option<Pred>,
    /// The statement at hand.
    line: u32,
    scope: usize,
    ordered: bool,
}

/// Decodes an entry. `symbols` are the variables of the module.
pub(crate) fn decode(entry: &Entry, symbols: &Symbols) -> Result<Program> {
    let mut symbols = symbols.clone();
    let layout = symbols.add_entry(entry)?;
    let mut decoder = Decoder {
        entry,
        scopes: Vec::new(),
        labels: HashMap::new(),
        tables: HashMap::new(),
        symbols,
        registers: 0,
        predicates: 0,
        filled: HashMap::new(),
        carry: None,
        line: entry.line,
        scope: 0,
        ordered: false,
    };
    decoder.declare()?;
    let mut instructions = Vec::with_capacity(entry.body.len() + 1);
    for statement in &entry.body {
        instructions.push(decoder.statement(statement)?);
    }
    // A body may end without a `ret`.
    let line = entry.body.last().map_or(entry.line, |s| s.line);
    instructions.push(Instruction { line, guard: None, class: Class::Control, counter: 0, op: Op::Exit });
    let mut counted = Vec::new();
    for instruction in &mut instructions {
        if matches!(instruction.class, Class::Global | Class::Shared | Class::Atomic) {
            instruction.counter = counted.len();
            counted.push(instruction.line);
        }
    }
    let filled = decoder.filled.into_iter().map(|(what, reg)| (reg, what)).collect();
    let places = places::place(&mut instructions, decoder.registers as usize, filled);
    Ok(Program {
        name: entry.name.clone(),
        instructions,
        constants: places.constants.iter().map(|&value| [value; 32]).collect(),
        registers: places.count,
        predicates: decoder.predicates as usize,
        filled: places.filled,
        zeroed: places.zeroed,
        counted,
        params: layout.params,
        param_bytes: layout.param_bytes,
        shared_bytes: layout.shared_bytes,
        local_bytes: layout.local_bytes,
        max_threads: entry.max_threads,
        required_threads: entry.required_threads,
        ordered: decoder.ordered,
    })
}

impl<'a> Decoder<'a> {
    /// Registers and labels.
    fn declare(&mut self) -> Result<()> {
        self.scopes = self.entry.scopes.iter().map(|_| HashMap::new()).collect();
        for declared in &self.entry.registers {
            let names = match declared.count {
                Some(count) => (0..count).map(|i| format!("{}{i}", declared.name)).collect(),
                None => vec![declared.name.clone()],
            };
            for name in names {
                let register = match declared.ty {
                    Some(ty) => {
                        self.registers += 1;
                        Register::Data(self.registers - 1, ty)
                    }
                    None => {
                        self.predicates += 1;
                        Register::Predicate(self.predicates - 1)
                    }
                };
                if self.scopes[declared.scope].insert(name, register).is_some() {
                    return Err(Located::syntax(declared.line, "a register declared twice"));
                }
            }
        }
        for label in &self.entry.labels {
            if self.labels.insert((label.scope, &label.name), label.at).is_some() {
                return Err(Located::syntax(label.line, "a label that stands twice"));
            }
        }
        for table in &self.entry.tables {
            if self.tables.insert((table.scope, &table.name), table).is_some() {
                return Err(Located::syntax(table.line, "a table of labels that stands twice"));
            }
        }
        Ok(())
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<Instruction> {
        (self.line, self.scope) = (statement.line, statement.scope);
        let guard = match &statement.guard {
            Some((negated, name)) => Some((self.predicate(name)?, *negated)),
            None => None,
        };
        let mut m = Modifiers::new(&statement.opcode, statement.line);
        let operands = &statement.operands;
        let decoded = match m.name() {
            "add" | "sub" | "mad" if m.has("cc") => self.carry(&mut m, operands)?,
            "addc" | "subc" | "madc" => self.carry(&mut m, operands)?,
            "mul24" | "mad24" => self.product_of_24(&mut m, operands)?,
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "neg" | "abs" | "rcp"
            | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
                self.arithmetic(&mut m, operands)?
            }
            "and" | "or" | "xor" | "not" | "shl" | "shr" | "popc" | "clz" | "brev" | "bfe" | "bfi"
            | "lop3" | "prmt" | "shf" | "bfind" | "dp4a" => self.bits(&mut m, operands)?,
            "cvt" => self.convert(&mut m, operands)?,
            "setp" => self.compare(&mut m, operands)?,
            "selp" => self.select(&mut m, operands)?,
            "slct" => self.select_by_sign(&mut m, operands)?,
            "isspacep" => self.is_in_space(&mut m, operands)?,
            "mov" => self.mov(&mut m, operands)?,
            "cvta" => self.convert_address(&mut m, operands)?,
            "ld" => self.load(&mut m, operands)?,
            "st" => self.store(&mut m, operands)?,
            "atom" | "red" => self.atomic(&mut m, operands)?,
            "cp" => self.async_copy(&mut m, operands)?,
            "ldmatrix" => self.matrix_load(&mut m, operands)?,
            "mma" => self.matrix_multiply(&mut m, operands)?,
            "bra" | "brx" | "ret" | "exit" | "trap" => self.control(&mut m, operands)?,
            "bar" | "barrier" | "membar" | "fence" | "nanosleep" => self.synchronise(&mut m, operands)?,
            "shfl" | "vote" | "match" | "activemask" | "redux" => self.warp(&mut m, operands)?,
            _ => return Err(self.refuse(Refusal::Instruction(statement.opcode.clone()))),
        };
        m.end()?;
        Ok(Instruction { line: statement.line, guard, class: decoded.1, counter: 0, op: decoded.0 })
    }

    fn refuse(&self, reason: Refusal) -> Located {
        Located::new(self.line, reason)
    }

    fn operand_error(&self, what: impl Into<String>) -> Located {
        self.refuse(Refusal::Operand(what.into()))
    }

    fn find(&self, name: &str) -> Option<Register> {
        let mut scope = self.scope;
        loop {
            if let Some(&found) = self.scopes[scope].get(name) {
                return Some(found);
            }
            if scope == 0 {
                return None;
            }
            scope = self.entry.scopes[scope];
        }
    }

    /// What a name stands for in this scope or in the nearest one around it.
    fn nearest<T: Copy>(&self, of: &HashMap<(usize, &'a str), T>, name: &str, scope: usize) -> Result<T> {
        let mut scope = scope;
        loop {
            if let Some(&found) = of.get(&(scope, name)) {
                return Ok(found);
            }
            if scope == 0 {
                return Err(self.refuse(Refusal::Name(name.to_owned())));
            }
            scope = self.entry.scopes[scope];
        }
    }

    fn label(&self, name: &str) -> Result<usize> {
        self.nearest(&self.labels, name, self.scope)
    }

    /// The instructions that a table of labels names.
    fn table(&self, name: &str) -> Result<Vec<usize>> {
        let table = self.nearest(&self.tables, name, self.scope)?;
        table.labels.iter().map(|label| self.nearest(&self.labels, label, table.scope)).collect()
    }

    fn predicate(&self, name: &str) -> Result<Pred> {
        match self.find(name) {
            Some(Register::Predicate(p)) => Ok(p),
            Some(Register::Data(..)) => Err(self.operand_error(format!("`{name}` is not a predicate"))),
            None => Err(self.refuse(Refusal::Name(name.to_owned()))),
        }
    }

    fn predicate_source(&self, operand: &Operand) -> Result<PredSource> {
        match operand {
            Operand::Name(name) => Ok((self.predicate(name)?, false)),
            Operand::Not(name) => Ok((self.predicate(name)?, true)),
            _ => Err(self.operand_error("a predicate expected")),
        }
    }

    /// A register that holds this from the start.
    fn filled(&mut self, what: Filled) -> Reg {
        let next = self.registers;
        let reg = *self.filled.entry(what).or_insert(next);
        self.registers += Reg::from(reg == next);
        reg
    }

    fn constant(&mut self, value: u64) -> Reg {
        self.filled(Filled::Constant(value))
    }

    fn data(&self, name: &str, ty: Type, width: Width) -> Result<Reg> {
        match self.find(name) {
            Some(Register::Data(reg, declared)) => {
                let fits = match width {
                    Width::Exact => declared.bits() == ty.bits(),
                    Width::AtLeast => declared.bits() >= ty.bits(),
                };
                let bits = (declared.bits(), ty.bits());
                fits.then_some(reg).ok_or_else(|| {
                    self.operand_error(format!("`{name}` has {} bits where {} are needed", bits.0, bits.1))
                })
            }
            Some(Register::Predicate(_)) => Err(self.operand_error(format!("`{name}` is a predicate"))),
            None => Err(self.refuse(Refusal::Name(name.to_owned()))),
        }
    }

    /// A register to write.
    fn target(&self, operand: &Operand, ty: Type, width: Width) -> Result<Reg> {
        match operand {
            Operand::Name(name) => self.data(name, ty, width),
            _ => Err(self.operand_error("a register expected")),
        }
    }

    /// A register to write, or `_`.
    fn target_or_sink(&self, operand: &Operand, ty: Type, width: Width) -> Result<Option<Reg>> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(None),
            _ => self.target(operand, ty, width).map(Some),
        }
    }

    /// A register or a constant to read.
    fn source(&mut self, operand: &Operand, ty: Type, width: Width) -> Result<Reg> {
        match *operand {
            Operand::Name(ref name) if name == "WARP_SZ" => Ok(self.constant(32)),
            Operand::Name(ref name) => self.data(name, ty, width),
            Operand::Int(value) if !ty.is_float() => Ok(self.constant(value & ty.mask())),
            Operand::F32(bits) if matches!(ty, Type::F32 | Type::B32) => Ok(self.constant(bits.into())),
            Operand::F64(bits) if matches!(ty, Type::F64 | Type::B64) => Ok(self.constant(bits)),
            _ => Err(self.operand_error("an operand that the instruction does not take")),
        }
    }

    /// The operands, when there are as many as these.
    fn exactly<'o, const N: usize>(&self, operands: &'o [Operand]) -> Result<&'o [Operand; N]> {
        operands.try_into().map_err(|_| self.operand_error(format!("{N} operands expected")))
    }

    /// The parts of a vector operand, of as many as these.
    fn parts<'o>(&self, operand: &'o Operand, count: usize) -> Result<&'o [Operand]> {
        match operand {
            Operand::Vector(parts) if parts.len() == count => Ok(parts),
            // One part may stand without its braces.
            Operand::Name(_) if count == 1 => Ok(std::slice::from_ref(operand)),
            _ => Err(self.operand_error(format!("a vector of {count} expected"))),
        }
    }

    fn symbol(&self, name: &str) -> Result<(Storage, u64)> {
        self.symbols.get(name).ok_or_else(|| self.refuse(Refusal::Name(name.to_owned())))
    }
}
