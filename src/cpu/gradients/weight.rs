use crate::cpu::gradients::Matrix;
use crate::cpu::product::{Strides, product};
use crate::cpu::rows::Sink;
use crate::cpu::tiles::Tiles;

/// The gradient of the weight W of a product x W^T: dW `[outputs, inputs]` = dy^T x, with dy `[rows, outputs]` and x
/// `[rows, inputs]`.
///
/// A small weight has too few tiles for many threads: rows are divided too then, and their sums added in the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightGradient {
    rows: usize,
    outputs: usize,
    inputs: usize,
    /// Parts that the rows are divided in.
    parts: usize,
}

/// Outputs and inputs of a tile.
const TILE: usize = 256;

/// Rows that are multiplied at a time. Sums of so many are added up, which keeps long ones accurate.
const BLOCK: usize = 256;

/// Tiles that make work for all threads, where there are rows for them.
const TILES: usize = 32;

/// Blocks of a part at least: less would be more adding of parts than multiplying.
const PART_BLOCKS: usize = 4;

impl WeightGradient {
    pub(crate) fn new(rows: usize, outputs: usize, inputs: usize) -> Self {
        let tiles = outputs.div_ceil(TILE).saturating_mul(inputs.div_ceil(TILE));
        let parts = (TILES / tiles).min(rows / (PART_BLOCKS * BLOCK)).max(1);
        WeightGradient { rows, outputs, inputs, parts }
    }

    /// Numbers of scratch that all workers share: the sums of parts of the rows, where there are several.
    pub(crate) fn shared(&self) -> usize {
        if self.parts == 1 { 0 } else { self.parts * self.outputs * self.inputs }
    }

    fn tile(&self) -> (usize, usize, usize) {
        (self.outputs.min(TILE), self.inputs.min(TILE), self.rows.min(BLOCK))
    }

    /// Numbers of scratch for each worker: a tile of dW, and copies of what it is made of.
    pub(crate) fn per_worker(&self) -> usize {
        let (outputs, inputs, rows) = self.tile();
        outputs * inputs + (outputs + inputs) * rows
    }

    /// Computes dW.
    pub(crate) fn run(
        &self,
        dy: Matrix<'_>,
        x: Matrix<'_>,
        dweight: &Sink<'_>,
        shared: &mut [f32],
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        if self.parts == 1 {
            return self.sum_parts(dy, x, dweight, (worker_parts, worker_len));
        }
        let sums = &mut shared[..self.shared()];
        self.sum_parts(dy, x, &Sink::of(sums, self.inputs), (worker_parts, worker_len));
        let sums = &*sums;
        let tiles = Tiles::new(self.outputs, self.inputs, 1, TILE);
        tiles.for_each(worker_parts, worker_len, |row, columns, scratch| {
            let total = &mut scratch[..columns.len()];
            total.fill(0.0);
            for part in 0..self.parts {
                let start = (part * self.outputs + row.start) * self.inputs + columns.start;
                total.iter_mut().zip(&sums[start..]).for_each(|(total, sum)| *total += sum);
            }
            // SAFETY: tiles are disjoint.
            unsafe { dweight.store(row.start, columns.start, total) };
        });
    }

    /// Writes the sum of each part of the rows to `sums` `[parts, outputs, inputs]`.
    fn sum_parts(
        &self,
        dy: Matrix<'_>,
        x: Matrix<'_>,
        sums: &Sink<'_>,
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        let (tile_outputs, tile_inputs, block) = self.tile();
        let part_rows = self.rows.div_ceil(self.parts).next_multiple_of(BLOCK);
        let across = self.outputs.div_ceil(tile_outputs);
        let tiles = Tiles::new(self.parts * across, self.inputs, 1, tile_inputs);
        tiles.for_each(worker_parts, worker_len, |part_and_tile, columns, scratch| {
            let (part, tile) = (part_and_tile.start / across, part_and_tile.start % across);
            let outputs = tile * tile_outputs..((tile + 1) * tile_outputs).min(self.outputs);
            let rows = part * part_rows..((part + 1) * part_rows).min(self.rows);
            let (sum, scratch) = scratch.split_at_mut(tile_outputs * tile_inputs);
            let (dy_copy, x_copy) = scratch.split_at_mut(tile_outputs * block);
            let sum = &mut sum[..outputs.len() * columns.len()];
            sum.fill(0.0);
            for start in rows.clone().step_by(BLOCK) {
                let rows = start..(start + BLOCK).min(rows.end);
                let (dy, dy_stride) = dy.stage(rows.clone(), outputs.clone(), dy_copy);
                let (x, x_stride) = x.stage(rows.clone(), columns.clone(), x_copy);
                product(
                    (outputs.len(), columns.len(), rows.len()),
                    (sum, Strides::row_major(columns.len())),
                    true,
                    (dy, Strides::column_major(dy_stride)),
                    (x, Strides::row_major(x_stride)),
                );
            }
            for (output, sum) in outputs.zip(sum.chunks_exact(columns.len())) {
                // SAFETY: tiles are disjoint in parts, rows or columns, and so are the rows of one tile.
                unsafe { sums.store(part * self.outputs + output, columns.start, sum) };
            }
        });
    }
}
