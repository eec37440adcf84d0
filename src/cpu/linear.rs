mod activation;
mod backward;

pub use backward::{LinearBackward, LinearBackwardArgs};

use crate::cpu::buffer::check_optional;
use crate::cpu::product::product_of_rows;
use crate::cpu::scratch::Division;
use crate::cpu::tiles::{Tiles, tile_rows};
use crate::cpu::{Elements, Rows, RowsMut, padded};
use crate::problem::LinearProblem;
use crate::{DType, Error, Result};

/// A linear layer, prepared: see [`LinearProblem`].
#[derive(Clone, Debug)]
pub struct Linear {
    problem: LinearProblem,
}

/// What [`Linear::run`] reads and writes.
#[derive(Debug)]
pub struct LinearArgs<'a> {
    /// `[rows, in]`.
    pub x: Rows<'a>,
    /// W `[out, in / g]`, or `[2 out, in]` for a GLU.
    pub weight: Elements<'a>,
    /// A number for each row of W, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[rows, out]`, where the problem has one.
    pub residual: Option<Rows<'a>>,
    /// `[rows, out]`, overwritten.
    pub y: RowsMut<'a>,
}

/// Outputs of a tile.
const TILE_OUTPUTS: usize = 256;

impl Linear {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: LinearProblem) -> Self {
        Linear { problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LinearProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    fn scratch(&self) -> Division {
        Division { shared: 0, per_worker: self.per_worker() }
    }

    /// Rows and outputs of a tile, which is of one group.
    fn tile(&self) -> (usize, usize) {
        (tile_rows(self.problem.rows()), self.problem.group_outputs().min(TILE_OUTPUTS))
    }

    /// One tile of the sums as columns, those of y (and of its gates) as rows, a row of bias or residual, and the x and W that
    /// it needs where they are not f32.
    fn per_worker(&self) -> usize {
        let (rows, outputs) = self.tile();
        let copy = |count, dtype| if dtype == DType::F32 { 0 } else { count * self.problem.group_inputs() };
        (padded(rows) + rows * self.problem.activation().halves() + 1) * outputs
            + copy(rows, self.problem.dtype())
            + copy(outputs, self.problem.parameters())
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, a bias or residual that is missing or not part of
    /// the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: LinearArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let problem = &self.problem;
        let (inputs, outputs, weight_rows) = (problem.inputs(), problem.outputs(), problem.weight_rows());
        let (group_inputs, group_outputs) = (problem.group_inputs(), problem.group_outputs());
        let x = args.x.check("x", problem.dtype(), problem.rows(), inputs)?;
        check_optional("bias", args.bias, problem.has_bias(), problem.parameters(), weight_rows)?;
        let weight = Rows::contiguous(args.weight);
        let weight = weight.check("weight", problem.parameters(), weight_rows, group_inputs)?;
        let residual = match args.residual {
            Some(residual) if problem.has_residual() => {
                Some(residual.check("residual", problem.dtype(), problem.rows(), outputs)?)
            }
            Some(_) => return Err(Error::Surplus { tensor: "residual" }),
            None if problem.has_residual() => return Err(Error::Missing { tensor: "residual" }),
            None => None,
        };
        let y = args.y.check("y", problem.dtype(), problem.rows(), outputs)?;
        let (_, worker_parts) = self.scratch().split(scratch)?;

        let (tile_rows, tile_outputs) = self.tile();
        let in_group = group_outputs.div_ceil(tile_outputs);
        let tiles = Tiles::new(problem.rows(), problem.groups() * in_group, tile_rows, 1);
        tiles.for_each(worker_parts, self.scratch().worker_len(), |rows, across, scratch| {
            let (group, place) = (across.start / in_group, across.start % in_group * tile_outputs);
            let first = group * group_outputs + place;
            let width = tile_outputs.min(group_outputs - place);
            let (tile, scratch) = scratch.split_at_mut(tile_rows * tile_outputs);
            let (gates, scratch) =
                scratch.split_at_mut((problem.activation().halves() - 1) * tile_rows * tile_outputs);
            let (transposed, scratch) = scratch.split_at_mut(padded(tile_rows) * tile_outputs);
            let (one_row, scratch) = scratch.split_at_mut(tile_outputs);
            let one_row = &mut one_row[..width];
            let copied_rows = if problem.dtype() == DType::F32 { 0 } else { tile_rows };
            let (x_copy, weight_copy) = scratch.split_at_mut(copied_rows * group_inputs);
            let (x, x_stride) = x.stage(rows.clone(), group * group_inputs, group_inputs, x_copy);
            let mut sums = |first: usize, sums: &mut [f32]| {
                let (weight, _) = weight.stage(first..first + width, 0, group_inputs, weight_copy);
                let sizes = (rows.len(), width, group_inputs);
                product_of_rows(sizes, (x, x_stride), weight, transposed, sums);
                if let Some(bias) = args.bias {
                    bias.load(first, one_row);
                    add_to_each(sums, one_row);
                }
            };
            let tile = &mut tile[..rows.len() * width];
            sums(first, tile);
            if !gates.is_empty() {
                sums(outputs + first, &mut gates[..rows.len() * width]);
            }
            activation::apply(problem.activation(), tile, gates);
            for (row, tile) in rows.zip(tile.chunks_exact_mut(width)) {
                if let Some(residual) = &residual {
                    residual.load(row, first, one_row);
                    add_to_each(tile, one_row);
                }
                // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                unsafe { y.store(row, first, tile) };
            }
        });
        Ok(())
    }
}

/// Adds to each row of `rows` the row `added`.
fn add_to_each(rows: &mut [f32], added: &[f32]) {
    for row in rows.chunks_exact_mut(added.len()) {
        for (number, added) in row.iter_mut().zip(added) {
            *number += added;
        }
    }
}
