//! Convolution by phases: a window with dilation r is, for tokens r apart, a window without dilation.

use std::ops::Range;

use crate::cpu::buffer::{Elements, check_optional};
use crate::cpu::rows::{Rows, Source};
use crate::cpu::tiles::tile_rows;
use crate::problem::Convolution;
use crate::sequences::Piece;
use crate::{Error, Result, Sequences, Window};

/// Tokens and history that a convolution reads.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) x: Source<'a>,
    pub(crate) history: Option<Elements<'a>>,
    pub(crate) channels: usize,
}

impl<'a> Tokens<'a> {
    /// The checked tokens of a convolution, or what is wrong with them by the names that the operator has for tokens and
    /// history.
    pub(crate) fn check(
        [name, history_name]: [&'static str; 2],
        conv: &Convolution,
        sequences: &Sequences,
        x: Rows<'a>,
        history: Option<Elements<'a>>,
    ) -> Result<Self> {
        sequences.check(conv.sequences())?;
        if sequences.continues() && !conv.has_history() {
            return Err(Error::Missing { tensor: history_name });
        }
        let x = x.check(name, conv.dtype(), conv.sequences().tokens(), conv.channels())?;
        let size = if conv.has_history() { conv.history_shape().iter().product() } else { 0 };
        check_optional(history_name, history, conv.has_history(), conv.dtype(), size)?;
        Ok(Tokens { x, history, channels: conv.channels() })
    }

    /// Columns of the token at a position of a sequence that is in range; negative ones are history.
    pub(crate) fn load(
        &self,
        window: Window,
        piece: &Piece,
        position: isize,
        columns: Range<usize>,
        staged: Staged,
        out: &mut [f32],
    ) {
        let (block, stride) = (staged.block, staged.block_len());
        match (usize::try_from(position), self.history) {
            (Ok(position), _) => {
                self.x.load_blocks(piece.sequence.first + position, columns, block, stride, out);
            }
            (Err(_), Some(history)) => {
                let reach = window.reach();
                let row = piece.index * reach + reach - position.unsigned_abs();
                let start = row * self.channels + columns.start;
                history.load_blocks(start, columns.len(), block, stride, out);
            }
            // Without history nothing is in range before the first token.
            (Err(_), None) => {}
        }
    }
}

/// Tokens of one sequence, r apart, and the rows that their taps read: tap j of token i reads row i + j - `skipped`.
///
/// Rows are the tokens in range and nothing else, so that a tap out of range has no row to read.
pub(crate) struct Phase {
    piece: Piece,
    window: Window,
    first: usize,
    count: usize,
    skipped: usize,
    rows: usize,
}

impl Phase {
    /// The phases of the tokens of `piece`, each with at least one token.
    pub(crate) fn all(conv: &Convolution, piece: &Piece) -> impl Iterator<Item = Phase> {
        let window = conv.window();
        let past = conv.past(piece.sequence);
        let piece = piece.clone();
        (0..window.dilation().min(piece.tokens.len())).map(move |residue| {
            let first = piece.tokens.start + residue;
            let count = (piece.tokens.end - first).div_ceil(window.dilation());
            // The rows form the window of one token that is as wide as all of theirs together.
            let all = count - 1 + window.width();
            let (length, r) = (piece.sequence.length, window.dilation());
            let skipped = window.left().saturating_sub(first + past).div_ceil(r).min(all);
            let end = (length + window.left()).saturating_sub(first).div_ceil(r).min(all);
            let rows = end.saturating_sub(skipped);
            Phase { piece: piece.clone(), window, first, count, skipped, rows }
        })
    }

    /// Most rows of a phase of `tokens` tokens of a sequence of at most `length`.
    pub(crate) fn max_rows(conv: &Convolution, tokens: usize, length: usize) -> usize {
        let window = conv.window();
        let history = if conv.has_history() { window.width() } else { 0 };
        (tokens + window.width() - 1).min(length.div_ceil(window.dilation()) + history)
    }

    /// How many tokens there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Row of the tensor that holds the i-th token.
    pub(crate) fn token_row(&self, i: usize) -> usize {
        self.piece.sequence.first + self.first + i * self.window.dilation()
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The taps of the i-th token that are in range.
    pub(crate) fn taps(&self, i: usize) -> Range<usize> {
        self.taps_among(i, &(0..self.rows))
    }

    /// The taps of the i-th token that read one of `rows`.
    pub(crate) fn taps_among(&self, i: usize, rows: &Range<usize>) -> Range<usize> {
        let tap = |row: usize| (row + self.skipped).saturating_sub(i).min(self.window.width());
        tap(rows.start)..tap(rows.end)
    }

    /// The taps that are in range for some token.
    pub(crate) fn taps_in_use(&self) -> Range<usize> {
        let last = self.taps(self.count - 1);
        last.start..self.taps(0).end.max(last.start)
    }

    /// Row of the tensor that tap j of the i-th token reads; the tap must be in range, and not in the history.
    pub(crate) fn read_row(&self, i: usize, tap: usize) -> usize {
        self.piece.sequence.first + self.position(self.row(i, tap)).unsigned_abs()
    }

    /// How many rows before the first that there is the first token would read by a tap that some token has in range.
    pub(crate) fn missing(&self, tap: usize) -> usize {
        self.skipped - tap
    }

    /// The row that tap j of the i-th token reads; the tap must be in range.
    pub(crate) fn row(&self, i: usize, tap: usize) -> usize {
        i + tap - self.skipped
    }

    /// The tokens of which tap j is in range, for all j of `taps`.
    pub(crate) fn tokens_of(&self, taps: &Range<usize>) -> Range<usize> {
        self.tokens_among(taps, &(0..self.rows))
    }

    /// The tokens all of whose taps read one of `rows`: the others come before or after them.
    pub(crate) fn interior(&self, rows: &Range<usize>) -> Range<usize> {
        self.tokens_among(&(0..self.window.width()), rows)
    }

    fn tokens_among(&self, taps: &Range<usize>, rows: &Range<usize>) -> Range<usize> {
        let start = (rows.start + self.skipped).saturating_sub(taps.start);
        let end = (rows.end + self.skipped).saturating_sub(taps.end - 1).min(self.count);
        if start < end { start..end } else { 0..0 }
    }

    /// Where the token of a row stands in its sequence; negative where it is history.
    pub(crate) fn position(&self, row: usize) -> isize {
        self.window.token(self.first, self.skipped) + (row * self.window.dilation()) as isize
    }

    /// The taps with which the token of a row, as an output of the mirrored convolution, reads tokens that are in range. For
    /// convolutions without history.
    pub(crate) fn mirrored_taps(&self, row: usize) -> Range<usize> {
        let token = self.position(row).unsigned_abs();
        self.window.mirrored().taps_in_range(token, self.piece.sequence.length, 0)
    }

    /// The rows whose tokens, as outputs of the mirrored convolution, have all their taps in range: the others come before
    /// or after them. For convolutions without history.
    pub(crate) fn interior_rows(&self) -> Range<usize> {
        let inside = |&row: &usize| self.mirrored_taps(row).len() == self.window.width();
        match (0..self.rows).find(inside) {
            Some(start) => start..(0..self.rows).rev().find(inside).map_or(start, |last| last + 1),
            None => 0..0,
        }
    }

    /// The token that reads a row by a tap, if it is of this phase.
    pub(crate) fn reader(&self, row: usize, tap: usize) -> Option<usize> {
        (row + self.skipped).checked_sub(tap).filter(|&i| i < self.count)
    }

    /// Copies the columns of all rows into `out`, as f32.
    pub(crate) fn stage(&self, tokens: Tokens<'_>, columns: Range<usize>, staged: Staged, out: &mut [f32]) {
        for m in 0..self.rows {
            let position = self.position(m);
            let out = &mut out[m * staged.stride..];
            tokens.load(self.window, &self.piece, position, columns.clone(), staged, out);
        }
    }
}

/// Tokens of a tile: many enough that the halo and the packing of a product do not count, few enough that a tile stays
/// in the second cache and that short inputs still make work for several threads. It does not depend on their number.
pub(crate) fn tile_tokens(conv: &Convolution) -> usize {
    // The tokens of a dilated window fall into phases, which should not get too short.
    tile_rows(conv.sequences().tokens()) * conv.window().dilation().min(8)
}

/// How staged rows lie: `[blocks, rows, stride]`. Rows come from memory whole, one after another, and a block of their
/// channels fits in the first cache, whatever the distance of the rows was in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staged {
    /// Channels of a block.
    pub(crate) block: usize,
    /// From one row of a block to the next.
    pub(crate) stride: usize,
    /// Room for rows in each block.
    pub(crate) rows: usize,
}

impl Staged {
    /// Numbers of one block.
    pub(crate) const fn block_len(self) -> usize {
        self.rows.saturating_mul(self.stride)
    }

    /// Numbers of `channels` channels.
    pub(crate) const fn len(self, channels: usize) -> usize {
        self.block_len().saturating_mul(channels.div_ceil(self.block))
    }
}
