mod backward;

pub use backward::{LinearBackward, LinearBackwardArgs};

use crate::cpu::buffer::check_optional;
use crate::cpu::product::product_of_rows;
use crate::cpu::scratch::Division;
use crate::cpu::tiles::{Tiles, tile_rows};
use crate::cpu::{Elements, Rows, RowsMut, padded};
use crate::problem::{Activation, LinearProblem};
use crate::{DType, Result};

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
    /// W `[out, in]`.
    pub weight: Elements<'a>,
    /// `[out]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
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

    fn tile(&self) -> (usize, usize) {
        (tile_rows(self.problem.rows()), self.problem.outputs().min(TILE_OUTPUTS))
    }

    /// One tile of y as columns and as rows, its bias, and the x and W that it needs where they are not f32.
    fn per_worker(&self) -> usize {
        let (rows, outputs) = self.tile();
        let copy = |count, dtype| if dtype == DType::F32 { 0 } else { count * self.problem.inputs() };
        (padded(rows) + rows + 1) * outputs
            + copy(rows, self.problem.dtype())
            + copy(outputs, self.problem.parameters())
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, a bias that is missing or not part of the
    /// problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: LinearArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let problem = &self.problem;
        let (inputs, outputs) = (problem.inputs(), problem.outputs());
        let x = args.x.check("x", problem.dtype(), problem.rows(), inputs)?;
        check_optional("bias", args.bias, problem.has_bias(), problem.parameters(), outputs)?;
        let weight = Rows::contiguous(args.weight).check("weight", problem.parameters(), outputs, inputs)?;
        let y = args.y.check("y", problem.dtype(), problem.rows(), outputs)?;
        let (_, worker_parts) = self.scratch().split(scratch)?;

        let (tile_rows, tile_outputs) = self.tile();
        let tiles = Tiles::new(problem.rows(), outputs, tile_rows, tile_outputs);
        tiles.for_each(worker_parts, self.scratch().worker_len(), |rows, columns, scratch| {
            let (tile, scratch) = scratch.split_at_mut(tile_rows * tile_outputs);
            let (transposed, scratch) = scratch.split_at_mut(padded(tile_rows) * tile_outputs);
            let (bias, scratch) = scratch.split_at_mut(tile_outputs);
            match args.bias {
                Some(given) => given.load(columns.start, &mut bias[..columns.len()]),
                None => bias.fill(0.0),
            }
            let copied_rows = if problem.dtype() == DType::F32 { 0 } else { tile_rows };
            let (x_copy, weight_copy) = scratch.split_at_mut(copied_rows * inputs);
            let (x, x_stride) = x.stage(rows.clone(), 0, inputs, x_copy);
            let (weight, _) = weight.stage(columns.clone(), 0, inputs, weight_copy);
            product_of_rows((rows.len(), columns.len(), inputs), (x, x_stride), weight, transposed, tile);
            for (row, tile) in rows.zip(tile.chunks_exact_mut(columns.len())) {
                for (y, bias) in tile.iter_mut().zip(&*bias) {
                    *y += bias;
                }
                match problem.activation() {
                    Activation::Identity => {}
                    Activation::Relu => tile.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }),
                }
                // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                unsafe { y.store(row, columns.start, tile) };
            }
        });
        Ok(())
    }
}
