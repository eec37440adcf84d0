mod backward;
mod channel_lanes;
mod logit_gradient;
mod plan;
mod token_lanes;

pub(super) use plan::TapSource;

pub(super) use backward::{Call as BackwardCall, Gradients as BackwardGradients};
pub use backward::{DynamicConvBackward, DynamicConvBackwardArgs};

use crate::cpu::buffer::check_optional;
use crate::cpu::dropout::check_seed;
use crate::cpu::dynamic_conv::plan::{Plan, Tile, TileTaps};
use crate::cpu::phase::Tokens;
use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::{Elements, Rows, RowsMut};
use crate::problem::{DynamicConvProblem, Taps};
use crate::{Dropout, Error, Result, Sequences};

/// Dynamic convolution, prepared: see [`DynamicConvProblem`].
#[derive(Clone, Debug)]
pub struct DynamicConv {
    problem: DynamicConvProblem,
    plan: Plan,
}

/// Where the taps come from, as the problem's [`Taps`] say.
#[derive(Clone, Copy, Debug)]
pub enum TapArgs<'a> {
    /// Logits.
    Given {
        /// `[tokens, H K]`.
        logits: Rows<'a>,
    },
    /// A generator.
    Generated {
        /// W `[H K, Cq]`.
        weight: Elements<'a>,
        /// `[H K]`, where the problem has one.
        weight_bias: Option<Elements<'a>>,
        /// `[tokens, Cq]`, where the problem has a query of its own.
        query: Option<Rows<'a>>,
    },
}

/// What [`DynamicConv::run`] reads and writes.
#[derive(Debug)]
pub struct DynamicConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// Logits, or what generates them.
    pub taps: TapArgs<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// What dropout's random numbers are made from, where the problem drops weights.
    pub seed: Option<u64>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

impl DynamicConv {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: DynamicConvProblem) -> Self {
        DynamicConv { problem, plan: Plan::new(&problem) }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    fn scratch(&self) -> Division {
        Division { shared: self.plan.shared(), per_worker: self.plan.per_worker() }
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input that
    /// is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: DynamicConvArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let DynamicConvArgs { sequences, x, taps, bias, history, seed, y } = args;
        let call = self.check(["x", "history"], sequences, (x, history), bias, seed, y)?;
        let source = check_taps(&self.problem, taps, call.tokens.x)?;
        self.launch(&call, source, scratch)
    }

    /// Everything but the taps, checked, with the names that the operator has for its tokens and history.
    pub(super) fn check<'a>(
        &self,
        names: [&'static str; 2],
        sequences: &'a Sequences,
        (x, history): (Rows<'a>, Option<Elements<'a>>),
        bias: Option<Elements<'a>>,
        seed: Option<u64>,
        y: RowsMut<'a>,
    ) -> Result<Call<'a>> {
        let conv = self.problem.convolution();
        let tokens = Tokens::check(names, conv, sequences, x, history)?;
        check_optional("bias", bias, conv.has_bias(), conv.parameters(), conv.channels())?;
        let y = y.check("y", conv.dtype(), conv.sequences().tokens(), conv.channels())?;
        let dropout = check_seed(conv, seed)?;
        Ok(Call { sequences, tokens, bias, dropout, y })
    }

    /// Runs a checked call; only the scratch may still be too little.
    pub(super) fn launch(&self, call: &Call<'_>, source: TapSource<'_>, scratch: &mut [f32]) -> Result<()> {
        let conv = self.problem.convolution();
        let Call { sequences, tokens, bias, dropout, y } = call;
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        let (bias, generator) = self.plan.split_shared(shared, *bias);
        let source = source.ready(self.problem.logits(), generator);
        self.plan.tiles().for_each(worker_parts, self.scratch().worker_len(), |rows, heads, scratch| {
            let (taps, scratch) = scratch.split_at_mut(self.plan.taps_len());
            self.plan.taps(conv, &source, sequences, (rows.clone(), heads.clone()), taps, scratch);
            if let Some(dropout) = *dropout {
                self.plan.drop_taps(dropout, (rows.clone(), heads.clone()), taps);
            }
            self.plan.clear_out_of_range(conv, sequences, rows.clone(), taps);
            let taps = &*taps;
            let columns = heads.start * conv.head_channels()..heads.end * conv.head_channels();
            let tile = Tile {
                plan: &self.plan,
                conv,
                tokens: *tokens,
                taps: TileTaps::Own(taps),
                bias: &*bias,
                rows: rows.clone(),
                heads,
            };
            let store = |row, column, values: &[f32]| {
                // SAFETY: tiles are disjoint in rows or columns, and so are the rows and blocks of one tile.
                unsafe { y.store(row, column, values) };
            };
            for piece in sequences.pieces(rows) {
                // SAFETY: tiles are disjoint in rows or columns, and the pieces of one tile in rows.
                unsafe { y.zero(piece.padding.clone(), columns.clone()) };
                if self.plan.lanes_are_tokens(&piece) {
                    token_lanes::convolve(&tile, taps, &piece, scratch, store);
                } else {
                    channel_lanes::convolve(&tile, &piece, scratch, store);
                }
            }
        });
        Ok(())
    }
}

/// The checked source of taps, where x is the query unless there is another.
fn check_taps<'a>(problem: &DynamicConvProblem, taps: TapArgs<'a>, x: Source<'a>) -> Result<TapSource<'a>> {
    let conv = problem.convolution();
    let (tokens, logits, dtype) = (conv.sequences().tokens(), problem.logits(), conv.parameters());
    match (problem.taps(), taps) {
        (Taps::Given, TapArgs::Given { logits: given }) => {
            Ok(TapSource::Given(given.check("logits", dtype, tokens, logits)?))
        }
        (
            Taps::Generated { query_channels, query: query_dtype, .. },
            TapArgs::Generated { weight, weight_bias, query },
        ) => {
            check_generator(problem, weight, weight_bias)?;
            let query = match (query_dtype, query) {
                (Some(dtype), Some(query)) => query.check("query", dtype, tokens, query_channels)?,
                (None, None) => x,
                (Some(_), None) => return Err(Error::Missing { tensor: "query" }),
                (None, Some(_)) => return Err(Error::Surplus { tensor: "query" }),
            };
            Ok(TapSource::Generated { weight, weight_bias, query, channels: query_channels })
        }
        (Taps::Given, TapArgs::Generated { .. }) => Err(Error::Missing { tensor: "logits" }),
        (Taps::Generated { .. }, TapArgs::Given { .. }) => Err(Error::Surplus { tensor: "logits" }),
    }
}

/// An error unless generator and generator bias are those of the problem.
pub(super) fn check_generator(
    problem: &DynamicConvProblem,
    weight: Elements<'_>,
    weight_bias: Option<Elements<'_>>,
) -> Result<()> {
    let Taps::Generated { query_channels, weight_bias: has_bias, .. } = problem.taps() else { return Ok(()) };
    let (dtype, logits) = (problem.convolution().parameters(), problem.logits());
    weight.check("weight", dtype, logits * query_channels)?;
    check_optional("weight_bias", weight_bias, has_bias, dtype, logits)
}

/// A checked call, but for its taps.
pub(super) struct Call<'a> {
    sequences: &'a Sequences,
    tokens: Tokens<'a>,
    bias: Option<Elements<'a>>,
    dropout: Option<Dropout>,
    y: Sink<'a>,
}
