mod backward;

pub use backward::{SpanConvBackward, SpanConvBackwardArgs};

use crate::cpu::dynamic_conv::{TapSource, check_generator};
use crate::cpu::{DynamicConv, Elements, Rows, RowsMut, SpanKey, SpanKeyArgs};
use crate::problem::SpanConvProblem;
use crate::{DType, Error, Result, Sequences};

/// Span-based dynamic convolution, prepared: see [`SpanConvProblem`].
#[derive(Clone, Debug)]
pub struct SpanConv {
    problem: SpanConvProblem,
    key: SpanKey,
    conv: DynamicConv,
}

/// What [`SpanConv::run`] reads and writes.
#[derive(Debug)]
pub struct SpanConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// q `[tokens, A]`.
    pub query: Rows<'a>,
    /// v `[tokens, A]`.
    pub value: Rows<'a>,
    /// `[C, K]`.
    pub depthwise: Elements<'a>,
    /// `[A, C]`.
    pub pointwise: Elements<'a>,
    /// `[A]`, where the problem has one.
    pub key_bias: Option<Elements<'a>>,
    /// W `[H K, A]`.
    pub weight: Elements<'a>,
    /// `[H K]`, where the problem has one.
    pub weight_bias: Option<Elements<'a>>,
    /// `[A]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// Of x, `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// Of v, `[sequences, (K - 1) r, A]`, where the problem has one.
    pub value_history: Option<Elements<'a>>,
    /// What dropout's random numbers are made from, where the problem drops weights.
    pub seed: Option<u64>,
    /// `[tokens, A]`, overwritten.
    pub y: RowsMut<'a>,
}

impl SpanConv {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: SpanConvProblem) -> Self {
        SpanConv { problem, key: SpanKey::new(*problem.key()), conv: DynamicConv::new(*problem.conv()) }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool: the key, and what either
    /// operator needs.
    pub fn scratch_len(&self) -> usize {
        self.key_len().saturating_add(self.key.scratch_len().max(self.conv.scratch_len()))
    }

    fn key_len(&self) -> usize {
        self.problem.key().depthwise().sequences().tokens() * self.problem.key().outputs()
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input that
    /// is missing or not part of the problem, or too little scratch. Nothing is written to y then.
    pub fn run(&self, args: SpanConvArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let SpanConvArgs { sequences, x, query, value, depthwise, pointwise, key_bias, .. } = args;
        let SpanConvArgs { weight, weight_bias, bias, history, value_history, seed, y, .. } = args;
        let (expected, got) = (self.scratch_len(), scratch.len());
        if got < expected {
            return Err(Error::Scratch { expected, got });
        }
        let channels = self.problem.key().outputs();
        let names = ["value", "value_history"];
        let call = self.conv.check(names, sequences, (value, value_history), bias, seed, y)?;
        check_generator(self.conv.problem(), weight, weight_bias)?;

        let (z, memory) = scratch.split_at_mut(self.key_len());
        let z_rows = RowsMut::contiguous(&mut *z);
        let key = SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history, z: z_rows };
        self.key.run(key, memory)?;
        let tokens = self.problem.conv().convolution().sequences().tokens();
        let query = Rows::contiguous(&*z).check("z", DType::F32, tokens, channels)?;
        self.conv.launch(&call, TapSource::Generated { weight, weight_bias, query, channels }, memory)
    }
}
