use std::ops::Range;

use crate::cpu::buffer::{Sink, check_optional};
use crate::cpu::phase::{Phase, Tokens};
use crate::cpu::softmax::normalize_columns;
use crate::cpu::taps::SharedTaps;
use crate::cpu::tiles::{Tiles, workers};
use crate::cpu::{Elements, Rows, RowsMut, padded, scratch};
use crate::problem::{Convolution, LightConvProblem};
use crate::sequences::Piece;
use crate::{Error, Normalize, Result, Sequences};

/// Light convolution, prepared: see [`LightConvProblem`].
#[derive(Clone, Debug)]
pub struct LightConv {
    problem: LightConvProblem,
    filter: FilterPlan,
}

/// What [`LightConv::run`] reads and writes.
#[derive(Debug)]
pub struct LightConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

impl LightConv {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: LightConvProblem) -> Self {
        let filter = FilterPlan::new(problem.convolution());
        LightConv { problem, filter }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.filter.shared() + workers() * self.filter.per_worker()
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input that
    /// is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: LightConvArgs<'_>, scratch_memory: &mut [f32]) -> Result<()> {
        let conv = self.problem.convolution();
        let LightConvArgs { sequences, x, weight, bias, history, y } = args;
        let tokens = check_tokens(conv, sequences, x, history)?;
        let [heads, width] = self.problem.weight_shape();
        weight.check("weight", conv.parameter_dtype(), heads * width)?;
        check_optional("bias", bias, conv.has_bias(), conv.parameter_dtype(), conv.channels())?;
        let y = y.check("y", conv.dtype(), conv.sequences().tokens(), conv.channels())?;
        let memory = scratch(scratch_memory, self.scratch_len())?;

        let (shared, per_worker) = memory.split_at_mut(self.filter.shared());
        let filter = self.filter.prepare(conv, weight, bias, shared);
        self.filter.tiles().for_each(per_worker, self.filter.per_worker(), |rows, columns, scratch| {
            for piece in sequences.pieces(rows) {
                zero_padding(&y, &piece, columns.clone());
                filter.convolve(tokens, &piece, columns.clone(), scratch, |row, column, values| {
                    // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                    unsafe { y.store(row, column, values) };
                });
            }
        });
        Ok(())
    }
}

/// The checked tokens of a convolution, or what is wrong with them.
pub(crate) fn check_tokens<'a>(
    conv: &Convolution,
    sequences: &Sequences,
    x: Rows<'a>,
    history: Option<Elements<'a>>,
) -> Result<Tokens<'a>> {
    sequences.check(conv.sequences())?;
    if sequences.continues() && !conv.has_history() {
        return Err(Error::Missing { tensor: "history" });
    }
    let x = x.check("x", conv.dtype(), conv.sequences().tokens(), conv.channels())?;
    let size = conv.history_shape().iter().product();
    check_optional("history", history, conv.has_history(), conv.dtype(), size)?;
    Ok(Tokens { x, history, channels: conv.channels() })
}

/// Writes zeros to the padding of a piece.
pub(crate) fn zero_padding(y: &Sink<'_>, piece: &Piece, columns: Range<usize>) {
    const ZEROS: [f32; 64] = [0.0; 64];
    for row in piece.padding.clone() {
        for start in columns.clone().step_by(ZEROS.len()) {
            let count = ZEROS.len().min(columns.end - start);
            // SAFETY: the rows and columns of a piece belong to one tile, and tiles are disjoint.
            unsafe { y.store(row, start, &ZEROS[..count]) };
        }
    }
}

/// Channels of a tile: wide enough that a row of it is a few cache lines, narrow enough that a tile and its halo stay
/// in the first cache.
const TILE_CHANNELS: usize = 64;

/// How a convolution whose tokens share their taps is cut up.
#[derive(Clone, Debug)]
pub(crate) struct FilterPlan {
    tokens: usize,
    channels: usize,
    heads: usize,
    width: usize,
    tile_tokens: usize,
    /// Most rows that one phase of a tile reads.
    rows: usize,
    edges: bool,
}

impl FilterPlan {
    pub(crate) fn new(conv: &Convolution) -> Self {
        // A tile of a dilated window falls into phases, which should not get too short.
        let tile_tokens = 64 * conv.window().dilation().min(8);
        let longest = conv.sequences().longest();
        FilterPlan {
            tokens: conv.sequences().tokens(),
            channels: conv.channels(),
            heads: conv.heads(),
            width: conv.window().width(),
            tile_tokens,
            rows: Phase::max_rows(conv, tile_tokens, longest),
            edges: conv.normalization() == Normalize::SoftmaxInRange,
        }
    }

    /// Numbers of scratch that all workers share: taps of each head, and taps and bias of each channel.
    pub(crate) fn shared(&self) -> usize {
        self.width * padded(self.heads) + (self.width + 1) * padded(self.channels)
    }

    /// Numbers of scratch for each worker: the rows of a phase, its outputs, and the taps of a token at the edge.
    pub(crate) fn per_worker(&self) -> usize {
        let edge = if self.edges { 2 * self.width * TILE_CHANNELS } else { 0 };
        (self.rows + self.tile_tokens) * TILE_CHANNELS + edge
    }

    /// Tokens by channels.
    pub(crate) fn tiles(&self) -> Tiles {
        Tiles::new(self.tokens, self.channels, self.tile_tokens, TILE_CHANNELS)
    }

    /// Tokens of a tile.
    pub(crate) fn tile_tokens(&self) -> usize {
        self.tile_tokens
    }

    /// The channels of each tile.
    pub(crate) fn tile_columns(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let channels = self.channels;
        (0..channels).step_by(TILE_CHANNELS).map(move |start| start..(start + TILE_CHANNELS).min(channels))
    }

    /// Normalises weight `[H, K]` and expands it to taps for each channel.
    pub(crate) fn prepare<'a>(
        &'a self,
        conv: &'a Convolution,
        weight: Elements<'a>,
        bias: Option<Elements<'_>>,
        shared: &'a mut [f32],
    ) -> Filter<'a> {
        let (heads, channels) = (padded(self.heads), padded(self.channels));
        let (by_head, rest) = shared.split_at_mut(self.width * heads);
        let (taps, expanded_bias) = rest.split_at_mut(self.width * channels);
        by_head.fill(0.0);
        load_taps(weight, 0..self.heads, self.width, 0..self.width, by_head, heads);
        normalize_columns(by_head, self.width, heads, conv.normalization());
        taps.fill(0.0);
        expand(by_head, heads, conv.head_channels(), 0..self.channels, taps, channels);
        expanded_bias.fill(0.0);
        if let Some(bias) = bias {
            bias.load(0, &mut expanded_bias[..self.channels]);
        }
        Filter { plan: self, conv, weight, taps, bias: expanded_bias }
    }
}

/// Taps `taps` of heads `heads` of weight `[H, K]`, transposed: tap j of the first head at j * stride.
fn load_taps(
    weight: Elements<'_>,
    heads: Range<usize>,
    width: usize,
    taps: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    for (j, out) in taps.zip(out.chunks_exact_mut(stride)) {
        for (h, out) in heads.clone().zip(out) {
            *out = weight.at(h * width + j);
        }
    }
}

/// Repeats the taps of each head for its channels: those of `columns`, whose first head is the first of `by_head`.
fn expand(
    by_head: &[f32],
    head_stride: usize,
    head_channels: usize,
    columns: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let first = columns.start / head_channels;
    for (by_head, out) in by_head.chunks_exact(head_stride).zip(out.chunks_exact_mut(stride)) {
        for (c, out) in columns.clone().zip(out) {
            *out = by_head[c / head_channels - first];
        }
    }
}

/// A weight made ready: taps for each channel.
pub(crate) struct Filter<'a> {
    plan: &'a FilterPlan,
    conv: &'a Convolution,
    weight: Elements<'a>,
    /// `[K, padded(C)]`.
    taps: &'a [f32],
    /// `[padded(C)]`.
    bias: &'a [f32],
}

impl Filter<'_> {
    /// Convolves columns of the tokens of `piece`, and gives each row (its number, first column, values) to `sink`.
    pub(crate) fn convolve(
        &self,
        tokens: Tokens<'_>,
        piece: &Piece,
        columns: Range<usize>,
        scratch: &mut [f32],
        mut sink: impl FnMut(usize, usize, &[f32]),
    ) {
        let (channels, width) = (padded(self.plan.channels), padded(columns.len()));
        let (rows, scratch) = scratch.split_at_mut(self.plan.rows * TILE_CHANNELS);
        let (out, edge) = scratch.split_at_mut(self.plan.tile_tokens * TILE_CHANNELS);
        for phase in Phase::all(self.conv, piece) {
            phase.stage(tokens, columns.clone(), TILE_CHANNELS, rows);
            for out in out.chunks_exact_mut(TILE_CHANNELS).take(phase.count()) {
                out[..width].copy_from_slice(&self.bias[columns.start..][..width]);
            }
            let mut run = |tokens: Range<usize>, taps: Range<usize>, weights: &[f32], weight_stride| {
                SharedTaps {
                    out: &mut out[tokens.start * TILE_CHANNELS..],
                    out_stride: TILE_CHANNELS,
                    rows: &rows[phase.row(tokens.start, taps.start) * TILE_CHANNELS..],
                    row_stride: TILE_CHANNELS,
                    weights,
                    weight_stride,
                    tokens: tokens.len(),
                    taps: taps.len(),
                    width,
                }
                .run();
            };
            let interior = phase.interior();
            if !interior.is_empty() {
                run(interior.clone(), 0..self.plan.width, &self.taps[columns.start..], channels);
            }
            for i in (0..interior.start).chain(interior.end..phase.count()) {
                let taps = phase.taps(i);
                if taps.is_empty() {
                    continue;
                }
                if self.plan.edges {
                    let weights = self.normalize_in_range(taps.clone(), columns.clone(), edge);
                    run(i..i + 1, taps, weights, TILE_CHANNELS);
                } else {
                    let weights = &self.taps[taps.start * channels + columns.start..];
                    run(i..i + 1, taps, weights, channels);
                }
            }
            for (i, out) in out.chunks_exact(TILE_CHANNELS).take(phase.count()).enumerate() {
                sink(phase.token_row(i), columns.start, &out[..columns.len()]);
            }
        }
    }

    /// The taps of a token that has only `taps` in range, normalised over those.
    fn normalize_in_range<'e>(
        &self,
        taps: Range<usize>,
        columns: Range<usize>,
        edge: &'e mut [f32],
    ) -> &'e [f32] {
        let r = self.conv.head_channels();
        let heads = columns.start / r..(columns.end - 1) / r + 1;
        let stride = padded(heads.len());
        let (by_head, out) = edge.split_at_mut(self.plan.width * TILE_CHANNELS);
        let by_head = &mut by_head[..taps.len() * stride];
        load_taps(self.weight, heads, self.plan.width, taps.clone(), by_head, stride);
        normalize_columns(by_head, taps.len(), stride, Normalize::SoftmaxInRange);
        expand(by_head, stride, r, columns, out, TILE_CHANNELS);
        out
    }
}
