//! The gradient of taps that all tokens share.
//!
//! It must read x and dy once, and multiply as much as the convolution: K C a token. A tile of both is staged in blocks of
//! channels that stay in the first cache; sums of eight taps stay in registers while its tokens go by, and the sums of
//! all taps in the second cache from tile to tile. Only at the end of a part of the tokens are the lanes of a head added.

use std::ops::Range;

use crate::Normalize;
use crate::cpu::filter::{BLOCK, Weights, used_taps};
use crate::cpu::padded;
use crate::cpu::phase::{Phase, Staged, Tokens, tile_tokens};
use crate::cpu::rows::{Sink, Source};
use crate::cpu::taps::{TapSums, sum};
use crate::cpu::tiles::Tiles;
use crate::problem::Convolution;
use crate::sequences::Sequences;

/// Channels that are staged together: rows long enough that memory streams.
const GROUP: usize = 512;

/// Parts of the tokens at most: their sums are added in the end.
const PARTS: usize = 64;

/// Taps whose outputs are summed together where the sequence does not have all that they read.
const TAPS: usize = 8;

/// How the gradient of a weight `[H, K]` is cut up: into parts of the tokens by heads, whatever the number of threads.
#[derive(Clone, Debug)]
pub(crate) struct TapGradient {
    heads: usize,
    head_channels: usize,
    width: usize,
    /// The taps that are in range for any token: the others have a gradient by way of the softmax alone.
    used: Range<usize>,
    tokens: usize,
    part_tokens: usize,
    tile_tokens: usize,
    tile_heads: usize,
    x: Staged,
    dy: Staged,
    /// Whether tokens that have not all taps in range have weights of their own.
    edges: bool,
}

impl TapGradient {
    pub(crate) fn new(conv: &Convolution) -> Self {
        let (tokens, tile_tokens) = (conv.sequences().tokens(), tile_tokens(conv));
        let rows = Phase::max_rows(conv, tile_tokens, conv.sequences().longest());
        TapGradient {
            heads: conv.heads(),
            head_channels: conv.head_channels(),
            width: conv.window().width(),
            used: used_taps(conv),
            tokens,
            part_tokens: tokens.div_ceil(PARTS).next_multiple_of(tile_tokens),
            tile_tokens,
            tile_heads: (GROUP / conv.head_channels()).clamp(1, conv.heads()),
            x: Staged { block: BLOCK, stride: BLOCK, rows },
            dy: Staged { block: BLOCK, stride: BLOCK, rows: tile_tokens },
            edges: conv.normalize() == Normalize::SoftmaxInRange,
        }
    }

    fn parts(&self) -> usize {
        self.tokens.div_ceil(self.part_tokens.max(1))
    }

    /// Numbers of one part's sums: those of all tokens together, and of those with weights of their own.
    fn part_len(&self) -> usize {
        let sums = self.heads.saturating_mul(self.used.len());
        if self.edges { sums.saturating_mul(2) } else { sums }
    }

    /// Numbers of scratch that all workers share.
    pub(crate) fn shared(&self) -> usize {
        self.parts().saturating_mul(self.part_len())
    }

    /// Numbers of scratch for each worker: staged rows and outputs, the sums of all taps and those of one token, and the
    /// gradients of all heads. In the end, those of one head before and after its softmax.
    pub(crate) fn per_worker(&self) -> usize {
        let channels = self.tile_heads * self.head_channels;
        let staged = self.x.len(channels).saturating_add(self.dy.len(channels));
        let sums = self.used.len().saturating_mul(padded(channels) + 2 * self.tile_heads + BLOCK + 2);
        staged.saturating_add(sums).max(2 * self.width)
    }

    /// Sums up all parts.
    pub(crate) fn run(
        &self,
        conv: &Convolution,
        sequences: &Sequences,
        (x, dy): (Tokens<'_>, Source<'_>),
        weights: &Weights<'_>,
        shared: &mut [f32],
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        if self.used.is_empty() {
            return;
        }
        let sums = Sink::of(shared, self.part_len());
        let (r, used) = (self.head_channels, self.used.len());
        let tiles = Tiles::new(self.parts(), self.heads, 1, self.tile_heads);
        tiles.for_each(worker_parts, worker_len, |part, heads, scratch| {
            let columns = heads.start * r..heads.end * r;
            let stride = padded(columns.len());
            let (x_rows, scratch) = scratch.split_at_mut(self.x.len(columns.len()));
            let (dy_rows, scratch) = scratch.split_at_mut(self.dy.len(columns.len()));
            let (all, scratch) = scratch.split_at_mut(used * stride);
            let (own, scratch) = scratch.split_at_mut(used * heads.len());
            all.fill(0.0);
            own.fill(0.0);
            let rows = part.start * self.part_tokens..(part.end * self.part_tokens).min(self.tokens);
            for start in rows.clone().step_by(self.tile_tokens) {
                for piece in sequences.pieces(start..(start + self.tile_tokens).min(rows.end)) {
                    for phase in Phase::all(conv, &piece) {
                        phase.stage(x, columns.clone(), self.x, x_rows);
                        for i in 0..phase.count() {
                            let (row, out) = (phase.token_row(i), &mut dy_rows[i * BLOCK..]);
                            dy.load_blocks(row, columns.clone(), BLOCK, self.dy.block_len(), out);
                        }
                        let staged =
                            Rows { plan: self, phase: &phase, columns: columns.clone(), x_rows, dy_rows };
                        let together =
                            if self.edges { phase.interior(&(0..phase.rows())) } else { 0..phase.count() };
                        staged.sum(together.clone(), all);
                        if self.edges {
                            for i in (0..together.start).chain(together.end..phase.count()) {
                                staged.sum_own(i, heads.clone(), weights, own, scratch);
                            }
                        }
                    }
                }
            }
            let folded = &mut scratch[..used * heads.len()];
            fold(all, stride, r, folded);
            // SAFETY: tiles are disjoint in parts or heads.
            unsafe {
                sums.store(part.start, heads.start * used, folded);
                if self.edges {
                    sums.store(part.start, (self.heads + heads.start) * used, own);
                }
            }
        });
    }

    /// Adds the parts, and writes what they are before normalisation to `dweight` `[H, K]`.
    pub(crate) fn finish(
        &self,
        conv: &Convolution,
        weights: &Weights<'_>,
        shared: &[f32],
        dweight: &Sink<'_>,
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        let used = self.used.len();
        let tiles = Tiles::new(self.heads, 1, 1, 1);
        tiles.for_each(worker_parts, worker_len, |head, _, scratch| {
            let head = head.start;
            let (g, out) = scratch.split_at_mut(self.width);
            let out = &mut out[..self.width];
            g.fill(0.0);
            let add = |first: usize, to: &mut [f32]| {
                for part in shared.chunks_exact(self.part_len().max(1)) {
                    to.iter_mut().zip(&part[first * used..][..used]).for_each(|(to, sum)| *to += sum);
                }
            };
            add(head, &mut g[self.used.clone()]);
            weights.drop(head, 0, g);
            if conv.normalize() == Normalize::None || g.iter().all(|&g| g == 0.0) {
                out.copy_from_slice(g);
            } else {
                softmax_backward(weights.normalized(head), g, out);
            }
            if self.edges {
                add(self.heads + head, &mut out[self.used.clone()]);
            }
            // SAFETY: each row is written once.
            unsafe { dweight.store(head, 0, out) };
        });
    }
}

/// out\[j\] = w\[j\] (g\[j\] - sum_i w\[i\] g\[i\]).
fn softmax_backward(w: &[f32], g: &[f32], out: &mut [f32]) {
    for ((out, w), g) in out.iter_mut().zip(w).zip(g) {
        *out = w * g;
    }
    let mean = sum(out);
    for ((out, w), g) in out.iter_mut().zip(w).zip(g) {
        *out = w * (g - mean);
    }
}

/// Adds the channels of each head: rows `[taps, stride]` to `[heads, taps]`.
fn fold(rows: &[f32], stride: usize, head_channels: usize, out: &mut [f32]) {
    let taps = rows.len() / stride;
    for (head, out) in out.chunks_exact_mut(taps.max(1)).enumerate() {
        for (row, out) in rows.chunks_exact(stride).zip(out) {
            *out = sum(&row[head * head_channels..][..head_channels]);
        }
    }
}

/// What a tile has staged of one phase.
struct Rows<'a> {
    plan: &'a TapGradient,
    phase: &'a Phase,
    columns: Range<usize>,
    x_rows: &'a [f32],
    dy_rows: &'a [f32],
}

impl Rows<'_> {
    /// The blocks of channels: where each begins among the columns, how wide it is, its rows and its outputs.
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, &[f32], &[f32])> {
        let count = self.columns.len();
        let columns = (0..count).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(count));
        let x = self.x_rows.chunks_exact(self.plan.x.block_len());
        let dy = self.dy_rows.chunks_exact(self.plan.dy.block_len());
        columns.zip(x).zip(dy).map(|((columns, x), dy)| (columns, x, dy))
    }

    /// Adds what `tokens` give to the sums of all taps, `[taps, padded(columns)]`.
    fn sum(&self, tokens: Range<usize>, sums: &mut [f32]) {
        let used = &self.plan.used;
        if tokens.is_empty() || used.is_empty() {
            return;
        }
        let (phase, sum_stride) = (self.phase, padded(self.columns.len()));
        let within = |all: Range<usize>| {
            let (start, end) = (all.start.max(tokens.start), all.end.min(tokens.end));
            if start < end { start..end } else { tokens.start..tokens.start }
        };
        for (columns, x, dy) in self.blocks() {
            let mut run = |tokens: Range<usize>, taps: Range<usize>| {
                if tokens.is_empty() {
                    return;
                }
                TapSums {
                    sums: &mut sums[(taps.start - used.start) * sum_stride + columns.start..],
                    sum_stride,
                    dy: &dy[tokens.start * BLOCK..],
                    dy_stride: BLOCK,
                    rows: &x[phase.row(tokens.start, taps.start) * BLOCK..],
                    row_stride: BLOCK,
                    tokens: tokens.len(),
                    taps: taps.len(),
                    width: padded(columns.len()),
                }
                .run();
            };
            if within(phase.tokens_of(used)) == tokens {
                run(tokens.clone(), used.clone());
                continue;
            }
            for tap in used.clone().step_by(TAPS) {
                // Most tokens have all of these taps in range, some at either end only the last or the first of them.
                let taps = tap..(tap + TAPS).min(used.end);
                let whole = within(phase.tokens_of(&taps));
                run(whole.clone(), taps.clone());
                for tap in taps {
                    let all = within(phase.tokens_of(&(tap..tap + 1)));
                    run(all.start..whole.start.clamp(all.start, all.end), tap..tap + 1);
                    run(whole.end.clamp(all.start, all.end)..all.end, tap..tap + 1);
                }
            }
        }
    }

    /// Adds the gradient of the logits that token i gives, by weights of its own, to `own` `[heads, taps]`.
    fn sum_own(
        &self,
        i: usize,
        heads: Range<usize>,
        weights: &Weights<'_>,
        own: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (taps, used, r) = (self.phase.taps(i), self.plan.used.len(), self.plan.head_channels);
        let count = taps.len();
        if count == 0 {
            return;
        }
        let (sums, scratch) = scratch.split_at_mut(used * BLOCK);
        let (g, scratch) = scratch.split_at_mut(heads.len() * count);
        let (w, rest) = scratch.split_at_mut(count);
        g.fill(0.0);
        let row = self.phase.row(i, taps.start);
        for (columns, x, dy) in self.blocks() {
            let sums = &mut sums[..count * BLOCK];
            sums.fill(0.0);
            TapSums {
                sums,
                sum_stride: BLOCK,
                dy: &dy[i * BLOCK..],
                dy_stride: BLOCK,
                rows: &x[row * BLOCK..],
                row_stride: BLOCK,
                tokens: 1,
                taps: count,
                width: padded(columns.len()),
            }
            .run();
            let mut column = columns.start;
            while column < columns.end {
                let end = (column / r * r + r).min(columns.end);
                let channels = column - columns.start..end - columns.start;
                for (g, sums) in g[column / r * count..][..count].iter_mut().zip(sums.chunks_exact(BLOCK)) {
                    *g += sum(&sums[channels.clone()]);
                }
                column = end;
            }
        }
        let at = taps.start - self.plan.used.start;
        for ((head, g), own) in heads.zip(g.chunks_exact_mut(count)).zip(own.chunks_exact_mut(used)) {
            weights.normalize_in_range(head, taps.clone(), w);
            weights.drop(head, taps.start, g);
            let found = &mut rest[..count];
            softmax_backward(w, g, found);
            own[at..at + count].iter_mut().zip(found).for_each(|(own, found)| *own += *found);
        }
    }
}
