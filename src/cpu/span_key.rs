mod backward;

pub use backward::{SpanKeyBackward, SpanKeyBackwardArgs};

use crate::cpu::buffer::check_optional;
use crate::cpu::filter::FilterPlan;
use crate::cpu::phase::Tokens;
use crate::cpu::product::product_of_rows;
use crate::cpu::scratch::Division;
use crate::cpu::tiles::Tiles;
use crate::cpu::{Elements, Rows, RowsMut, padded};
use crate::problem::SpanKeyProblem;
use crate::{DType, Result, Sequences};

/// The span-aware key times the query, prepared: see [`SpanKeyProblem`].
#[derive(Clone, Debug)]
pub struct SpanKey {
    problem: SpanKeyProblem,
    filter: FilterPlan,
}

/// What [`SpanKey::run`] reads and writes.
#[derive(Debug)]
pub struct SpanKeyArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// q `[tokens, A]`.
    pub query: Rows<'a>,
    /// `[C, K]`.
    pub depthwise: Elements<'a>,
    /// `[A, C]`.
    pub pointwise: Elements<'a>,
    /// `[A]`, where the problem has one.
    pub key_bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// `[tokens, A]`, overwritten.
    pub z: RowsMut<'a>,
}

impl SpanKey {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: SpanKeyProblem) -> Self {
        SpanKey { filter: FilterPlan::new(problem.depthwise()), problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanKeyProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    fn scratch(&self) -> Division {
        Division { shared: self.shared(), per_worker: self.per_worker() }
    }

    /// The filter, the pointwise weight where it is not f32, and the bias.
    fn shared(&self) -> usize {
        self.filter.shared().saturating_add(self.pointwise_copy() + self.problem.outputs())
    }

    fn pointwise_copy(&self) -> usize {
        let conv = self.problem.depthwise();
        if conv.parameters() == DType::F32 { 0 } else { self.problem.outputs() * conv.channels() }
    }

    /// The scratch of the filter, the convolved tokens of a tile, their keys as columns and as rows, and one query.
    fn per_worker(&self) -> usize {
        let tokens = self.filter.tile_tokens();
        let outputs = self.problem.outputs();
        let tile = tokens * self.problem.depthwise().channels() + (padded(tokens) + tokens + 1) * outputs;
        self.filter.per_worker().saturating_add(tile)
    }

    /// Computes z.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input that
    /// is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: SpanKeyArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let conv = self.problem.depthwise();
        let (rows, channels, outputs) = (conv.sequences().tokens(), conv.channels(), self.problem.outputs());
        let SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history, z } = args;
        let tokens = Tokens::check(["x", "history"], conv, sequences, x, history)?;
        let query = query.check("query", conv.dtype(), rows, outputs)?;
        let dtype = conv.parameters();
        depthwise.check("depthwise", dtype, channels * conv.window().width())?;
        pointwise.check("pointwise", dtype, outputs * channels)?;
        check_optional("key_bias", key_bias, self.problem.has_key_bias(), dtype, outputs)?;
        let z = z.check("z", self.problem.output(), rows, outputs)?;
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        let (filter, shared) = shared.split_at_mut(self.filter.shared());
        let filter = self.filter.prepare(conv, depthwise, None, None, filter);
        let (copy, bias) = shared.split_at_mut(self.pointwise_copy());
        let pointwise = pointwise.as_f32(outputs * channels, copy);
        bias.fill(0.0);
        if let Some(key_bias) = key_bias {
            key_bias.load(0, bias);
        }
        let bias = &*bias;

        let tiles = Tiles::new(rows, 1, self.filter.tile_tokens(), 1);
        tiles.for_each(worker_parts, self.scratch().worker_len(), |rows, _, scratch| {
            let (filter_scratch, scratch) = scratch.split_at_mut(self.filter.per_worker());
            let (convolved, scratch) = scratch.split_at_mut(self.filter.tile_tokens() * channels);
            let (columns, scratch) = scratch.split_at_mut(outputs * padded(self.filter.tile_tokens()));
            let (keys, q) = scratch.split_at_mut(self.filter.tile_tokens() * outputs);
            let q = &mut q[..outputs];
            for piece in sequences.pieces(rows.clone()) {
                for columns in self.filter.tile_columns() {
                    filter.convolve(tokens, &piece, columns, filter_scratch, |row, column, values| {
                        let at = (row - rows.start) * channels + column;
                        convolved[at..at + values.len()].copy_from_slice(values);
                    });
                }
            }
            // Rows of padding hold what was there before: their keys are not read.
            product_of_rows((rows.len(), outputs, channels), (convolved, channels), pointwise, columns, keys);
            for piece in sequences.pieces(rows.clone()) {
                // SAFETY: tiles are disjoint in rows, and so are the pieces of one tile.
                unsafe { z.zero(piece.padding.clone(), 0..outputs) };
                for t in piece.tokens {
                    let row = piece.sequence.first + t;
                    query.load(row, 0, q);
                    let key = &mut keys[(row - rows.start) * outputs..][..outputs];
                    for ((key, bias), q) in key.iter_mut().zip(bias).zip(&*q) {
                        *key = (*key + bias) * q;
                    }
                    // SAFETY: tiles are disjoint in rows, and each row is written once.
                    unsafe { z.store(row, 0, key) };
                }
            }
        });
        Ok(())
    }
}
