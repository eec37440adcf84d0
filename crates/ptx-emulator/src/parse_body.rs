//! The body of an entry: declarations, labels, statements and scopes.

use crate::ast::{Entry, Label, Operand, Registers, Statement, Storage, Table};
use crate::error::{Located, Refusal};
use crate::lex::Token;
use crate::parse::{Parser, Result};
use crate::types::Type;

impl Parser {
    /// From after the opening brace to the closing one.
    pub(crate) fn body(&mut self, entry: &mut Entry) -> Result<()> {
        let mut scope = 0;
        loop {
            let line = self.line();
            if self.eat('{') {
                entry.scopes.push(scope);
                scope = entry.scopes.len() - 1;
            } else if self.eat('}') {
                if scope == 0 {
                    return Ok(());
                }
                scope = entry.scopes[scope];
            } else if self.eat(';') {
                // Inline assembly leaves empty statements behind.
            } else if self.at_label() {
                let name = self.name()?;
                self.expect(':')?;
                if self.eat_name(".branchtargets") {
                    let labels = self.names()?;
                    entry.tables.push(Table { scope, line, name, labels });
                    continue;
                }
                entry.labels.push(Label { scope, line, name, at: entry.body.len() });
            } else if matches!(self.peek(), Some(Token::Name(n)) if n.starts_with('.')) {
                self.declaration(entry, scope)?;
            } else {
                let statement = self.statement(line, scope)?;
                entry.body.push(statement);
            }
        }
    }

    fn declaration(&mut self, entry: &mut Entry, scope: usize) -> Result<()> {
        let line = self.line();
        let directive = self.name()?;
        match directive.as_str() {
            ".reg" => self.registers(entry, scope)?,
            ".shared" => entry.variables.push(self.variable(line, Storage::Shared)?),
            ".local" => entry.variables.push(self.variable(line, Storage::Local)?),
            // Where a line came from: the reports here name the line of the PTX itself.
            ".loc" => {
                for _ in 0..3 {
                    self.int()?;
                }
                // `, function_name $L__info_string0, inlined_at 1 20 3` of a line that was inlined.
                if self.eat(',') {
                    self.inlined(line)?;
                }
            }
            ".pragma" => {
                // `.pragma "nounroll"` and its like steer the assembler.
                self.next()?;
                self.expect(';')?;
            }
            _ => return Err(Located::new(line, Refusal::Directive(directive))),
        }
        Ok(())
    }

    fn inlined(&mut self, line: u32) -> Result<()> {
        if !self.eat_name("function_name") {
            return Err(Located::syntax(line, "`function_name` expected"));
        }
        self.name()?;
        if self.eat('+') {
            self.int()?;
        }
        self.expect(',')?;
        if !self.eat_name("inlined_at") {
            return Err(Located::syntax(line, "`inlined_at` expected"));
        }
        for _ in 0..3 {
            self.int()?;
        }
        Ok(())
    }

    /// Names to the semicolon.
    fn names(&mut self) -> Result<Vec<String>> {
        let mut names = vec![self.name()?];
        while self.eat(',') {
            names.push(self.name()?);
        }
        self.expect(';')?;
        Ok(names)
    }

    fn registers(&mut self, entry: &mut Entry, scope: usize) -> Result<()> {
        let line = self.line();
        let written = self.name()?;
        let ty = match written.as_str() {
            ".pred" => None,
            _ => match written.strip_prefix('.').and_then(Type::named) {
                Some(ty) => Some(ty),
                None => return Err(Located::new(line, Refusal::Directive(written))),
            },
        };
        loop {
            let name = self.name()?;
            let mut count = None;
            if self.eat('<') {
                count = Some(self.int()?);
                self.expect('>')?;
            }
            if count.is_some_and(|n| n > 1 << 20) {
                return Err(Located::new(line, Refusal::Unsupported("more than a million registers".into())));
            }
            entry.registers.push(Registers { scope, line, ty, name, count });
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')
    }

    fn statement(&mut self, line: u32, scope: usize) -> Result<Statement> {
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            Some((negated, self.name()?))
        } else {
            None
        };
        let opcode = self.name()?;
        let mut operands = Vec::new();
        while !self.eat(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand()?);
        }
        Ok(Statement { line, scope, guard, opcode, operands })
    }

    fn operand(&mut self) -> Result<Operand> {
        let line = self.line();
        if self.eat('[') {
            let base = self.operand()?;
            let offset = match self.eat('+') || self.peek() == Some(&Token::Punct('-')) {
                true => self.signed()?,
                false => 0,
            };
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        if self.eat('{') {
            let mut parts = Vec::new();
            while !self.eat('}') {
                if !parts.is_empty() {
                    self.expect(',')?;
                }
                parts.push(self.operand()?);
            }
            return Ok(Operand::Vector(parts));
        }
        if self.eat('!') {
            return Ok(Operand::Not(self.name()?));
        }
        match self.peek() {
            Some(Token::Punct('-') | Token::Int(_)) => Ok(Operand::Int(self.signed()? as u64)),
            Some(Token::F32(_) | Token::F64(_) | Token::Name(_)) => match self.next()? {
                Token::F32(bits) => Ok(Operand::F32(bits)),
                Token::F64(bits) => Ok(Operand::F64(bits)),
                Token::Name(name) if self.eat('|') => Ok(Operand::Pair(name, self.name()?)),
                Token::Name(name) => Ok(Operand::Name(name)),
                _ => Err(Located::syntax(line, "an operand expected")),
            },
            _ => Err(Located::syntax(line, "an operand expected")),
        }
    }

    fn signed(&mut self) -> Result<i64> {
        let negative = self.eat('-');
        let value = self.int()? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }
}
