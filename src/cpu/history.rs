use crate::cpu::phase::Tokens;
use crate::cpu::tiles::Tiles;
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
        let tokens = Tokens::check(["x", "history"], conv, sequences, x, Some(history))?;
        let next = RowsMut::contiguous(next).check("next", conv.dtype(), count * reach, channels)?;
        // Numbers are moved through f32, which holds those of every type.
        const PART: usize = 64;
        Tiles::new(count * reach, channels, PART, PART).for_each(&mut [], 0, |rows, columns, _| {
            let mut part = [0.0; PART];
            let part = &mut part[..columns.len()];
            for row in rows {
                let (sequence, i) = (row / reach, row % reach);
                let from = sequences.as_slice()[sequence].length + i;
                match from.checked_sub(reach) {
                    None => history.load((sequence * reach + from) * channels + columns.start, part),
                    Some(token) => {
                        let first = sequences.as_slice()[sequence].first;
                        tokens.x.load(first + token, columns.start, part);
                    }
                }
                // SAFETY: tiles are disjoint in rows or columns, and each row of one is written once.
                unsafe { next.store(row, columns.start, part) };
            }
        });
        Ok(())
    }
}
