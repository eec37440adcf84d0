mod channel_lanes;
mod plan;
mod token_lanes;

pub(super) use plan::TapSource;

use crate::cpu::buffer::check_optional;
use crate::cpu::dynamic_conv::plan::{Plan, Tile};
use crate::cpu::phase::Tokens;
use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::{Elements, Rows, RowsMut};
use crate::problem::{DynamicConvProblem, Taps};
use crate::{Error, Result, Sequences};

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
        let DynamicConvArgs { sequences, x, taps, bias, history, y } = args;
        let call = self.check(["x", "history"], sequences, x, history, bias, y)?;
        let source = self.check_taps(taps, call.tokens.x)?;
        self.launch(&call, source, scratch)
    }

    /// Everything but the taps, checked, with the names that the operator has for its tokens and history.
    pub(super) fn check<'a>(
        &self,
        names: [&'static str; 2],
        sequences: &'a Sequences,
        x: Rows<'a>,
        history: Option<Elements<'a>>,
        bias: Option<Elements<'a>>,
        y: RowsMut<'a>,
    ) -> Result<Call<'a>> {
        let conv = self.problem.convolution();
        let tokens = Tokens::check(names, conv, sequences, x, history)?;
        check_optional("bias", bias, conv.has_bias(), conv.parameters(), conv.channels())?;
        let y = y.check("y", conv.dtype(), conv.sequences().tokens(), conv.channels())?;
        Ok(Call { sequences, tokens, bias, y })
    }

    /// Runs a checked call; only the scratch may still be too little.
    pub(super) fn launch(&self, call: &Call<'_>, source: TapSource<'_>, scratch: &mut [f32]) -> Result<()> {
        let conv = self.problem.convolution();
        let Call { sequences, tokens, bias, y } = call;
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        let (bias, generator) = self.plan.split_shared(shared, *bias);
        let source = source.ready(self.problem.logits(), generator);
        self.plan.tiles().for_each(worker_parts, self.scratch().worker_len(), |rows, heads, scratch| {
            let (taps, scratch) = scratch.split_at_mut(self.plan.taps_len());
            self.plan.taps(conv, &source, sequences, (rows.clone(), heads.clone()), taps, scratch);
            let columns = heads.start * conv.head_channels()..heads.end * conv.head_channels();
            let tile = Tile {
                plan: &self.plan,
                conv,
                tokens: *tokens,
                taps,
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
                    token_lanes::convolve(&tile, &piece, scratch, store);
                } else {
                    channel_lanes::convolve(&tile, &piece, scratch, store);
                }
            }
        });
        Ok(())
    }

    fn check_taps<'a>(&self, taps: TapArgs<'a>, x: Source<'a>) -> Result<TapSource<'a>> {
        let conv = self.problem.convolution();
        let (tokens, logits) = (conv.sequences().tokens(), self.problem.logits());
        let dtype = conv.parameters();
        match (self.problem.taps(), taps) {
            (Taps::Given, TapArgs::Given { logits: given }) => {
                Ok(TapSource::Given(given.check("logits", dtype, tokens, logits)?))
            }
            (
                Taps::Generated { query_channels, query: query_dtype, weight_bias: has_bias },
                TapArgs::Generated { weight, weight_bias, query },
            ) => {
                self.check_generator(query_channels, has_bias, weight, weight_bias)?;
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
        &self,
        query_channels: usize,
        has_bias: bool,
        weight: Elements<'_>,
        weight_bias: Option<Elements<'_>>,
    ) -> Result<()> {
        let (dtype, logits) = (self.problem.convolution().parameters(), self.problem.logits());
        weight.check("weight", dtype, logits * query_channels)?;
        check_optional("weight_bias", weight_bias, has_bias, dtype, logits)
    }
}

/// A checked call, but for its taps.
pub(super) struct Call<'a> {
    sequences: &'a Sequences,
    tokens: Tokens<'a>,
    bias: Option<Elements<'a>>,
    y: Sink<'a>,
}
