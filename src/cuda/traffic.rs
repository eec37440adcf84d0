//! What the plans say that their calls read and write, so that a count can be held against it.

use crate::cuda::plan::WindowParams;
use crate::gpu::Tiles;
use crate::problem::Convolution;
use crate::{Layout, Sequence, Sequences};

/// Bytes of a sector: what a GPU moves at least.
pub(crate) const SECTOR: usize = 32;

/// Sectors of 32 bytes that a call asks of the device's memory, each counted once a warp and instruction: what a plan
/// predicts where all rows begin on a sector and are whole ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Of tokens, of a history, and of logits that are given: halos are read by two blocks.
    pub read: u64,
    /// Of outputs.
    pub written: u64,
    /// Of weights and biases, which every block reads anew, mostly from the cache; and of the list of sequences.
    pub parameters: u64,
}

impl Traffic {
    /// Bytes of tokens, read and written.
    pub fn token_bytes(&self) -> u64 {
        SECTOR as u64 * (self.read + self.written)
    }
}

impl std::ops::Add for Traffic {
    type Output = Traffic;

    fn add(self, other: Traffic) -> Traffic {
        Traffic {
            read: self.read + other.read,
            written: self.written + other.written,
            parameters: self.parameters + other.parameters,
        }
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Traffic>>(all: I) -> Traffic {
        all.fold(Traffic::default(), |all, one| all + one)
    }
}

/// Sectors that `len` bytes from byte `start` on lie in.
pub(crate) fn sectors(start: usize, len: usize) -> u64 {
    if len == 0 { 0 } else { ((start + len - 1) / SECTOR - start / SECTOR + 1) as u64 }
}

/// A tile of outputs: some phases of a stretch of a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) sequence: Sequence,
    /// Position of its first output.
    pub(crate) start: usize,
    /// Phases.
    pub(crate) phases: usize,
}

/// The tiles that hold a row of a sequence; those beyond hold none, and end at once.
pub(crate) fn tiles_of<'a>(tiles: &'a Tiles, sequences: &'a Sequences) -> impl Iterator<Item = Tile> + 'a {
    sequences.as_slice().iter().flat_map(move |&sequence| {
        let room = sequence.length + sequence.padding;
        let all =
            (0..room.div_ceil(tiles.span)).flat_map(|stretch| (0..tiles.tiles).map(move |t| (stretch, t)));
        let tile = move |(stretch, t): (usize, usize)| {
            let phase = t * tiles.phases;
            let phases = tiles.phases.min(tiles.dilation.saturating_sub(phase));
            Tile { sequence, start: stretch * tiles.span + phase, phases }
        };
        all.map(tile).filter(move |tile| tile.start < room && tile.phases > 0)
    })
}

impl Tile {
    /// How many of its rows lie before row `end` of the sequence.
    pub(crate) fn outputs(&self, tiles: &Tiles, end: usize) -> usize {
        let steps = |phase| end.saturating_sub(self.start + phase).div_ceil(tiles.dilation).min(tiles.steps);
        (0..self.phases).map(steps).sum()
    }

    /// How many of the rows `first` to `end` of each phase are tokens: row k is what tap 0 of output k reads.
    pub(crate) fn tokens(
        &self,
        conv: &Convolution,
        window: &WindowParams,
        first: usize,
        end: usize,
    ) -> usize {
        let (length, past) = (self.sequence.length as i64, conv.past(self.sequence) as i64);
        let step = i64::from(window.dilation);
        let position =
            |phase: usize, k: usize| (self.start + phase) as i64 + k as i64 * step - i64::from(window.left);
        let count = |phase| (first..end).filter(|&k| (-past..length).contains(&position(phase, k))).count();
        (0..self.phases).map(count).sum()
    }
}

/// Sectors that the blocks of a call read of the list of sequences to find their own: one thread of each does.
pub(crate) fn list(tiles: &Tiles, sequences: &Sequences) -> u64 {
    if !tiles.listed {
        return 0;
    }
    let blocks = tiles.groups as u64;
    if !matches!(sequences.shape().layout(), Layout::Packed) {
        return blocks;
    }
    // By bisection: the last that begins at or before the stretch.
    let steps = |stretch: usize| {
        let (mut low, mut high, mut steps) = (0, tiles.sequences, 0);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let before = sequences.as_slice()[middle].first / tiles.span + middle;
            (low, high) = if before <= stretch { (middle, high) } else { (low, middle) };
            steps += 1;
        }
        steps
    };
    let each = tiles.tiles * tiles.columns;
    blocks + (0..tiles.groups / each).map(steps).sum::<u64>() * each as u64
}

/// Sectors of `taps` taps of one head's filter from tap `first` on, 32 at a time, as a warp reads them; `mirrored`, if they
/// are counted from the last.
pub(crate) fn filter(conv: &Convolution, mirrored: bool, head: usize, first: usize, taps: usize) -> u64 {
    let (width, size) = (conv.window().width(), conv.parameters().size());
    let runs = (0..taps).step_by(32).map(|run| (first + run, (taps - run).min(32)));
    let begin = |(first, count)| if mirrored { width - first - count } else { first };
    runs.map(|run| sectors((head * width + begin(run)) * size, run.1 * size)).sum()
}
