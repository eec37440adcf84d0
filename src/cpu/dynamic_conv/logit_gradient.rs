//! From the gradient of a tile's outputs to that of its logits: products with the tokens that were read, summed over the
//! channels of a head, and the softmax backward, all while the tile stays in the second cache.
//!
//! Lanes are tokens, so that no sum goes across a vector: tokens and outputs are turned to `[channels, tokens]`, block
//! after block, and g is `[heads, K, tokens]`, as the taps were.

use std::ops::Range;

use crate::cpu::arch;
use crate::cpu::dropout::drop_columns;
use crate::cpu::dynamic_conv::plan::Plan;
use crate::cpu::phase::{Phase, Staged, Tokens};
use crate::cpu::rows::{Sink, Source};
use crate::cpu::taps::TokenSums;
use crate::cpu::transpose::transpose;
use crate::problem::Convolution;
use crate::sequences::Piece;
use crate::{Dropout, Normalize};

/// What the gradient of the logits is made of.
pub(super) struct LogitGradient<'a> {
    pub(super) plan: &'a Plan,
    pub(super) conv: &'a Convolution,
    pub(super) tokens: Tokens<'a>,
    pub(super) dy: Source<'a>,
    pub(super) dropout: Option<Dropout>,
}

impl Plan {
    /// From one staged channel to the next: the tokens that those of a tile read, and room for a vector to run over.
    fn read_stride(&self) -> usize {
        let read = self.staged.rows.saturating_add(self.tile_tokens);
        self.tile_tokens.saturating_add(read.min(self.width)).next_multiple_of(16).saturating_add(16)
    }

    /// Numbers of scratch that [`LogitGradient::run`] needs: two tiles of taps, rows of a block as they come, and the
    /// tokens and outputs of a block by channel. Rows of taps take the place of these in the end.
    pub(super) fn logit_gradient_len(&self) -> usize {
        let rows = self.staged.rows.max(self.tile_tokens);
        let channels = rows.saturating_add(self.read_stride()).saturating_add(self.tap_stride);
        let staged = self.staged.block.saturating_mul(channels);
        let logits = (self.tile_heads * self.width).saturating_mul(self.tile_tokens);
        self.taps_len().saturating_mul(2).saturating_add(staged.max(logits))
    }
}

impl LogitGradient<'_> {
    /// Replaces the taps of the tokens and padding of `piece` and of `heads` in `stored`, `[tokens, H K]`, by the gradient
    /// of their logits, and writes it to `dlogits` too.
    ///
    /// # Safety
    ///
    /// No other thread may read or write these elements during the call.
    pub(super) unsafe fn run(
        &self,
        piece: &Piece,
        heads: Range<usize>,
        stored: &Sink<'_>,
        dlogits: Option<&Sink<'_>>,
        scratch: &mut [f32],
    ) {
        let plan = self.plan;
        let columns = heads.start * plan.width..heads.end * plan.width;
        let padding = piece.padding.clone();
        // SAFETY: the caller's promise.
        unsafe { stored.zero(padding.clone(), columns.clone()) };
        if let Some(dlogits) = dlogits {
            // SAFETY: the caller's promise.
            unsafe { dlogits.zero(padding, columns.clone()) };
        }
        let (g, scratch) = scratch.split_at_mut(columns.len() * plan.tap_stride);
        let (w, scratch) = scratch.split_at_mut(columns.len() * plan.tap_stride);
        for phase in Phase::all(self.conv, piece) {
            self.products(&phase, heads.clone(), g, scratch);
            let logits = &mut scratch[..phase.count() * columns.len()];
            for (i, row) in logits.chunks_exact_mut(columns.len()).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { stored.load(phase.token_row(i), columns.start, row) };
            }
            transpose((logits, columns.len()), (w, plan.tap_stride), phase.count(), columns.len());
            self.normalize_backward(&phase, heads.clone(), g, w);
            transpose((g, plan.tap_stride), (logits, columns.len()), columns.len(), phase.count());
            for (i, row) in logits.chunks_exact(columns.len()).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { stored.store(phase.token_row(i), columns.start, row) };
                if let Some(dlogits) = dlogits {
                    // SAFETY: the caller's promise.
                    unsafe { dlogits.store(phase.token_row(i), columns.start, row) };
                }
            }
        }
    }

    /// g `[heads, K, tokens]` of the tokens of a phase, before anything is dropped.
    fn products(&self, phase: &Phase, heads: Range<usize>, g: &mut [f32], scratch: &mut [f32]) {
        let (plan, r) = (self.plan, self.conv.head_channels());
        let (x_stride, dy_stride) = (plan.read_stride(), plan.tap_stride);
        let (x, scratch) = scratch.split_at_mut(plan.staged.block * x_stride);
        let (dy, rows) = scratch.split_at_mut(plan.staged.block * dy_stride);
        g.fill(0.0);
        let taps = phase.taps_in_use();
        if taps.is_empty() {
            return;
        }
        let before = phase.missing(taps.start);
        let after = before + phase.rows();
        let read = (phase.count() + taps.len() - 1).max(after);
        for columns in plan.groups(&heads).flat_map(|group| plan.blocks(group)) {
            let width = columns.len();
            let one_block = Staged { block: width, stride: width, rows: phase.rows() };
            phase.stage(self.tokens, columns.clone(), one_block, rows);
            transpose((rows, width), (&mut x[before..], x_stride), phase.rows(), width);
            for x in x.chunks_exact_mut(x_stride).take(width) {
                x[..before].fill(0.0);
                x[after..read].fill(0.0);
            }
            for (i, row) in rows.chunks_exact_mut(width).take(phase.count()).enumerate() {
                self.dy.load(phase.token_row(i), columns.start, row);
            }
            transpose((rows, width), (dy, dy_stride), phase.count(), width);
            // Channels of one head in this block: all of them, or what a block holds of a large head.
            for column in columns.clone().step_by(r.min(width)) {
                let (at, head) = (column - columns.start, column / r - heads.start);
                arch().dispatch(TokenSums {
                    sums: &mut g[(head * plan.width + taps.start) * plan.tap_stride..],
                    sum_stride: plan.tap_stride,
                    dy: &dy[at * dy_stride..],
                    dy_stride,
                    x: &x[at * x_stride..],
                    x_stride,
                    channels: r.min(width),
                    taps: taps.len(),
                    tokens: phase.count(),
                });
            }
        }
    }

    /// Makes the gradient of the logits of g, with the taps w as they are stored.
    fn normalize_backward(&self, phase: &Phase, heads: Range<usize>, g: &mut [f32], w: &[f32]) {
        let (width, stride) = (self.plan.width, self.plan.tap_stride);
        let tokens = (phase.token_row(0), self.conv.window().dilation(), phase.count());
        let normalize = self.conv.normalize();
        let by_head = g.chunks_exact_mut(width * stride).zip(w.chunks_exact(width * stride));
        for (head, (g, w)) in heads.zip(by_head) {
            // What is out of range has no gradient, whatever it was multiplied by.
            clear_out_of_range(phase, g, stride);
            if let Some(dropout) = self.dropout {
                let scale = dropout.rate().scale();
                drop_columns(dropout, head, tokens, (g, stride), |g| g * scale, |_| 0.0);
            }
            if normalize != Normalize::None {
                softmax_backward(g, w, stride);
            }
            if normalize == Normalize::SoftmaxInRange {
                clear_out_of_range(phase, g, stride);
            }
        }
    }
}

/// Makes zero of what is out of range in `[K, stride]`.
fn clear_out_of_range(phase: &Phase, data: &mut [f32], stride: usize) {
    for (tap, row) in data.chunks_exact_mut(stride).enumerate() {
        let tokens = phase.tokens_of(&(tap..tap + 1));
        row[..tokens.start].fill(0.0);
        row[tokens.end.max(tokens.start)..phase.count()].fill(0.0);
    }
}

/// Replaces each column of g by w (g - sum w g). Signs of w say what was dropped, and do not count.
fn softmax_backward(g: &mut [f32], w: &[f32], stride: usize) {
    const LANES: usize = 16;
    arch().dispatch(
        #[inline(always)]
        || {
            for column in (0..stride).step_by(LANES) {
                let count = LANES.min(stride - column);
                let mut mean = [0.0; LANES];
                for (g, w) in g.chunks_exact(stride).zip(w.chunks_exact(stride)) {
                    let (g, w) = (&g[column..][..count], &w[column..][..count]);
                    for ((mean, g), w) in mean.iter_mut().zip(g).zip(w) {
                        *mean += w.abs() * g;
                    }
                }
                for (g, w) in g.chunks_exact_mut(stride).zip(w.chunks_exact(stride)) {
                    let (g, w) = (&mut g[column..][..count], &w[column..][..count]);
                    for ((mean, g), w) in mean.iter().zip(g).zip(w) {
                        *g = w.abs() * (*g - mean);
                    }
                }
            }
        },
    );
}
