use std::ops::Range;

use crate::cpu::gradients::Matrix;
use crate::cpu::product::{Strides, product};
use crate::cpu::tiles::{Tiles, tile_rows};

/// The gradient of the rows x of a product x W^T: dx `[rows, inputs]` = dy W, with dy `[rows, outputs]` and W
/// `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputGradient {
    rows: usize,
    outputs: usize,
    inputs: usize,
}

/// Inputs of a tile.
const TILE_INPUTS: usize = 256;

/// Outputs that are multiplied at a time: with them a tile of W fits in the second cache.
const BLOCK: usize = 512;

impl InputGradient {
    pub(crate) fn new(rows: usize, outputs: usize, inputs: usize) -> Self {
        InputGradient { rows, outputs, inputs }
    }

    fn tile(&self) -> (usize, usize, usize) {
        (tile_rows(self.rows), self.inputs.min(TILE_INPUTS), self.outputs.min(BLOCK))
    }

    /// Numbers of scratch for each worker: a tile of dx, and copies of what it is made of.
    pub(crate) fn per_worker(&self) -> usize {
        let (rows, inputs, outputs) = self.tile();
        rows * inputs + (rows + inputs) * outputs
    }

    /// Gives each tile of dx to `sink`: its rows, its columns and its numbers, row after row.
    pub(crate) fn run(
        &self,
        dy: Matrix<'_>,
        weight: Matrix<'_>,
        (worker_parts, worker_len): (&mut [f32], usize),
        sink: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
    ) {
        let (tile_rows, tile_inputs, block) = self.tile();
        let tiles = Tiles::new(self.rows, self.inputs, tile_rows, tile_inputs);
        tiles.for_each(worker_parts, worker_len, |rows, columns, scratch| {
            let (tile, scratch) = scratch.split_at_mut(tile_rows * tile_inputs);
            let (dy_copy, weight_copy) = scratch.split_at_mut(tile_rows * block);
            let tile = &mut tile[..rows.len() * columns.len()];
            for start in (0..self.outputs).step_by(block) {
                let outputs = start..(start + block).min(self.outputs);
                let (dy, dy_stride) = dy.stage(rows.clone(), outputs.clone(), dy_copy);
                let (weight, weight_stride) = weight.stage(outputs.clone(), columns.clone(), weight_copy);
                product(
                    (rows.len(), columns.len(), outputs.len()),
                    (tile, Strides::row_major(columns.len())),
                    start > 0,
                    (dy, Strides::row_major(dy_stride)),
                    (weight, Strides::row_major(weight_stride)),
                );
            }
            sink(rows, columns, tile);
        });
    }
}
