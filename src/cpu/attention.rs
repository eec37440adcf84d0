mod backward;
mod fused;
mod naive;

pub use backward::{AttentionBackward, AttentionBackwardArgs};

use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::{Rows, RowsMut};
use crate::problem::{AttentionKind, AttentionProblem};
use crate::{Result, Sequences};

/// Attention, prepared: see [`AttentionProblem`].
#[derive(Clone, Debug)]
pub struct Attention {
    problem: AttentionProblem,
    kind: AttentionKind,
}

/// What [`Attention::run`] reads and writes.
#[derive(Debug)]
pub struct AttentionArgs<'a> {
    /// The query sequences, of the problem's shape.
    pub queries: &'a Sequences,
    /// The key sequences, of the problem's shape.
    pub keys: &'a Sequences,
    /// `[queries, H D]`.
    pub q: Rows<'a>,
    /// `[keys, H D]`.
    pub k: Rows<'a>,
    /// `[keys, H D]`.
    pub v: Rows<'a>,
    /// `[queries, H D]`, overwritten.
    pub y: RowsMut<'a>,
}

impl Attention {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: AttentionProblem, kind: AttentionKind) -> Self {
        Attention { problem, kind }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run on these sequences needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self, queries: &Sequences, keys: &Sequences) -> usize {
        self.scratch(queries, keys).len()
    }

    fn scratch(&self, queries: &Sequences, keys: &Sequences) -> Division {
        match self.kind {
            AttentionKind::Naive => naive::scratch(&self.problem, queries, keys),
            AttentionKind::Fused => fused::scratch(&self.problem),
        }
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, or too little
    /// scratch. Nothing is written then.
    pub fn run(&self, args: AttentionArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let problem = &self.problem;
        let AttentionArgs { queries, keys, q, k, v, y } = args;
        queries.check(problem.queries())?;
        keys.check(problem.keys())?;
        let (dtype, channels) = (problem.dtype(), problem.channels());
        let call = Call {
            problem,
            queries,
            keys,
            q: q.check("q", dtype, problem.queries().tokens(), channels)?,
            k: k.check("k", dtype, problem.keys().tokens(), channels)?,
            v: v.check("v", dtype, problem.keys().tokens(), channels)?,
            y: y.check("y", dtype, problem.queries().tokens(), channels)?,
        };
        let division = self.scratch(queries, keys);
        let (shared, worker_parts) = division.split(scratch)?;
        match self.kind {
            AttentionKind::Naive => naive::run(&call, shared),
            AttentionKind::Fused => fused::run(&call, worker_parts, division.worker_len()),
        }
        Ok(())
    }
}

/// Checked arguments.
struct Call<'a> {
    problem: &'a AttentionProblem,
    queries: &'a Sequences,
    keys: &'a Sequences,
    q: Source<'a>,
    k: Source<'a>,
    v: Source<'a>,
    y: Sink<'a>,
}

/// Whether `rows` rows of `columns` numbers, `stride` apart, are all finite.
fn all_finite(data: &[f32], stride: usize, rows: usize, columns: usize) -> bool {
    data.chunks(stride).take(rows).all(|row| row[..columns].iter().all(|x| x.is_finite()))
}
