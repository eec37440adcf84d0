mod fused;
mod naive;

use std::ops::Range;

use crate::cpu::gradients::check_wanted;
use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::{Rows, RowsMut};
use crate::problem::{AttentionBackwardProblem, AttentionKind, AttentionProblem};
use crate::{Result, Sequence, Sequences};

/// The gradients of attention, prepared: see [`AttentionBackwardProblem`].
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    problem: AttentionBackwardProblem,
    kind: AttentionKind,
}

/// What [`AttentionBackward::run`] reads and writes. Gradients are given exactly where the problem wants them.
#[derive(Debug)]
pub struct AttentionBackwardArgs<'a> {
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
    /// The output of the forward pass, `[queries, H D]`.
    pub y: Rows<'a>,
    /// `[queries, H D]`.
    pub dy: Rows<'a>,
    /// `[queries, H D]`, overwritten.
    pub dq: Option<RowsMut<'a>>,
    /// `[keys, H D]`, overwritten.
    pub dk: Option<RowsMut<'a>>,
    /// `[keys, H D]`, overwritten.
    pub dv: Option<RowsMut<'a>>,
}

impl AttentionBackward {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: AttentionBackwardProblem, kind: AttentionKind) -> Self {
        AttentionBackward { problem, kind }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionBackwardProblem {
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

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, a gradient that is
    /// missing or not wanted, or too little scratch. Nothing is written then.
    pub fn run(&self, args: AttentionBackwardArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let (problem, wanted) = (self.problem.forward(), self.problem.wanted());
        let AttentionBackwardArgs { queries, keys, q, k, v, y, dy, dq, dk, dv } = args;
        queries.check(problem.queries())?;
        keys.check(problem.keys())?;
        let (dtype, channels) = (problem.dtype(), problem.channels());
        let (query_rows, key_rows) = (problem.queries().tokens(), problem.keys().tokens());
        let call = Call {
            problem,
            queries,
            keys,
            q: q.check("q", dtype, query_rows, channels)?,
            k: k.check("k", dtype, key_rows, channels)?,
            v: v.check("v", dtype, key_rows, channels)?,
            y: y.check("y", dtype, query_rows, channels)?,
            dy: dy.check("dy", dtype, query_rows, channels)?,
            dq: check_wanted("dq", dq, wanted.q, dtype, query_rows, channels)?,
            dk: check_wanted("dk", dk, wanted.k, dtype, key_rows, channels)?,
            dv: check_wanted("dv", dv, wanted.v, dtype, key_rows, channels)?,
        };
        let division = self.scratch(queries, keys);
        let (shared, worker_parts) = division.split(scratch)?;
        if call.dq.is_none() && call.dk.is_none() && call.dv.is_none() {
            return Ok(());
        }
        call.zero_padding();
        match self.kind {
            AttentionKind::Naive => naive::run(&self.problem, &call, shared),
            AttentionKind::Fused => fused::run(&call, shared, (worker_parts, division.worker_len())),
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
    y: Source<'a>,
    dy: Source<'a>,
    dq: Option<Sink<'a>>,
    dk: Option<Sink<'a>>,
    dv: Option<Sink<'a>>,
}

impl Call<'_> {
    /// Writes zeros to the padding of every gradient.
    fn zero_padding(&self) {
        let channels = self.problem.channels();
        let outputs = [(&self.dq, self.queries), (&self.dk, self.keys), (&self.dv, self.keys)];
        for (out, sequences) in outputs {
            let Some(out) = out else { continue };
            for piece in sequences.pieces(0..sequences.shape().tokens()) {
                // SAFETY: no other thread writes yet.
                unsafe { out.zero(piece.padding, 0..channels) };
            }
        }
    }

    /// Whether the gradients of scores are needed, and not the weights alone.
    fn needs_scores(&self) -> bool {
        self.dq.is_some() || self.dk.is_some()
    }
}

/// The queries that see key `n` of a sequence. What a query sees moves forward with it, so they follow one another.
fn seen_by(problem: &AttentionProblem, queries: Sequence, keys: Sequence, n: usize) -> Range<usize> {
    let first_that = |passes: &dyn Fn(Range<usize>) -> bool| {
        let (mut below, mut above) = (0, queries.length);
        while below < above {
            let middle = below + (above - below) / 2;
            if passes(problem.seen(queries, keys, middle)) {
                above = middle;
            } else {
                below = middle + 1;
            }
        }
        below
    };
    let start = first_that(&|seen| seen.end > n);
    start..first_that(&|seen| seen.start > n).max(start)
}

/// The sum of dy y over the channels of one head of a query.
fn mean_gradient(dy: &[f32], y: &[f32]) -> f32 {
    dy.iter().zip(y).map(|(dy, y)| dy * y).sum()
}
