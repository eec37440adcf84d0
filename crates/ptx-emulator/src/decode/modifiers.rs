//! The modifiers of an instruction, taken one after another: what is left over is an error.

use crate::error::{Located, Refusal};
use crate::parse::Result;
use crate::types::Type;

pub(super) struct Modifiers<'a> {
    opcode: &'a str,
    line: u32,
    parts: Vec<&'a str>,
    at: usize,
}

impl<'a> Modifiers<'a> {
    pub(super) fn new(opcode: &'a str, line: u32) -> Self {
        Self { opcode, line, parts: opcode.split('.').collect(), at: 1 }
    }

    pub(super) fn name(&self) -> &'a str {
        self.parts[0]
    }

    fn peek(&self) -> Option<&'a str> {
        self.parts.get(self.at).copied()
    }

    /// Whether this modifier stands anywhere.
    pub(super) fn has(&self, modifier: &str) -> bool {
        self.parts.contains(&modifier)
    }

    /// Takes this modifier if it comes next.
    pub(super) fn eat(&mut self, modifier: &str) -> bool {
        let found = self.peek() == Some(modifier);
        self.at += usize::from(found);
        found
    }

    /// Takes the next modifier if it is one of these.
    pub(super) fn one_of(&mut self, modifiers: &[&str]) -> Option<&'a str> {
        let found = self.peek().filter(|m| modifiers.contains(m))?;
        self.at += 1;
        Some(found)
    }

    /// Takes this modifier, which must come next.
    pub(super) fn need(&mut self, modifier: &str) -> Result<()> {
        if self.eat(modifier) { Ok(()) } else { Err(self.bad()) }
    }

    /// Takes one of these modifiers, which must come next.
    pub(super) fn need_one(&mut self, modifiers: &[&str]) -> Result<&'a str> {
        self.one_of(modifiers).ok_or_else(|| self.bad())
    }

    pub(super) fn ty(&mut self) -> Result<Type> {
        let ty = self.peek().and_then(Type::named).ok_or_else(|| self.bad())?;
        self.at += 1;
        Ok(ty)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<()> {
        if self.at == self.parts.len() { Ok(()) } else { Err(self.bad()) }
    }

    /// The next modifier is not one that can stand there, or is missing.
    pub(super) fn bad(&self) -> Located {
        self.bad_at(self.at)
    }

    /// The modifier taken last does not go with the others.
    pub(super) fn bad_last(&self) -> Located {
        self.bad_at(self.at - 1)
    }

    fn bad_at(&self, at: usize) -> Located {
        let modifier = self.parts.get(at).map_or("(nothing)", |m| m).to_owned();
        Located::new(self.line, Refusal::Modifier { instruction: self.opcode.to_owned(), modifier })
    }
}
