//! What the backward pass of a light convolution reads and writes.

use std::collections::BTreeSet;

use crate::cuda::light_conv::backward::plan::{Scratch, Shape, WARP, any, layout};
use crate::cuda::light_conv::{self, Filter};
use crate::cuda::limits::Limits;
use crate::cuda::plan::WindowParams;
use crate::cuda::traffic::{SECTOR, Traffic, filter, list, sectors, tiles_of};
use crate::gpu::listed;
use crate::problem::LightConvBackwardProblem;
use crate::{Normalize, Result, Sequences};

/// What the call reads and writes.
pub(super) fn traffic(
    problem: &LightConvBackwardProblem,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
    let (shape, scratch) = layout(problem, listed(sequences.shape()), limits)?;
    let mut all = Traffic::default();
    if any(problem) && wanted.x {
        let filter = Filter { mirrored: true, ..Filter::default() };
        all = light_conv::traffic(&conv.mirrored(), filter, sequences, limits)?;
    }
    let parts = Parts { problem, shape: &shape, scratch: &scratch, blocks: shape.blocks as usize };
    if any(problem) && (wanted.weight || wanted.bias) {
        parts.sums(sequences, &mut all)?;
    }
    if wanted.weight || wanted.bias {
        parts.parameters(sequences, &mut all);
    }
    Ok(all)
}

/// The launches that make the gradients of parameters.
struct Parts<'a> {
    problem: &'a LightConvBackwardProblem,
    shape: &'a Shape,
    scratch: &'a Scratch,
    blocks: usize,
}

impl Parts<'_> {
    /// The channels of a column.
    fn channels(&self, column: usize) -> std::ops::Range<usize> {
        let of_column = 2 * self.shape.lanes;
        let channels = self.problem.forward().convolution().channels();
        column * of_column..((column + 1) * of_column).min(channels)
    }

    /// Where the sums of a block and a column lie for a head, counted from the column's first.
    fn row(&self, block: usize, column: usize, head: usize) -> usize {
        let conv = self.problem.forward().convolution();
        let row = block * self.shape.tiles.columns + column;
        self.scratch.sums as usize + (row * self.shape.column_heads(conv) + head) * conv.window().width()
    }

    /// Tokens, and the rows of sums that blocks leave.
    fn sums(&self, sequences: &Sequences, all: &mut Traffic) -> Result<()> {
        let conv = self.problem.forward().convolution();
        let (shape, wanted) = (self.shape, self.problem.wanted());
        let (window, own) = (WindowParams::new(conv)?, shape.taps());
        let width = conv.window().width();
        let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
        all.parameters += shape.chunks as u64 * list(&shape.tiles, sequences);
        for tile in tiles_of(&shape.tiles, sequences) {
            let length = tile.sequence.length;
            if tile.start >= length {
                continue;
            }
            all.read += shape.chunks as u64 * row * tile.outputs(&shape.tiles, length) as u64;
            for first in (0..if wanted.weight { width } else { 0 }).step_by(own) {
                let count = own.min(width - first);
                let end = first + shape.tiles.steps + count - 1;
                all.read += row * tile.tokens(conv, &window, first, end) as u64;
            }
        }
        for column in 0..shape.tiles.columns {
            let channels = self.channels(column);
            let first_head = channels.start / conv.head_channels();
            let heads = (channels.end - 1) / conv.head_channels() + 1 - first_head;
            for block in 0..self.blocks {
                if wanted.bias {
                    let at = self.scratch.biases as usize + block * conv.channels();
                    all.written += runs(channels.len(), |run| {
                        sectors(4 * (at + channels.start + run.start), 4 * run.len())
                    });
                }
                for first in (0..if wanted.weight { width } else { 0 }).step_by(own) {
                    let count = own.min(width - first);
                    // A warp has the taps of several heads where there are few of each.
                    all.written += runs(heads * count, |run| {
                        let place = |item| self.row(block, column, item / count) + first + item % count;
                        run.map(|item| 4 * place(item) / SECTOR).collect::<BTreeSet<_>>().len() as u64
                    });
                }
            }
        }
        Ok(())
    }

    /// Rows of sums, weights, and the gradients.
    fn parameters(&self, sequences: &Sequences, all: &mut Traffic) {
        let (problem, shape) = (self.problem, self.shape);
        let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
        let (width, size) = (conv.window().width(), problem.parameters().size());
        let blocks = if any(problem) { self.blocks } else { 0 };
        if wanted.bias {
            all.written += runs(conv.channels(), |run| sectors(run.start * size, run.len() * size));
            for block in 0..blocks {
                let at = self.scratch.biases as usize + block * conv.channels();
                all.read += runs(conv.channels(), |run| sectors(4 * (at + run.start), 4 * run.len()));
            }
        }
        let there = sequences.as_slice().iter().any(|sequence| sequence.length > 0);
        for head in 0..if wanted.weight { conv.heads() } else { 0 } {
            all.written += runs(width, |run| sectors((head * width + run.start) * size, run.len() * size));
            if blocks > 0 && shape.tiles.listed {
                all.parameters += runs(shape.tiles.sequences, |run| sectors(16 * run.start, 16 * run.len()));
            }
            if blocks == 0 || !there {
                continue;
            }
            if conv.normalize() != Normalize::None {
                all.parameters += 4 * filter(conv, false, head, 0, width);
            }
            let of_column = 2 * shape.lanes;
            let first = head * conv.head_channels();
            let columns = first / of_column..(first + conv.head_channels() - 1) / of_column + 1;
            let of = |block: usize, column: usize| {
                let in_column = head - self.channels(column).start / conv.head_channels();
                let at = self.row(block, column, in_column);
                runs(width, |run| sectors(4 * (at + run.start), 4 * run.len()))
            };
            // The first row holds the sums of all, for a while.
            let kept = of(0, columns.start);
            all.read += kept;
            all.written += kept;
            for block in 0..blocks {
                all.read += columns.clone().map(|column| of(block, column)).sum::<u64>();
            }
        }
    }
}

/// Sectors of `len` numbers, 32 at a time, as a warp takes them.
fn runs(len: usize, of: impl Fn(std::ops::Range<usize>) -> u64) -> u64 {
    (0..len).step_by(WARP).map(|first| of(first..(first + WARP).min(len))).sum()
}
