mod backward;

pub use backward::{SpanConvBackward, SpanConvBackwardArgs};

use crate::cuda::call::{Binder, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::dynamic_conv::{Convolved, DynamicConv, Source};
use crate::cuda::gpu::Gpu;
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::span_key::{SpanKey, SpanKeyInputs};
use crate::cuda::traffic::Traffic;
use crate::problem::SpanConvProblem;
use crate::{Result, Sequences};

/// Span-based dynamic convolution, prepared: see [`SpanConvProblem`].
#[derive(Clone, Debug)]
pub struct SpanConv {
    gpu: Gpu,
    problem: SpanConvProblem,
    key: SpanKey,
    conv: DynamicConv,
}

/// What [`SpanConv::launch`] reads and writes.
#[derive(Debug)]
pub struct SpanConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
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
    /// What the weights to be dropped are made from, where the problem drops any: see [`Dropout`](crate::Dropout).
    pub seed: Option<u64>,
    /// `[tokens, A]`, overwritten.
    pub y: RowsMut<'a>,
}

impl SpanConv {
    /// Plans the calls of both operators and loads their kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: SpanConvProblem) -> Result<Self> {
        let key = SpanKey::new(gpu, *problem.key())?;
        let conv = DynamicConv::new(gpu, *problem.conv())?;
        Ok(SpanConv { gpu: gpu.clone(), problem, key, conv })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs in each of two pieces: the key, and the logits (none where they
    /// stay on the chip).
    pub fn scratch_len(&self) -> [u64; 2] {
        let [tokens, outputs] = self.key_rows();
        [tokens as u64 * outputs as u64, self.conv.scratch_len()]
    }

    /// Rows and columns of the key.
    fn key_rows(&self) -> [usize; 2] {
        let key = self.problem.key();
        [key.depthwise().sequences().tokens(), key.outputs()]
    }

    /// What a call reads and writes, as the plans of both operators predict it.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        let (key, conv) = (self.key.traffic(sequences)?, self.conv.traffic(sequences)?);
        Ok(Traffic {
            read: key.read + conv.read,
            written: key.written + conv.written,
            parameters: key.parameters + conv.parameters,
        })
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`SpanConv::scratch_len`] numbers of f32 each.
    /// Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, an input that is
    /// missing or not part of the problem, too little scratch, and errors of the driver.
    pub fn launch(&self, args: SpanConvArgs<'_>, scratch: [Option<ElementsMut<'_>>; 2]) -> Result<()> {
        let SpanConvArgs { sequences, x, query, value, depthwise, pointwise, key_bias, .. } = args;
        let SpanConvArgs { weight, weight_bias, bias, history, value_history, seed, y, .. } = args;
        let conv = self.problem.conv().convolution();
        let (dtype, parameters, channels) = (conv.dtype(), conv.parameters(), conv.channels());
        let (rows, logits) = ([conv.sequences().tokens(), channels], self.problem.conv().logits());
        let binder = Binder { gpu: &self.gpu };
        let [z, memory] = scratch;
        let [key_len, logits_len] = self.scratch_len();
        let z = binder.scratch(z, key_len)?.with_stride(channels);
        let memory = binder.scratch(memory, logits_len)?;
        let len = conv.history_shape().iter().product();
        let bound = Convolved {
            sequences: binder.sequences(sequences, conv)?,
            x: binder.rows("value", value, dtype, rows)?,
            bias: binder.optional("bias", bias, conv.has_bias(), parameters, channels)?,
            history: binder.optional("value_history", value_history, conv.has_history(), dtype, len)?,
            dropout: binder.dropout(conv, seed)?,
            y: binder.rows_mut("y", y, dtype, rows)?,
        };
        let weight = binder.rows("weight", Rows::contiguous(weight), parameters, [logits, channels])?;
        let has_bias = self.problem.has_weight_bias();
        let weight_bias = binder.optional("weight_bias", weight_bias, has_bias, parameters, logits)?;
        let inputs = SpanKeyInputs { sequences, x, query, depthwise, pointwise, key_bias, history };
        self.key.push(inputs, &z)?;
        let source = Source { source: weight, weight_bias, query: Some(z) };
        self.conv.push(&bound, &source, &memory, sequences.is_listed())
    }
}
