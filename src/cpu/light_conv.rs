mod backward;

pub use backward::{LightConvBackward, LightConvBackwardArgs};

use crate::cpu::buffer::check_optional;
use crate::cpu::dropout::check_seed;
use crate::cpu::filter::FilterPlan;
use crate::cpu::phase::Tokens;
use crate::cpu::scratch::Division;
use crate::cpu::{Elements, Rows, RowsMut};
use crate::problem::LightConvProblem;
use crate::{Result, Sequences};

/// Light convolution, prepared: see [`LightConvProblem`].
#[derive(Clone, Debug)]
pub struct LightConv {
    problem: LightConvProblem,
    filter: FilterPlan,
}

/// What [`LightConv::run`] reads and writes.
#[derive(Debug)]
pub struct LightConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// What dropout's random numbers are made from, where the problem drops weights.
    pub seed: Option<u64>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

impl LightConv {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: LightConvProblem) -> Self {
        let filter = FilterPlan::new(problem.convolution());
        LightConv { problem, filter }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    fn scratch(&self) -> Division {
        Division { shared: self.filter.shared(), per_worker: self.filter.per_worker() }
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input that
    /// is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: LightConvArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let conv = self.problem.convolution();
        let LightConvArgs { sequences, x, weight, bias, history, seed, y } = args;
        let tokens = Tokens::check(["x", "history"], conv, sequences, x, history)?;
        let [heads, width] = self.problem.weight_shape();
        weight.check("weight", conv.parameters(), heads * width)?;
        check_optional("bias", bias, conv.has_bias(), conv.parameters(), conv.channels())?;
        let dropout = check_seed(conv, seed)?;
        let y = y.check("y", conv.dtype(), conv.sequences().tokens(), conv.channels())?;
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        let filter = self.filter.prepare(conv, weight, bias, dropout, shared);
        filter.convolve_all(sequences, tokens, &y, (worker_parts, self.scratch().worker_len()));
        Ok(())
    }
}
