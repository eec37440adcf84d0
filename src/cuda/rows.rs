//! How rows of tokens lie in a block's memory: see `kernels/shared/stage.cuh`.

use crate::gpu::{STEPS, Tiles};

/// Bytes of the banks of the block's memory.
const BANKS: usize = 128;

/// Bytes that are free after every eight rows of a phase, where rows are less than the banks.
pub(crate) fn gap(row: usize) -> usize {
    if row < BANKS { row } else { 0 }
}

/// Bytes of a phase in the block's memory. Where there are gaps, the threads of the next phase go on among the banks where
/// those of this one end.
pub(crate) fn of_phase(row: usize, tiles: &Tiles, taps: usize) -> usize {
    let (rows, groups) = (tiles.steps + taps - 1, tiles.steps / STEPS);
    if gap(row) == 0 {
        return rows * row;
    }
    let mut rows = rows + (rows - 1) / STEPS;
    while tiles.phases > 1 && !((rows - groups) * row).is_multiple_of(BANKS) {
        rows += 1;
    }
    rows * row
}
