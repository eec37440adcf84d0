//! What can be wrong with a module before it runs.

/// A module that cannot be read: which line, what stands there, and why it was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {reason}\n  {text}")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: u32,
    /// The text of that line, trimmed.
    pub text: String,
    /// Why it was refused.
    pub reason: Refusal,
}

/// Why a line was refused. Nothing is guessed: what is not known is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The text is not PTX, or not of the form that is known here.
    #[error("{0}")]
    Syntax(String),
    /// An instruction that is not emulated.
    #[error("unknown instruction `{0}`")]
    Instruction(String),
    /// A modifier that this instruction does not take here, or a missing one.
    #[error("unknown modifier `.{modifier}` of `{instruction}`")]
    Modifier {
        /// The instruction with all its modifiers.
        instruction: String,
        /// The modifier that was not understood.
        modifier: String,
    },
    /// A directive that is not known.
    #[error("unknown directive `{0}`")]
    Directive(String),
    /// A name that nothing declares.
    #[error("unknown name `{0}`")]
    Name(String),
    /// An operand of a kind or width that the instruction does not take.
    #[error("{0}")]
    Operand(String),
    /// Something of PTX that is known and left out.
    #[error("not supported: {0}")]
    Unsupported(String),
}

/// A refusal with its line, before the text of the line is at hand.
#[derive(Debug)]
pub(crate) struct Located {
    pub line: u32,
    pub reason: Refusal,
}

impl Located {
    pub(crate) fn new(line: u32, reason: Refusal) -> Self {
        Self { line, reason }
    }

    pub(crate) fn syntax(line: u32, what: impl Into<String>) -> Self {
        Self::new(line, Refusal::Syntax(what.into()))
    }

    pub(crate) fn in_source(self, source: &str) -> ParseError {
        let text = source.lines().nth(self.line.saturating_sub(1) as usize).unwrap_or("").trim().to_owned();
        ParseError { line: self.line, text, reason: self.reason }
    }
}
