use crate::cpu::dropout::check_seed;
use crate::cpu::filter::{FilterPlan, TapGradient, Weights};
use crate::cpu::gradients::{BiasGradient, Matrix, check_parameter, check_wanted};
use crate::cpu::phase::Tokens;
use crate::cpu::scratch::Division;
use crate::cpu::{Elements, ElementsMut, Rows, RowsMut};
use crate::problem::{Convolution, LightConvBackwardProblem};
use crate::{Result, Sequences};

/// The gradients of a light convolution, prepared: see [`LightConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct LightConvBackward {
    problem: LightConvBackwardProblem,
    /// The convolution along which dx is made of dy.
    mirrored: Convolution,
    x: Option<FilterPlan>,
    weight: Option<TapGradient>,
    bias: Option<BiasGradient>,
}

/// What [`LightConvBackward::run`] reads and writes. Gradients are given exactly where the problem wants them.
#[derive(Debug)]
pub struct LightConvBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// The seed of the forward pass, where the problem drops weights.
    pub seed: Option<u64>,
    /// The gradient of y, `[tokens, C]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten.
    pub dx: Option<RowsMut<'a>>,
    /// `[H, K]`, overwritten.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[C]`, overwritten.
    pub dbias: Option<ElementsMut<'a>>,
}

impl LightConvBackward {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: LightConvBackwardProblem) -> Self {
        let (conv, wanted) = (problem.forward().convolution(), problem.wanted());
        let mirrored = conv.mirrored();
        LightConvBackward {
            x: wanted.x.then(|| FilterPlan::new(&mirrored)),
            weight: wanted.weight.then(|| TapGradient::new(conv)),
            bias: wanted.bias.then(|| BiasGradient::new(conv.sequences().tokens(), conv.channels())),
            mirrored,
            problem,
        }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    /// The gradients are made one after another, each in all of the memory.
    fn scratch(&self) -> Division {
        let weights = Weights::len(self.problem.forward().convolution());
        let parts = [
            self.x.as_ref().map(|x| (x.shared(), x.per_worker())),
            self.weight.as_ref().map(|w| (weights.saturating_add(w.shared()), w.per_worker())),
            self.bias.map(|bias| (bias.shared(), bias.per_worker())),
        ];
        let most = |(a, b): (usize, usize), (c, d)| (a.max(c), b.max(d));
        let (shared, per_worker) = parts.into_iter().flatten().fold((0, 0), most);
        Division { shared, per_worker }
    }

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input or gradient
    /// that is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: LightConvBackwardArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let forward = self.problem.forward();
        let (conv, wanted, parameters) =
            (forward.convolution(), self.problem.wanted(), self.problem.parameters());
        let (tokens, channels) = (conv.sequences().tokens(), conv.channels());
        let LightConvBackwardArgs { sequences, x, weight, seed, dy, dx, dweight, dbias } = args;
        let x = Tokens::check(["x", "history"], conv, sequences, x, None)?;
        let [heads, width] = forward.weight_shape();
        weight.check("weight", conv.parameters(), heads * width)?;
        let dropout = check_seed(conv, seed)?;
        let dy = dy.check("dy", conv.dtype(), tokens, channels)?;
        let dx = check_wanted("dx", dx, wanted.x, conv.dtype(), tokens, channels)?;
        let dweight = check_parameter("dweight", dweight, wanted.weight, parameters, heads, width)?;
        let dbias = check_parameter("dbias", dbias, wanted.bias, parameters, 1, channels)?;
        let worker_len = self.scratch().worker_len();
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        if let (Some(plan), Some(dx)) = (&self.x, &dx) {
            let filter = plan.prepare_mirrored(&self.mirrored, weight, dropout, shared);
            let dy = Tokens { x: dy, history: None, channels };
            filter.convolve_all(sequences, dy, dx, (&mut *worker_parts, worker_len));
        }
        if let (Some(plan), Some(dweight)) = (&self.weight, &dweight) {
            let (weights, sums) = shared.split_at_mut(Weights::len(conv));
            let weights = Weights::prepare(conv, weight, dropout, weights);
            let sums = &mut sums[..plan.shared()];
            plan.run(conv, sequences, (x, dy), &weights, sums, (&mut *worker_parts, worker_len));
            plan.finish(conv, &weights, sums, dweight, (&mut *worker_parts, worker_len));
        }
        if let (Some(plan), Some(dbias)) = (&self.bias, &dbias) {
            plan.run(Matrix::Tokens(dy, sequences), dbias, shared, (worker_parts, worker_len));
        }
        Ok(())
    }
}
