use crate::cpu::arch;
use crate::cpu::gradients::Matrix;
use crate::cpu::rows::Sink;
use crate::cpu::tiles::Tiles;

/// The gradient of a bias that is added to every row: dbias `[columns]` is the sum of the rows of dy `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BiasGradient {
    rows: usize,
    columns: usize,
}

/// Rows and columns that are read at a time.
const BLOCK: usize = 64;
const TILE_COLUMNS: usize = 512;

/// Parts of the rows at most: their sums are added in the end.
const PARTS: usize = 64;

impl BiasGradient {
    pub(crate) fn new(rows: usize, columns: usize) -> Self {
        BiasGradient { rows, columns }
    }

    fn part_rows(&self) -> usize {
        self.rows.div_ceil(PARTS).next_multiple_of(BLOCK).max(BLOCK)
    }

    fn parts(&self) -> usize {
        self.rows.div_ceil(self.part_rows())
    }

    /// Numbers of scratch that all workers share: the sum of each part, and of all.
    pub(crate) fn shared(&self) -> usize {
        (self.parts() + 1) * self.columns
    }

    /// Numbers of scratch for each worker: a copy of some rows, and their sum.
    pub(crate) fn per_worker(&self) -> usize {
        (BLOCK + 1) * self.columns.min(TILE_COLUMNS)
    }

    /// Computes dbias, one row.
    pub(crate) fn run(
        &self,
        dy: Matrix<'_>,
        dbias: &Sink<'_>,
        shared: &mut [f32],
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        let (sums, total) = shared[..self.shared()].split_at_mut(self.parts() * self.columns);
        let partial = Sink::of(sums, self.columns);
        let tiles = Tiles::new(self.parts(), self.columns, 1, TILE_COLUMNS);
        tiles.for_each(worker_parts, worker_len, |part, columns, scratch| {
            let (sum, copy) = scratch.split_at_mut(self.columns.min(TILE_COLUMNS));
            let sum = &mut sum[..columns.len()];
            sum.fill(0.0);
            let rows = part.start * self.part_rows()..(part.end * self.part_rows()).min(self.rows);
            for start in rows.clone().step_by(BLOCK) {
                let rows = start..(start + BLOCK).min(rows.end);
                let (dy, stride) = dy.stage(rows.clone(), columns.clone(), copy);
                add_rows(dy, stride, rows.len(), sum);
            }
            // SAFETY: tiles are disjoint.
            unsafe { partial.store(part.start, columns.start, sum) };
        });
        total.fill(0.0);
        add_rows(sums, self.columns, self.parts(), total);
        // SAFETY: no other thread writes any more.
        unsafe { dbias.store(0, 0, total) };
    }
}

/// Adds `count` rows to `sum`.
fn add_rows(rows: &[f32], stride: usize, count: usize, sum: &mut [f32]) {
    arch().dispatch(
        #[inline(always)]
        || {
            for row in rows.chunks(stride).take(count) {
                for (sum, x) in sum.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        },
    );
}
