//! Tokens into a module: everything around the statements. The statements of a body are in `parse_body`.

use crate::ast::{Entry, Source, Storage, Variable};
use crate::error::{Located, ParseError, Refusal};
use crate::lex::{Spanned, Token, tokens};
use crate::types::Type;

pub(crate) type Result<T> = std::result::Result<T, Located>;

/// Reads a module.
pub(crate) fn parse(source: &str) -> std::result::Result<Source, ParseError> {
    tokens(source).and_then(|tokens| Parser { tokens, at: 0 }.module()).map_err(|e| e.in_source(source))
}

pub(crate) struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
}

impl Parser {
    pub(crate) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    /// The line of the next token, or of the last one.
    pub(crate) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    pub(crate) fn next(&mut self) -> Result<Token> {
        let token =
            self.peek().cloned().ok_or_else(|| Located::syntax(self.line(), "the text ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    pub(crate) fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(&Token::Punct(c));
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, c: char) -> Result<()> {
        let line = self.line();
        if self.eat(c) { Ok(()) } else { Err(Located::syntax(line, format!("`{c}` expected"))) }
    }

    pub(crate) fn eat_name(&mut self, name: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Name(n)) if n == name);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn name(&mut self) -> Result<String> {
        let line = self.line();
        match self.next()? {
            Token::Name(name) => Ok(name),
            _ => Err(Located::syntax(line, "a name expected")),
        }
    }

    pub(crate) fn int(&mut self) -> Result<u64> {
        let line = self.line();
        match self.next()? {
            Token::Int(v) => Ok(v),
            _ => Err(Located::syntax(line, "an integer expected")),
        }
    }

    /// Whether a name with a colon after it comes next: a label.
    pub(crate) fn at_label(&self) -> bool {
        matches!(self.peek(), Some(Token::Name(n)) if !n.starts_with('.'))
            && self.tokens.get(self.at + 1).map(|t| &t.token) == Some(&Token::Punct(':'))
    }

    fn module(mut self) -> Result<Source> {
        let mut source = Source::default();
        let mut header = (false, false, false);
        while self.peek().is_some() {
            let line = self.line();
            let directive = self.name()?;
            match directive.as_str() {
                ".version" => header.0 = self.version(line)?,
                ".target" => header.1 = self.target(line)?,
                ".address_size" => {
                    header.2 = self.int()? == 64;
                    if !header.2 {
                        return Err(Located::new(line, Refusal::Unsupported("32-bit addresses".into())));
                    }
                }
                // How the linker sees a name makes no difference to a module that is run by itself.
                ".visible" | ".weak" | ".extern" => {}
                ".entry" => source.entries.push(self.entry(line)?),
                ".global" => source.variables.push(self.variable(line, Storage::Global)?),
                ".const" => source.variables.push(self.variable(line, Storage::Const)?),
                ".shared" => source.variables.push(self.variable(line, Storage::Shared)?),
                ".file" => self.skip_file()?,
                // Debug information says nothing about what runs.
                ".section" => self.skip_section()?,
                ".func" | ".alias" | ".pragma" => {
                    return Err(Located::new(
                        line,
                        Refusal::Unsupported(format!("`{directive}` in a module")),
                    ));
                }
                _ => return Err(Located::new(line, Refusal::Directive(directive))),
            }
        }
        if header != (true, true, true) {
            return Err(Located::syntax(
                1,
                "`.version`, `.target` and `.address_size 64` must stand in a module",
            ));
        }
        Ok(source)
    }

    /// `8.4`: the number and the name `.4` that the dot starts.
    fn version(&mut self, line: u32) -> Result<bool> {
        let (major, minor) = (self.int()?, self.name()?);
        let minor = minor.strip_prefix('.').and_then(|m| m.parse::<u64>().ok());
        match minor {
            Some(minor) if (major, minor) >= (6, 0) && major <= 8 => Ok(true),
            _ => Err(Located::new(line, Refusal::Unsupported("a PTX version outside 6.0 to 8.x".into()))),
        }
    }

    fn target(&mut self, line: u32) -> Result<bool> {
        let target = self.name()?;
        while self.eat(',') {
            self.name()?;
        }
        let known = target.strip_prefix("sm_").is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        if known {
            Ok(true)
        } else {
            Err(Located::new(line, Refusal::Directive(format!(".target {target}"))))
        }
    }

    /// `.file 1 "name", 123, 456`
    pub(crate) fn skip_file(&mut self) -> Result<()> {
        self.int()?;
        self.next()?;
        while self.eat(',') {
            self.int()?;
        }
        Ok(())
    }

    fn skip_section(&mut self) -> Result<()> {
        self.name()?;
        self.expect('{')?;
        while !self.eat('}') {
            self.next()?;
        }
        Ok(())
    }

    fn entry(&mut self, line: u32) -> Result<Entry> {
        let name = self.name()?;
        let mut params = Vec::new();
        if self.eat('(') {
            while !self.eat(')') {
                if !self.eat_name(".param") {
                    return Err(Located::syntax(self.line(), "`.param` expected"));
                }
                params.push(self.variable_form(self.line(), Storage::Param)?);
                self.eat(',');
            }
        }
        let mut entry = Entry {
            line,
            name,
            params,
            max_threads: None,
            required_threads: None,
            variables: Vec::new(),
            scopes: vec![0],
            registers: Vec::new(),
            labels: Vec::new(),
            tables: Vec::new(),
            body: Vec::new(),
        };
        while !self.eat('{') {
            let line = self.line();
            let directive = self.name()?;
            match directive.as_str() {
                ".maxntid" => entry.max_threads = Some(self.threads()?),
                ".reqntid" => entry.required_threads = Some(self.threads()?),
                // Both speak to the assembler's allocation of registers.
                ".minnctapersm" | ".maxnreg" => {
                    self.int()?;
                }
                _ => return Err(Located::new(line, Refusal::Directive(directive))),
            }
        }
        self.body(&mut entry)?;
        Ok(entry)
    }

    fn threads(&mut self) -> Result<[u32; 3]> {
        let mut out = [1; 3];
        for (i, n) in out.iter_mut().enumerate() {
            if i == 0 || self.eat(',') {
                *n = self.int()? as u32;
            }
        }
        Ok(out)
    }

    /// A variable to its semicolon.
    pub(crate) fn variable(&mut self, line: u32, storage: Storage) -> Result<Variable> {
        let mut variable = self.variable_form(line, storage)?;
        if self.eat('=') {
            variable.initial = self.initial(line, &variable)?;
        }
        self.expect(';')?;
        Ok(variable)
    }

    /// `.align 4 .b8 name[16]`
    fn variable_form(&mut self, line: u32, storage: Storage) -> Result<Variable> {
        let (mut align, mut ty) = (None, None);
        let name = loop {
            let name = self.name()?;
            match name.as_str() {
                ".align" => {
                    // After `.ptr` the alignment is that of what is pointed at.
                    let value = self.int()?;
                    if !value.is_power_of_two() || value > 1 << 12 {
                        return Err(Located::syntax(line, "an alignment that is no power of two up to 4096"));
                    }
                    align = align.or(ty.is_none().then_some(value));
                }
                ".ptr" | ".global" | ".const" | ".shared" | ".local"
                    if storage == Storage::Param && ty.is_some() => {}
                _ if name.starts_with('.') => match Type::named(&name[1..]) {
                    Some(found) if ty.is_none() => ty = Some(found),
                    _ => return Err(Located::new(line, Refusal::Directive(name))),
                },
                _ => break name,
            }
        };
        let ty = ty.ok_or_else(|| Located::syntax(line, "a variable without a type"))?;
        let (mut count, mut dynamic) = (1u64, false);
        while self.eat('[') {
            if self.eat(']') {
                dynamic = true;
            } else {
                count = count.saturating_mul(self.int()?);
                self.expect(']')?;
            }
        }
        if dynamic && storage != Storage::Shared {
            return Err(Located::new(
                line,
                Refusal::Unsupported("an array without a size outside .shared".into()),
            ));
        }
        let bytes = if dynamic { 0 } else { ty.bytes().saturating_mul(count) };
        if bytes > 1 << 32 {
            return Err(Located::new(line, Refusal::Unsupported("a variable of more than 4 GiB".into())));
        }
        let align = align.unwrap_or(ty.bytes());
        let element = ty.bytes() as usize;
        // Kept until the values are read: their width is that of the type.
        let initial = vec![0; element];
        Ok(Variable { line, storage, name, align, bytes, dynamic, initial })
    }

    /// `{1, 2, 3}` or one value; what is left out is zero.
    fn initial(&mut self, line: u32, variable: &Variable) -> Result<Vec<u8>> {
        let width = variable.initial.len();
        let mut out = Vec::new();
        let braces = self.eat('{');
        loop {
            let negative = self.eat('-');
            let value = match self.next()? {
                Token::Int(v) => (v as i64 * if negative { -1 } else { 1 }) as u64,
                Token::F32(v) if width == 4 && !negative => u64::from(v),
                Token::F64(v) if width == 8 && !negative => v,
                _ => {
                    let what = "an initial value that is not a number of the type".into();
                    return Err(Located::new(line, Refusal::Unsupported(what)));
                }
            };
            out.extend_from_slice(&value.to_le_bytes()[..width]);
            if !(braces && self.eat(',')) {
                break;
            }
        }
        if braces {
            self.expect('}')?;
        }
        if out.len() as u64 > variable.bytes {
            return Err(Located::syntax(line, "more initial values than the variable holds"));
        }
        Ok(out)
    }
}
