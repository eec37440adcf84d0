use std::ops::Range;

use crate::cpu::gradients::{
    BiasGradient, InputGradient, Matrix, WeightGradient, check_parameter, check_wanted,
};
use crate::cpu::rows::Source;
use crate::cpu::scratch::Division;
use crate::cpu::{Elements, ElementsMut, Rows, RowsMut};
use crate::problem::LinearBackwardProblem;
use crate::{Error, Result};

/// The gradients of a linear layer, prepared: see [`LinearBackwardProblem`].
///
/// dx and dW are one matrix product each, 2 in out operations a row, and read what they multiply some times from cache;
/// with a ReLU, da is made wherever it is read, as its two tensors cost less to read again than to write.
#[derive(Clone, Debug)]
pub struct LinearBackward {
    problem: LinearBackwardProblem,
    input: InputGradient,
    weight: WeightGradient,
    bias: BiasGradient,
}

/// What [`LinearBackward::run`] reads and writes.
#[derive(Debug)]
pub struct LinearBackwardArgs<'a> {
    /// `[rows, in]`.
    pub x: Rows<'a>,
    /// W `[out, in]`.
    pub weight: Elements<'a>,
    /// `[rows, out]`, the output of the forward pass, where the problem has an activation.
    pub y: Option<Rows<'a>>,
    /// `[rows, out]`.
    pub dy: Rows<'a>,
    /// `[rows, in]`, overwritten, where it is wanted.
    pub dx: Option<RowsMut<'a>>,
    /// `[out, in]`, overwritten, where it is wanted.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[out]`, overwritten, where it is wanted.
    pub dbias: Option<ElementsMut<'a>>,
}

impl LinearBackward {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: LinearBackwardProblem) -> Self {
        let forward = problem.forward();
        let (rows, inputs, outputs) = (forward.rows(), forward.inputs(), forward.outputs());
        LinearBackward {
            input: InputGradient::new(rows, outputs, inputs),
            weight: WeightGradient::new(rows, outputs, inputs),
            bias: BiasGradient::new(rows, outputs),
            problem,
        }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LinearBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    /// One gradient after another, each with what it needs.
    fn scratch(&self) -> Division {
        let wanted = self.problem.wanted();
        let when = |wanted: bool, len: usize| if wanted { len } else { 0 };
        Division {
            shared: when(wanted.weight, self.weight.shared()).max(when(wanted.bias, self.bias.shared())),
            per_worker: when(wanted.x, self.input.per_worker())
                .max(when(wanted.weight, self.weight.per_worker()))
                .max(when(wanted.bias, self.bias.per_worker())),
        }
    }

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, an output or a gradient that is missing or
    /// not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: LinearBackwardArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let (problem, wanted) = (self.problem.forward(), self.problem.wanted());
        let (rows, inputs, outputs) = (problem.rows(), problem.inputs(), problem.outputs());
        let x = args.x.check("x", problem.dtype(), rows, inputs)?;
        let weight = Rows::contiguous(args.weight).check("weight", problem.parameters(), outputs, inputs)?;
        let y = match args.y {
            Some(y) if self.problem.needs_output() => Some(y.check("y", problem.dtype(), rows, outputs)?),
            Some(_) => return Err(Error::Surplus { tensor: "y" }),
            None if self.problem.needs_output() => return Err(Error::Missing { tensor: "y" }),
            None => None,
        };
        let dy = args.dy.check("dy", problem.dtype(), rows, outputs)?;
        let dx = check_wanted("dx", args.dx, wanted.x, problem.dtype(), rows, inputs)?;
        let parameters = self.problem.parameters();
        let dweight = check_parameter("dweight", args.dweight, wanted.weight, parameters, outputs, inputs)?;
        let dbias = check_parameter("dbias", args.dbias, wanted.bias, parameters, 1, outputs)?;
        let (shared, worker_parts) = self.scratch().split(scratch)?;
        let worker_len = self.scratch().worker_len();

        let through_relu = |rows: Range<usize>, columns: Range<usize>, out: &mut [f32]| {
            let count = columns.len();
            for (row, out) in rows.zip(out.chunks_exact_mut(count)) {
                dy.load(row, columns.start, out);
                if let Some(y) = &y {
                    relu_backward(y, row, columns.start, out);
                }
            }
        };
        let da = if y.is_some() { Matrix::Made(&through_relu) } else { Matrix::Rows(dy) };
        if let Some(dx) = dx {
            let workers = (&mut *worker_parts, worker_len);
            self.input.run(da, Matrix::Rows(weight), workers, |rows, columns, tile| {
                for (row, values) in rows.zip(tile.chunks_exact(columns.len())) {
                    // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                    unsafe { dx.store(row, columns.start, values) };
                }
            });
        }
        if let Some(dweight) = dweight {
            self.weight.run(da, Matrix::Rows(x), &dweight, shared, (&mut *worker_parts, worker_len));
        }
        if let Some(dbias) = dbias {
            self.bias.run(da, &dbias, shared, (worker_parts, worker_len));
        }
        Ok(())
    }
}

/// Keeps what flows back where y is positive, columns from `column` on.
fn relu_backward(y: &Source<'_>, row: usize, column: usize, da: &mut [f32]) {
    let mut part = [0.0; 64];
    for (i, da) in da.chunks_mut(part.len()).enumerate() {
        let y_part = &mut part[..da.len()];
        y.load(row, column + i * 64, y_part);
        for (da, &y) in da.iter_mut().zip(&*y_part) {
            *da = if y > 0.0 {
                *da
            } else if y.is_nan() {
                y
            } else {
                0.0
            };
        }
    }
}
