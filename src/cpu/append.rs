use crate::cpu::tiles::Tiles;
use crate::cpu::{Rows, RowsMut};
use crate::problem::AppendProblem;
use crate::{Result, Sequences};

/// Writing tokens behind those that a cache holds, prepared: see [`AppendProblem`].
#[derive(Clone, Debug)]
pub struct Append {
    problem: AppendProblem,
}

/// What [`Append::run`] reads and writes.
#[derive(Debug)]
pub struct AppendArgs<'a> {
    /// The sequences of x, of the problem's shape, after the tokens that the cache holds of each.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[sequences, room, C]`, in which the rows of x are written and no others.
    pub cache: RowsMut<'a>,
}

impl Append {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: AppendProblem) -> Self {
        Append { problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AppendProblem {
        &self.problem
    }

    /// Writes the tokens.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, and
    /// [`Error::CacheRoom`](crate::Error::CacheRoom) for one that goes past the room. Nothing is written then.
    pub fn run(&self, args: AppendArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let AppendArgs { sequences, x, cache } = args;
        let ([count, room, channels], dtype) = (problem.cache_shape(), problem.dtype());
        sequences.check(problem.sequences())?;
        problem.check_room(sequences.furthest())?;
        let tokens = problem.sequences().tokens();
        let x = x.check("x", dtype, tokens, channels)?;
        let cache = cache.check("cache", dtype, count * room, channels)?;
        // A few pages of memory each.
        const ROWS: usize = 16;
        const COLUMNS: usize = 1 << 10;
        Tiles::new(tokens, channels, ROWS, COLUMNS).for_each(&mut [], 0, |rows, columns, _| {
            for piece in sequences.pieces(rows) {
                for i in piece.tokens {
                    let row = piece.index * room + piece.sequence.past + i;
                    // SAFETY: each token has a row of its own, and is of one tile for each of its columns.
                    unsafe { cache.copy(row, columns.clone(), &x, piece.sequence.first + i) };
                }
            }
        });
        Ok(())
    }
}
