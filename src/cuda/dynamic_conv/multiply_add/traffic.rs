//! What the call reads and writes.

use crate::cuda::dynamic_conv::multiply_add::{Shape, WARP};
use crate::cuda::light_conv::Filter;
use crate::cuda::limits::Limits;
use crate::cuda::plan::WindowParams;
use crate::cuda::traffic::{SECTOR, Tile, Traffic, list, tiles_of};
use crate::gpu::{STEPS, listed, window};
use crate::problem::Convolution;
use crate::{DType, Normalize, Result, Sequences};
use std::collections::BTreeSet;
use std::ops::Range;

/// Sectors that warps read of the logits of a tile's outputs and heads: `across` lanes have a row together, and each row
/// reads the taps that `taps` says of its token.
struct Rows<'a> {
    conv: &'a Convolution,
    logits: DType,
    across: usize,
    heads: Range<usize>,
    /// Of each output, its row of tokens, if any of its logits matter, and the taps of those that do.
    outputs: Vec<Option<(usize, Range<usize>)>>,
}

impl Rows<'_> {
    /// The taps of a chunk, in steps from its first on; or all those that matter, each row from its own first on.
    fn sectors(&self, chunk: Option<Range<usize>>) -> u64 {
        let (width, size) = (self.conv.window().width(), self.logits.size());
        let rows: Vec<_> = (self.outputs.iter())
            .flat_map(|output| self.heads.clone().map(move |head| output.as_ref().map(|of| (head, of))))
            .collect();
        let mut all = 0;
        for rows in rows.chunks(WARP / self.across) {
            for step in (0..width).step_by(self.across) {
                let mut sectors = BTreeSet::new();
                for (head, (token, taps)) in rows.iter().flatten() {
                    let run = match &chunk {
                        Some(chunk) => {
                            let first = chunk.start + step;
                            let end = (first + self.across).min(chunk.end);
                            first.max(taps.start)..end.min(taps.end)
                        }
                        None => taps.start + step..(taps.start + step + self.across).min(taps.end),
                    };
                    let row = (token * self.conv.heads() + head) * width;
                    sectors.extend(run.map(|tap| (row + tap) * size / SECTOR));
                }
                all += sectors.len() as u64;
            }
        }
        all
    }
}

/// Sectors of the logits that the tokens of a tile and its halo have for a chunk of taps of a mirrored window, some lanes for
/// each token and head.
fn mirrored(
    conv: &Convolution,
    shape: &Shape,
    tile: Tile,
    rows: &Rows<'_>,
    first: usize,
    count: usize,
) -> u64 {
    let (tiles, own) = (&shape.tiles, window(conv).mirrored());
    let (width, length) = (own.width(), tile.sequence.length);
    let of_phase = tiles.steps + count - 1;
    let normal = conv.normalize() != Normalize::None;
    let tokens = (0..tiles.phases * of_phase).flat_map(|number| {
        let (phase, step) = (number / of_phase, number % of_phase);
        let position = tile.start + phase + (step + first) * tiles.dilation;
        let position = position.checked_sub(window(conv).left()).filter(|&position| position < length);
        let position = position.filter(|_| phase < tile.phases);
        rows.heads.clone().map(move |head| position.map(|position| (position, step, head)))
    });
    let tokens: Vec<_> = tokens.collect();
    let mut all = 0;
    for tokens in tokens.chunks(WARP / rows.across) {
        for step_of in (0..width).step_by(rows.across) {
            let (mut normalized, mut used) = (BTreeSet::new(), BTreeSet::new());
            for &(position, step, head) in tokens.iter().flatten() {
                let row = ((tile.sequence.first + position) * conv.heads() + head) * width;
                let sector = |tap: usize| (row + tap) * rows.logits.size() / SECTOR;
                let taps = match conv.normalize() {
                    Normalize::Softmax => 0..width,
                    _ => own.taps_in_range(position, length, 0),
                };
                let run = taps.start + step_of..(taps.start + step_of + rows.across).min(taps.end);
                normalized.extend(run.map(sector));
                // Those of outputs of the tile, counted from the last.
                let (begin, end) = ((step + 1).saturating_sub(tiles.steps), count.min(step + 1));
                let run = begin + step_of..(begin + step_of + rows.across).min(end);
                used.extend(run.map(|tap| sector(width - 1 - first - tap)));
            }
            // Twice, for the largest and for the total.
            all += if normal { 2 * normalized.len() as u64 } else { 0 } + used.len() as u64;
        }
    }
    all
}

/// Sectors of what is added to the outputs of a tile: a number at a time, of lanes side by side.
fn addends(conv: &Convolution, shape: &Shape, tile: Tile) -> u64 {
    let Shape { lanes, groups, tiles, .. } = *shape;
    let channels = conv.channels();
    let mut all = 0;
    for column in 0..tiles.columns {
        // Threads of a warp, and which token and channel each has.
        for threads in (0..groups * lanes).collect::<Vec<_>>().chunks(WARP) {
            for n in 0..STEPS {
                let (mut first, mut second) = (BTreeSet::new(), BTreeSet::new());
                for thread in threads {
                    let (group, channel) = (thread / lanes, column * 2 * lanes + 2 * (thread % lanes));
                    let (phase, step) = (group * STEPS / tiles.steps, group * STEPS % tiles.steps + n);
                    let position = tile.start + phase + step * tiles.dilation;
                    if phase < tile.phases && position < tile.sequence.length && channel < channels {
                        let row = (tile.sequence.first + position) * channels;
                        first.insert((row + channel) * 4 / SECTOR);
                        second.insert((row + (channel + 1).min(channels - 1)) * 4 / SECTOR);
                    }
                }
                all += (first.len() + second.len()) as u64;
            }
        }
    }
    all
}

/// What the call reads and writes. The logits are of type `logits`.
pub(crate) fn traffic(
    conv: &Convolution,
    filter: Filter,
    logits: DType,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    let listed = listed(sequences.shape()) || sequences.continues();
    let shape = Shape::new(conv, listed, limits)?;
    let Shape { lanes, tiles, taps, .. } = shape;
    let (near, window) = (window(conv), WindowParams::new(conv)?);
    let width = window.width as usize;
    let row = (conv.channels() * conv.dtype().size()).div_ceil(SECTOR) as u64;
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Tile { sequence, start, phases } = tile;
        all.written += row * tile.outputs(&tiles, sequence.length + sequence.padding) as u64;
        // The taps that read a token for some output.
        let last = start + tiles.phases - 1 + (tiles.steps - 1) * tiles.dilation;
        let in_range = |position| near.taps_in_range(position, sequence.length, conv.past(sequence));
        let (begin, end) = (in_range(last).start, in_range(start).end);
        if start >= sequence.length || begin >= end {
            continue;
        }
        let some = if width <= taps { 0..width } else { begin / 8 * 8..end };
        let outputs = (0..tiles.outputs()).map(|output| {
            let (phase, step) = (output / tiles.steps, output % tiles.steps);
            let position = start + phase + step * tiles.dilation;
            if phase >= phases || position >= sequence.length || in_range(position).is_empty() {
                return None;
            }
            let all = conv.normalize() == Normalize::Softmax;
            Some((sequence.first + position, if all { 0..width } else { in_range(position) }))
        });
        let outputs: Vec<_> = outputs.collect();
        let mut rows = Rows { conv, logits, across: shape.across(), heads: 0..0, outputs };
        if filter.addends {
            all.read += addends(conv, &shape, tile);
        }
        for column in 0..tiles.columns {
            let first = column * 2 * lanes;
            let end = (first + 2 * lanes).min(conv.channels());
            rows.heads = first / conv.head_channels()..(end - 1) / conv.head_channels() + 1;
            if filter.mirrored {
                for first in some.clone().step_by(taps) {
                    let count = taps.min(some.end - first);
                    all.read += mirrored(conv, &shape, tile, &rows, first, count);
                }
                continue;
            }
            if width > taps && conv.normalize() != Normalize::None {
                // The largest logit, and then the total.
                all.read += 2 * rows.sectors(None);
            }
            for first in some.clone().step_by(taps) {
                all.read += rows.sectors(Some(first..(first + taps).min(some.end)));
            }
        }
        for first in some.clone().step_by(taps) {
            let count = taps.min(some.end - first);
            all.read += row * tile.tokens(conv, &window, first, first + tiles.steps + count - 1) as u64;
        }
    }
    Ok(all)
}
