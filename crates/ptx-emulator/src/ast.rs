//! A module as it is written, names unresolved.

use crate::types::Type;

#[derive(Debug, Default)]
pub(crate) struct Source {
    pub variables: Vec<Variable>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable or a parameter.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub line: u32,
    pub storage: Storage,
    pub name: String,
    pub align: u64,
    /// Bytes; of a dynamic shared array, none.
    pub bytes: u64,
    pub dynamic: bool,
    /// Empty for zeros.
    pub initial: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub line: u32,
    pub name: String,
    pub params: Vec<Variable>,
    /// `.maxntid` as written.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid` as written.
    pub required_threads: Option<[u32; 3]>,
    pub variables: Vec<Variable>,
    /// The parent of each scope; scope 0 is the body.
    pub scopes: Vec<usize>,
    pub registers: Vec<Registers>,
    pub labels: Vec<Label>,
    pub tables: Vec<Table>,
    pub body: Vec<Statement>,
}

/// `.reg .b32 %r<12>;` or one plain name.
#[derive(Debug)]
pub(crate) struct Registers {
    pub scope: usize,
    pub line: u32,
    /// None for predicates.
    pub ty: Option<Type>,
    pub name: String,
    pub count: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Label {
    pub scope: usize,
    pub line: u32,
    pub name: String,
    /// Index of the next statement.
    pub at: usize,
}

/// `name: .branchtargets a, b;`
#[derive(Debug)]
pub(crate) struct Table {
    pub scope: usize,
    pub line: u32,
    pub name: String,
    pub labels: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Statement {
    pub line: u32,
    pub scope: usize,
    pub guard: Option<(bool, String)>,
    /// The instruction with its modifiers, as written.
    pub opcode: String,
    pub operands: Vec<Operand>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    /// `!%p1`
    Not(String),
    /// `%r1|%p1`
    Pair(String, String),
    /// Two's complement.
    Int(u64),
    F32(u32),
    F64(u64),
    Vector(Vec<Operand>),
    /// `[base+offset]`
    Address(Box<Operand>, i64),
}
