use crate::cpu::{DynamicConv, DynamicConvArgs, Elements, Rows, RowsMut, SpanKey, SpanKeyArgs, TapArgs};
use crate::problem::SpanConvProblem;
use crate::{Error, Result, Sequences};

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
        self.key_len() + self.key.scratch_len().max(self.conv.scratch_len())
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
        let SpanConvArgs { weight, weight_bias, bias, history, value_history, y, .. } = args;
        let (expected, got) = (self.scratch_len(), scratch.len());
        if got < expected {
            return Err(Error::Scratch { expected, got });
        }
        let (z, memory) = scratch.split_at_mut(self.key_len());
        self.key.run(
            SpanKeyArgs {
                sequences,
                x,
                query,
                depthwise,
                pointwise,
                key_bias,
                history,
                z: RowsMut::contiguous(&mut *z),
            },
            memory,
        )?;
        let taps = TapArgs::Generated { weight, weight_bias, query: Some(Rows::contiguous(&*z)) };
        let args = DynamicConvArgs { sequences, x: value, taps, bias, history: value_history, y };
        self.conv.run(args, memory).map_err(|error| match error {
            // In this operator the convolved tokens are called value, and x is another input.
            Error::DType { tensor: "x", expected, got } => Error::DType { tensor: "value", expected, got },
            Error::Length { tensor: "x", expected, got } => Error::Length { tensor: "value", expected, got },
            Error::Stride { tensor: "x", stride, channels } => {
                Error::Stride { tensor: "value", stride, channels }
            }
            Error::Missing { tensor: "history" } => Error::Missing { tensor: "value_history" },
            Error::Surplus { tensor: "history" } => Error::Surplus { tensor: "value_history" },
            other => other,
        })
    }
}
