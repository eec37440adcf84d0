use crate::cpu::phase::Tokens;
use crate::cpu::{Elements, ElementsMut, Rows, RowsMut};
use crate::problem::HistoryProblem;
use crate::{Result, Sequences};

/// Moving a decoder's memory on, prepared: see [`HistoryProblem`].
#[derive(Clone, Debug)]
pub struct History {
    problem: HistoryProblem,
}

/// What [`History::run`] reads and writes.
#[derive(Debug)]
pub struct HistoryArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[sequences, (K - 1) r, C]`.
    pub history: Elements<'a>,
    /// `[sequences, (K - 1) r, C]`, overwritten.
    pub next: ElementsMut<'a>,
}

impl History {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: HistoryProblem) -> Self {
        History { problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &HistoryProblem {
        &self.problem
    }

    /// Computes the next history.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, or sequences of another shape. Nothing is
    /// written then.
    pub fn run(&self, args: HistoryArgs<'_>) -> Result<()> {
        let conv = self.problem.convolution();
        let HistoryArgs { sequences, x, history, next } = args;
        let [count, reach, channels] = conv.history_shape();
        let tokens = Tokens::check(conv, sequences, x, Some(history))?;
        let next = RowsMut::contiguous(next).check("next", conv.dtype(), count * reach, channels)?;
        // Every type goes through f32 and back without loss.
        let mut row = vec![0.0; channels];
        for (s, sequence) in sequences.as_slice().iter().enumerate() {
            for i in 0..reach {
                let from = sequence.length + i;
                match from.checked_sub(reach) {
                    None => history.load((s * reach + from) * channels, &mut row),
                    Some(token) => tokens.x.load(sequence.first + token, 0, &mut row),
                }
                // SAFETY: one thread writes, one row after another.
                unsafe { next.store(s * reach + i, 0, &row) };
            }
        }
        Ok(())
    }
}
