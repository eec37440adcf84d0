//! Taps that all tokens share: normalised, and what dropout does to them.

use std::ops::Range;

use crate::cpu::Elements;
use crate::cpu::dropout::{drop_shared, shared_factors};
use crate::cpu::softmax::softmax_row;
use crate::problem::Convolution;
use crate::{Dropout, Normalize};

/// A weight `[H, K]` made ready.
pub(crate) struct Weights<'a> {
    given: Elements<'a>,
    width: usize,
    head_channels: usize,
    /// `[H, K]`, over all taps.
    normalized: &'a [f32],
    /// `[H, K]`, what dropout multiplies them by; empty without.
    factors: &'a [f32],
}

impl<'a> Weights<'a> {
    /// Numbers of memory that [`Weights::prepare`] needs.
    pub(crate) fn len(conv: &Convolution) -> usize {
        let count = conv.heads() * conv.window().width();
        if conv.dropout().is_some() { 2 * count } else { count }
    }

    /// The checked weight of `conv`.
    pub(crate) fn prepare(
        conv: &Convolution,
        given: Elements<'a>,
        dropout: Option<Dropout>,
        memory: &'a mut [f32],
    ) -> Self {
        let (width, heads) = (conv.window().width(), conv.heads());
        let (normalized, factors) = memory.split_at_mut(heads * width);
        given.load(0, normalized);
        if conv.normalize() != Normalize::None {
            normalized.chunks_exact_mut(width).for_each(softmax_row);
        }
        let factors = if let Some(dropout) = dropout {
            shared_factors(dropout, width, factors);
            &*factors
        } else {
            &[]
        };
        Weights { given, width, head_channels: conv.head_channels(), normalized, factors }
    }

    /// The taps of a head, normalised, before any is dropped.
    pub(crate) fn normalized(&self, head: usize) -> &[f32] {
        &self.normalized[head * self.width..][..self.width]
    }

    /// Drops taps of a head, from `tap` on, as the call does.
    pub(crate) fn drop(&self, head: usize, tap: usize, taps: &mut [f32]) {
        if !self.factors.is_empty() {
            drop_shared(taps, &self.factors[head * self.width + tap..]);
        }
    }

    /// The taps of a head that are in range for some token, normalised over those, before any is dropped.
    pub(crate) fn normalize_in_range(&self, head: usize, taps: Range<usize>, out: &mut [f32]) {
        self.given.load(head * self.width + taps.start, out);
        softmax_row(out);
    }

    /// Repeats one tap, dropped or not, for `columns`.
    pub(crate) fn expand(&self, tap: usize, columns: Range<usize>, out: &mut [f32]) {
        expand(self.head_channels, columns, out, |head| {
            let mut value = [self.normalized[head * self.width + tap]];
            self.drop(head, tap, &mut value);
            value[0]
        });
    }

    /// Repeats the taps of a token that has only `taps` in range for `columns`, a row of `stride` for each, in memory for
    /// twice as many.
    pub(crate) fn expand_in_range<'e>(
        &self,
        taps: Range<usize>,
        columns: Range<usize>,
        memory: &'e mut [f32],
        stride: usize,
    ) -> &'e [f32] {
        let (r, count) = (self.head_channels, taps.len());
        let first = columns.start / r;
        let heads = first..(columns.end - 1) / r + 1;
        let (out, by_head) = memory.split_at_mut(count * stride);
        for (head, row) in heads.zip(by_head.chunks_exact_mut(count)) {
            self.normalize_in_range(head, taps.clone(), row);
            self.drop(head, taps.start, row);
        }
        for (j, out) in (0..count).zip(out.chunks_exact_mut(stride)) {
            expand(r, columns.clone(), out, |head| by_head[(head - first) * count + j]);
        }
        out
    }
}

/// Repeats a number of each head for those of `columns` that are its channels.
fn expand(head_channels: usize, columns: Range<usize>, out: &mut [f32], of: impl Fn(usize) -> f32) {
    let mut column = columns.start;
    let mut rest = &mut out[..columns.len()];
    while !rest.is_empty() {
        let count = (head_channels - column % head_channels).min(rest.len());
        let (head, after) = rest.split_at_mut(count);
        head.fill(of(column / head_channels));
        (rest, column) = (after, column + count);
    }
}
