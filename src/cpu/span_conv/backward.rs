use crate::cpu::dropout::check_seed;
use crate::cpu::dynamic_conv::{BackwardCall, BackwardGradients, TapSource, check_generator};
use crate::cpu::gradients::{check_parameter, check_wanted};
use crate::cpu::phase::Tokens;
use crate::cpu::rows::{Sink, Source};
use crate::cpu::{
    DynamicConvBackward, Elements, ElementsMut, Rows, RowsMut, SpanKey, SpanKeyArgs, SpanKeyBackward,
};
use crate::problem::SpanConvBackwardProblem;
use crate::{Error, Result, Sequences};

/// The gradients of a span-based dynamic convolution, prepared: see [`SpanConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct SpanConvBackward {
    problem: SpanConvBackwardProblem,
    /// z, computed again.
    key: SpanKey,
    conv: DynamicConvBackward,
    key_backward: SpanKeyBackward,
}

/// What [`SpanConvBackward::run`] reads and writes. Gradients are given exactly where the problem wants them.
#[derive(Debug)]
pub struct SpanConvBackwardArgs<'a> {
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
    /// The seed of the forward pass, where the problem drops weights.
    pub seed: Option<u64>,
    /// The gradient of y, `[tokens, A]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten.
    pub dx: Option<RowsMut<'a>>,
    /// `[tokens, A]`, overwritten.
    pub dquery: Option<RowsMut<'a>>,
    /// `[C, K]`, overwritten.
    pub ddepthwise: Option<ElementsMut<'a>>,
    /// `[A, C]`, overwritten.
    pub dpointwise: Option<ElementsMut<'a>>,
    /// `[A]`, overwritten.
    pub dkey_bias: Option<ElementsMut<'a>>,
    /// `[tokens, A]`, overwritten.
    pub dvalue: Option<RowsMut<'a>>,
    /// `[H K, A]`, overwritten.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[H K]`, overwritten.
    pub dweight_bias: Option<ElementsMut<'a>>,
    /// `[A]`, overwritten.
    pub dbias: Option<ElementsMut<'a>>,
}

impl SpanConvBackward {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: SpanConvBackwardProblem) -> Self {
        SpanConvBackward {
            key: SpanKey::new(*problem.forward().key()),
            conv: DynamicConvBackward::new(*problem.conv()),
            key_backward: SpanKeyBackward::new(*problem.key()),
            problem,
        }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanConvBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool: z and its gradient, where they
    /// are needed, and what any of the steps needs.
    pub fn scratch_len(&self) -> usize {
        let [z, dz] = self.key_lens();
        let key = if self.problem.needs_forward_key() { self.key.scratch_len() } else { 0 };
        let key_backward = if self.problem.needs_key() { self.key_backward.scratch_len() } else { 0 };
        let steps = key.max(self.conv.scratch_len()).max(key_backward);
        z.saturating_add(dz).saturating_add(steps)
    }

    /// Numbers of z and of its gradient, where they are needed.
    fn key_lens(&self) -> [usize; 2] {
        let key = self.problem.forward().key();
        let count = key.depthwise().sequences().tokens() * key.outputs();
        let when = |needed: bool| if needed { count } else { 0 };
        [when(self.problem.needs_forward_key()), when(self.problem.needs_key())]
    }

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input or gradient
    /// that is missing or not part of the problem, or too little scratch. Nothing is written to a gradient then.
    pub fn run(&self, args: SpanConvBackwardArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let SpanConvBackwardArgs { sequences, x, query, value, depthwise, pointwise, key_bias, .. } = args;
        let SpanConvBackwardArgs { weight, weight_bias, seed, dy, .. } = args;
        let (expected, got) = (self.scratch_len(), scratch.len());
        if got < expected {
            return Err(Error::Scratch { expected, got });
        }
        let (problem, wanted) = (self.problem.conv(), self.problem.conv().wanted());
        let (forward, conv) = (problem.forward(), problem.forward().convolution());
        let (tokens, channels, logits) = (conv.sequences().tokens(), conv.channels(), forward.logits());
        let value = Tokens::check(["value", "value_history"], conv, sequences, value, None)?;
        check_generator(forward, weight, weight_bias)?;
        let dropout = check_seed(conv, seed)?;
        let key_inputs =
            self.key_backward.check_inputs(sequences, x, query, depthwise, pointwise, key_bias)?;
        let dy = dy.check("dy", conv.dtype(), tokens, channels)?;

        let SpanConvBackwardArgs { dx, dquery, ddepthwise, dpointwise, dkey_bias, .. } = args;
        let SpanConvBackwardArgs { dvalue, dweight, dweight_bias, dbias, .. } = args;
        let dtype = problem.parameters();
        let parameter =
            |name, given, wanted, rows, columns| check_parameter(name, given, wanted, dtype, rows, columns);
        let dvalue = check_wanted("dvalue", dvalue, wanted.x, conv.dtype(), tokens, channels)?;
        let dweight = parameter("dweight", dweight, wanted.weight, logits, channels)?;
        let dweight_bias = parameter("dweight_bias", dweight_bias, wanted.weight_bias, 1, logits)?;
        let dbias = parameter("dbias", dbias, wanted.bias, 1, channels)?;
        let key_gradients =
            self.key_backward.check_gradients(dx, dquery, ddepthwise, dpointwise, dkey_bias)?;

        let [z_len, dz_len] = self.key_lens();
        let (z, memory) = scratch.split_at_mut(z_len);
        let (dz, memory) = memory.split_at_mut(dz_len);
        if self.problem.needs_forward_key() {
            let z = RowsMut::contiguous(&mut *z);
            let key = SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history: None, z };
            self.key.run(key, memory)?;
        }
        let query = Source::of(z, channels);
        let source = TapSource::Generated { weight, weight_bias, query, channels };
        let call = BackwardCall { sequences, x: value, source, dropout, dy };
        let gradients = BackwardGradients {
            x: dvalue,
            logits: None,
            weight: dweight,
            weight_bias: dweight_bias,
            query: self.problem.needs_key().then(|| Sink::of(&mut *dz, channels)),
            bias: dbias,
        };
        self.conv.launch(&call, &gradients, memory)?;
        if self.problem.needs_key() {
            self.key_backward.launch(&key_inputs, Source::of(dz, channels), &key_gradients, memory)?;
        }
        Ok(())
    }
}
