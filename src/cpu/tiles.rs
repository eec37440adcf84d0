//! Sharing work among threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// A grid of work items, each a range of rows and a range of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    rows: usize,
    columns: usize,
    tile_rows: usize,
    tile_columns: usize,
}

impl Tiles {
    /// Tiles of at most `tile_rows` by `tile_columns`.
    pub(crate) fn new(rows: usize, columns: usize, tile_rows: usize, tile_columns: usize) -> Self {
        Tiles { rows, columns, tile_rows: tile_rows.max(1), tile_columns: tile_columns.max(1) }
    }

    fn count(self) -> usize {
        self.rows.div_ceil(self.tile_rows) * self.columns.div_ceil(self.tile_columns)
    }

    fn get(self, index: usize) -> (Range<usize>, Range<usize>) {
        let across = self.columns.div_ceil(self.tile_columns);
        let (row, column) = (index / across * self.tile_rows, index % across * self.tile_columns);
        (row..(row + self.tile_rows).min(self.rows), column..(column + self.tile_columns).min(self.columns))
    }

    /// Calls `body` for every tile, on all threads; each thread has `per_worker` numbers of `scratch` of its own,
    /// which it must not expect to hold anything.
    pub(crate) fn for_each(
        self,
        scratch: &mut [f32],
        per_worker: usize,
        body: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
    ) {
        let count = self.count();
        let next = AtomicUsize::new(0);
        // Neighbours share their halo, so a worker takes some of them in a row, and all workers many times.
        let run = (count / (8 * workers())).clamp(1, 8);
        let work = |scratch: &mut [f32]| loop {
            let first = next.fetch_add(run, Ordering::Relaxed);
            if first >= count {
                return;
            }
            for index in first..(first + run).min(count) {
                let (rows, columns) = self.get(index);
                body(rows, columns, scratch);
            }
        };
        let workers = workers().min(count);
        match workers {
            0 => {}
            1 => work(&mut scratch[..per_worker]),
            _ if per_worker == 0 => (0..workers).into_par_iter().for_each(|_| work(&mut [])),
            _ => scratch.par_chunks_exact_mut(per_worker).take(workers).for_each(work),
        }
    }
}

/// Rows of a tile of `rows` rows: 64, or 16 to 48 where there are few.
pub(crate) fn tile_rows(rows: usize) -> usize {
    (rows / 8).next_multiple_of(16).clamp(16, 64)
}

/// Threads that share the work: what scratch is measured by.
pub(crate) fn workers() -> usize {
    rayon::current_num_threads()
}
