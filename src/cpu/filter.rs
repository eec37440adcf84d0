//! Convolution with taps that all tokens share: light convolution, and the depthwise part of a span-aware key.

use std::ops::Range;

use crate::Normalize;
use crate::cpu::phase::{Phase, Staged, Tokens, tile_tokens};
use crate::cpu::softmax::softmax_row;
use crate::cpu::taps::SharedTaps;
use crate::cpu::tiles::Tiles;
use crate::cpu::{Elements, padded};
use crate::problem::Convolution;
use crate::sequences::Piece;

/// Channels of a tile: rows long enough that memory streams, and few enough that a tile fits in the second cache.
const TILE_CHANNELS: usize = 512;

/// Channels that are convolved together: a block of them, with its halo, fits in the first cache.
const BLOCK: usize = 64;

/// How a convolution whose tokens share their taps is cut up.
#[derive(Clone, Debug)]
pub(crate) struct FilterPlan {
    tokens: usize,
    channels: usize,
    heads: usize,
    width: usize,
    /// The taps that are in range for any token: a window may be much wider than its sequences are long.
    used: Range<usize>,
    tile_tokens: usize,
    staged: Staged,
    edges: bool,
}

impl FilterPlan {
    pub(crate) fn new(conv: &Convolution) -> Self {
        let (tile_tokens, longest, window) = (tile_tokens(conv), conv.sequences().longest(), conv.window());
        let past = if conv.has_history() { window.reach() } else { 0 };
        let first = window.taps_in_range(longest.saturating_sub(1), longest, past).start;
        let end = window.taps_in_range(0, longest, past).end;
        FilterPlan {
            tokens: conv.sequences().tokens(),
            channels: conv.channels(),
            heads: conv.heads(),
            width: window.width(),
            used: first..end.max(first),
            tile_tokens,
            staged: Staged { block: BLOCK, stride: BLOCK, rows: Phase::max_rows(conv, tile_tokens, longest) },
            edges: conv.normalize() == Normalize::SoftmaxInRange,
        }
    }

    /// Numbers of scratch that all workers share: taps of each head, and taps in use and bias of each channel.
    pub(crate) fn shared(&self) -> usize {
        // Windows so wide that these overflow have weights that no memory holds, and a run refuses them.
        let expanded = (self.used.len() + 1).saturating_mul(padded(self.channels));
        expanded.saturating_add(self.heads * self.width)
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
    pub(crate) fn tiles(&self) -> Tiles {
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
        shared: &'a mut [f32],
    ) -> Filter<'a> {
        let channels = padded(self.channels);
        let (by_head, rest) = shared.split_at_mut(self.heads * self.width);
        let (taps, expanded_bias) = rest.split_at_mut(self.used.len() * channels);
        weight.load(0, by_head);
        if conv.normalize() != Normalize::None {
            by_head.chunks_exact_mut(self.width).for_each(softmax_row);
        }
        taps.fill(0.0);
        for (j, taps) in self.used.clone().zip(taps.chunks_exact_mut(channels)) {
            expand(&by_head[j..], self.width, conv.head_channels(), 0..self.channels, taps);
        }
        expanded_bias.fill(0.0);
        if let Some(bias) = bias {
            bias.load(0, &mut expanded_bias[..self.channels]);
        }
        Filter { plan: self, conv, weight, taps, bias: expanded_bias }
    }
}

/// Repeats one tap of each head, `stride` apart, for the channels of that head: those of `columns`, whose first head is
/// the first of `by_head`.
fn expand(by_head: &[f32], stride: usize, head_channels: usize, columns: Range<usize>, out: &mut [f32]) {
    let mut column = columns.start;
    let mut rest = &mut out[..columns.len()];
    for tap in by_head.iter().step_by(stride) {
        let count = (head_channels - column % head_channels).min(rest.len());
        let (head, after) = rest.split_at_mut(count);
        head.fill(*tap);
        (rest, column) = (after, column + count);
    }
}

/// A weight made ready: taps for each channel.
pub(crate) struct Filter<'a> {
    plan: &'a FilterPlan,
    conv: &'a Convolution,
    weight: Elements<'a>,
    /// Those in use, `[taps, padded(C)]`.
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
        let interior = phase.interior();
        if !interior.is_empty() {
            let taps = 0..self.plan.width;
            run(interior.clone(), taps.clone(), self.taps_from(taps, columns.start), channels);
        }
        for i in (0..interior.start).chain(interior.end..phase.count()) {
            let taps = phase.taps(i);
            if self.plan.edges && !taps.is_empty() {
                let weights = self.normalize_in_range(taps.clone(), columns.clone(), edge);
                run(i..i + 1, taps, weights, BLOCK);
            } else {
                run(i..i + 1, taps.clone(), self.taps_from(taps, columns.start), channels);
            }
        }
    }

    /// The taps from a first one, which is in use unless there is none, from a first column on.
    fn taps_from(&self, taps: Range<usize>, column: usize) -> &[f32] {
        if taps.is_empty() {
            return &[];
        }
        &self.taps[(taps.start - self.plan.used.start) * padded(self.plan.channels) + column..]
    }

    /// The taps of a token that has only `taps` in range, normalised over those.
    fn normalize_in_range<'e>(
        &self,
        taps: Range<usize>,
        columns: Range<usize>,
        edge: &'e mut [f32],
    ) -> &'e [f32] {
        let (r, count) = (self.conv.head_channels(), taps.len());
        let heads = columns.start / r..(columns.end - 1) / r + 1;
        let (by_head, out) = edge.split_at_mut(self.plan.used.len() * BLOCK);
        for (h, row) in heads.zip(by_head.chunks_exact_mut(count)) {
            self.weight.load(h * self.plan.width + taps.start, row);
            softmax_row(row);
        }
        for (j, out) in (0..count).zip(out.chunks_exact_mut(BLOCK)) {
            expand(&by_head[j..], count, r, columns.clone(), out);
        }
        out
    }
}
