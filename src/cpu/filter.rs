//! Convolution with taps that all tokens share: light convolution, and the depthwise part of a span-aware key.

mod gradient;
mod weights;

pub(crate) use gradient::TapGradient;
pub(crate) use weights::Weights;

use std::ops::Range;

use crate::cpu::phase::{Phase, Staged, Tokens, tile_tokens};
use crate::cpu::rows::Sink;
use crate::cpu::taps::SharedTaps;
use crate::cpu::tiles::Tiles;
use crate::cpu::{Elements, arch, padded};
use crate::problem::Convolution;
use crate::sequences::Piece;
use crate::{Dropout, Normalize, Sequences};

/// Channels of a tile: rows long enough that memory streams, and few enough that a tile fits in the second cache.
const TILE_CHANNELS: usize = 512;

/// Channels that are convolved together: a block of them, with its halo, fits in the first cache.
const BLOCK: usize = 64;

/// How a convolution whose tokens share their taps is cut up.
#[derive(Clone, Debug)]
pub(crate) struct FilterPlan {
    tokens: usize,
    channels: usize,
    width: usize,
    weights: usize,
    /// The taps that are in range for any token: a window may be much wider than its sequences are long.
    used: Range<usize>,
    tile_tokens: usize,
    staged: Staged,
    edges: bool,
}

impl FilterPlan {
    pub(crate) fn new(conv: &Convolution) -> Self {
        let (tile_tokens, longest, window) = (tile_tokens(conv), conv.sequences().longest(), conv.window());
        FilterPlan {
            tokens: conv.sequences().tokens(),
            channels: conv.channels(),
            width: window.width(),
            weights: Weights::len(conv),
            used: used_taps(conv),
            tile_tokens,
            staged: Staged { block: BLOCK, stride: BLOCK, rows: Phase::max_rows(conv, tile_tokens, longest) },
            edges: conv.normalize() == Normalize::SoftmaxInRange,
        }
    }

    /// Numbers of scratch that all workers share: taps of each head, and taps in use and bias of each channel.
    pub(crate) fn shared(&self) -> usize {
        // Windows so wide that these overflow have weights that no memory holds, and a run refuses them.
        let expanded = (self.used.len() + 1).saturating_mul(padded(self.channels));
        expanded.saturating_add(self.weights)
    }

    /// Numbers of scratch for each worker: the rows of a phase, its outputs, and the taps of a token at the edge.
    pub(crate) fn per_worker(&self) -> usize {
        let edge = if self.edges { self.used.len().saturating_mul(2 * BLOCK) } else { 0 };
        let outputs = self.tile_tokens * padded(self.tile_channels());
        self.staged.len(self.tile_channels()).saturating_add(outputs).saturating_add(edge)
    }

    fn tile_channels(&self) -> usize {
        self.channels.min(TILE_CHANNELS)
    }

    /// Tokens by channels.
    fn tiles(&self) -> Tiles {
        Tiles::new(self.tokens, self.channels, self.tile_tokens, self.tile_channels())
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
        dropout: Option<Dropout>,
        shared: &'a mut [f32],
    ) -> Filter<'a> {
        let (weights, expanded) = shared.split_at_mut(self.weights);
        let weights = Weights::prepare(conv, weight, dropout, weights);
        self.expand(conv, weights, bias, Direction::Forward, expanded)
    }

    /// The same for the gradient of the tokens: convolution of the gradient of the outputs along `mirrored`, the
    /// convolution that this plan was made for, with the weights of the one whose gradient it is.
    pub(crate) fn prepare_mirrored<'a>(
        &'a self,
        mirrored: &'a Convolution,
        weight: Elements<'a>,
        dropout: Option<Dropout>,
        shared: &'a mut [f32],
    ) -> Filter<'a> {
        let (weights, expanded) = shared.split_at_mut(self.weights);
        let weights = Weights::prepare(mirrored, weight, dropout, weights);
        self.expand(mirrored, weights, None, Direction::Backward, expanded)
    }

    fn expand<'a>(
        &'a self,
        conv: &'a Convolution,
        weights: Weights<'a>,
        bias: Option<Elements<'_>>,
        direction: Direction,
        memory: &'a mut [f32],
    ) -> Filter<'a> {
        let channels = padded(self.channels);
        let (taps, rest) = memory.split_at_mut(self.used.len() * channels);
        let expanded_bias = &mut rest[..channels];
        taps.fill(0.0);
        for (j, taps) in self.used.clone().zip(taps.chunks_exact_mut(channels)) {
            let tap = match direction {
                Direction::Forward => j,
                Direction::Backward => self.width - 1 - j,
            };
            weights.expand(tap, 0..self.channels, taps);
        }
        expanded_bias.fill(0.0);
        if let Some(bias) = bias {
            bias.load(0, &mut expanded_bias[..self.channels]);
        }
        Filter { plan: self, conv, weights, direction, taps, bias: expanded_bias }
    }
}

/// The taps that are in range for any token.
fn used_taps(conv: &Convolution) -> Range<usize> {
    let (longest, window) = (conv.sequences().longest(), conv.window());
    let past = if conv.has_history() { window.reach() } else { 0 };
    let first = window.taps_in_range(longest.saturating_sub(1), longest, past).start;
    first..window.taps_in_range(0, longest, past).end.max(first)
}

/// Which way a convolution goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From tokens to outputs.
    Forward,
    /// From the gradient of outputs to that of tokens: along the mirrored window, the last tap first.
    Backward,
}

/// A weight made ready: taps for each channel.
pub(crate) struct Filter<'a> {
    plan: &'a FilterPlan,
    conv: &'a Convolution,
    weights: Weights<'a>,
    direction: Direction,
    /// Those in use, `[taps, padded(C)]`.
    taps: &'a [f32],
    /// `[padded(C)]`.
    bias: &'a [f32],
}

impl Filter<'_> {
    /// Convolves all tokens, and makes zeros of the padding.
    pub(crate) fn convolve_all(
        &self,
        sequences: &Sequences,
        tokens: Tokens<'_>,
        out: &Sink<'_>,
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        self.plan.tiles().for_each(worker_parts, worker_len, |rows, columns, scratch| {
            for piece in sequences.pieces(rows) {
                // SAFETY: tiles are disjoint in rows or columns, and the pieces of one tile in rows.
                unsafe { out.zero(piece.padding.clone(), columns.clone()) };
                self.convolve(tokens, &piece, columns.clone(), scratch, |row, column, values| {
                    // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                    unsafe { out.store(row, column, values) };
                });
            }
        });
    }

    /// Convolves columns of the tokens of `piece`, and gives each row (its number, first column, values) to `sink`.
    pub(crate) fn convolve(
        &self,
        tokens: Tokens<'_>,
        piece: &Piece,
        columns: Range<usize>,
        scratch: &mut [f32],
        mut sink: impl FnMut(usize, usize, &[f32]),
    ) {
        let (staged, stride) = (self.plan.staged, padded(columns.len()));
        let (rows, scratch) = scratch.split_at_mut(staged.len(columns.len()));
        let (out, edge) = scratch.split_at_mut(self.plan.tile_tokens * stride);
        for phase in Phase::all(self.conv, piece) {
            phase.stage(tokens, columns.clone(), staged, rows);
            let blocks = columns.clone().step_by(BLOCK).map(|start| start..(start + BLOCK).min(columns.end));
            for (block, rows) in blocks.zip(rows.chunks_exact(staged.block_len())) {
                let out = &mut out[block.start - columns.start..];
                self.convolve_block(&phase, block, rows, edge, out, stride);
            }
            for (i, out) in out.chunks_exact(stride).take(phase.count()).enumerate() {
                sink(phase.token_row(i), columns.start, &out[..columns.len()]);
            }
        }
    }

    /// The outputs of one phase and one block of channels, from its staged rows, into `out` `[tokens, stride]`.
    fn convolve_block(
        &self,
        phase: &Phase,
        columns: Range<usize>,
        rows: &[f32],
        edge: &mut [f32],
        out: &mut [f32],
        stride: usize,
    ) {
        let channels = padded(self.plan.channels);
        let mut run = |tokens: Range<usize>, taps: Range<usize>, weights: &[f32], weight_stride| {
            let first = if taps.is_empty() { 0 } else { phase.row(tokens.start, taps.start) };
            SharedTaps {
                out: &mut out[tokens.start * stride..],
                out_stride: stride,
                bias: &self.bias[columns.start..],
                rows: &rows[first * BLOCK..],
                row_stride: BLOCK,
                weights,
                weight_stride,
                tokens: tokens.len(),
                taps: taps.len(),
                width: padded(columns.len()),
            }
            .run();
        };
        // Rows whose tokens have weights of their own do not go through the taps that all share.
        let scattered = self.plan.edges && self.direction == Direction::Backward;
        let shared = if scattered { phase.interior_rows() } else { 0..phase.rows() };
        let taps = |i| phase.taps_among(i, &shared);
        let interior = phase.interior(&shared);
        if !interior.is_empty() {
            let taps = 0..self.plan.width;
            run(interior.clone(), taps.clone(), self.taps_from(taps, columns.start), channels);
        }
        for i in (0..interior.start).chain(interior.end..phase.count()) {
            let taps = taps(i);
            if self.plan.edges && !scattered && !taps.is_empty() {
                let weights = self.weights.expand_in_range(taps.clone(), columns.clone(), edge, BLOCK);
                run(i..i + 1, taps, weights, BLOCK);
            } else {
                run(i..i + 1, taps.clone(), self.taps_from(taps, columns.start), channels);
            }
        }
        if scattered {
            for m in (0..shared.start).chain(shared.end..phase.rows()) {
                self.scatter((phase, m), columns.clone(), rows, edge, out, stride);
            }
        }
    }

    /// Adds what one row, with weights of its own, gives to every token that reads it.
    fn scatter(
        &self,
        (phase, row): (&Phase, usize),
        columns: Range<usize>,
        rows: &[f32],
        edge: &mut [f32],
        out: &mut [f32],
        stride: usize,
    ) {
        let taps = phase.mirrored_taps(row);
        if taps.is_empty() {
            return;
        }
        let weights = self.weights.expand_in_range(taps.clone(), columns.clone(), edge, BLOCK);
        let row_values = &rows[row * BLOCK..][..columns.len()];
        arch().dispatch(
            #[inline(always)]
            || {
                for (tap, weights) in taps.zip(weights.chunks_exact(BLOCK)) {
                    if let Some(i) = phase.reader(row, self.plan.width - 1 - tap) {
                        let out = &mut out[i * stride..][..columns.len()];
                        for ((out, weight), x) in out.iter_mut().zip(weights).zip(row_values) {
                            *out += weight * x;
                        }
                    }
                }
            },
        );
    }

    /// The taps from a first one, which is in use unless there is none, from a first column on.
    fn taps_from(&self, taps: Range<usize>, column: usize) -> &[f32] {
        if taps.is_empty() {
            return &[];
        }
        &self.taps[(taps.start - self.plan.used.start) * padded(self.plan.channels) + column..]
    }
}
