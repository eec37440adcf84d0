mod backward;

pub use backward::{SpanConvBackward, SpanConvBackwardArgs};

use ::wgpu::Buffer;

use crate::Result;
use crate::problem::SpanConvProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::dynamic_conv::{self, DynamicConv, Source};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::span_key::{SpanKey, SpanKeyArgs};

/// Span-based dynamic convolution, prepared: see [`SpanConvProblem`].
#[derive(Clone, Debug)]
pub struct SpanConv {
    gpu: Gpu,
    problem: SpanConvProblem,
    key: SpanKey,
    conv: DynamicConv,
}

/// What [`SpanConv::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
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
    /// What decides which weights are dropped, where the problem has dropout.
    pub seed: Option<u64>,
    /// `[tokens, A]`, overwritten.
    pub y: Rows<'a>,
}

impl SpanConv {
    /// Plans the calls of both operators and compiles their kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanConvProblem) -> Result<Self> {
        gpu.limits().check_binding("scratch", 4 * key_len(&problem))?;
        let key = SpanKey::new(gpu, *problem.key())?;
        let conv = DynamicConv::new(gpu, *problem.conv())?;
        Ok(SpanConv { gpu: gpu.clone(), problem, key, conv })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanConvProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs in each of two buffers: the key, and the logits (none
    /// where they stay on the chip).
    pub fn scratch_len(&self) -> [u64; 2] {
        [key_len(&self.problem), dynamic_conv::scratch_len(self.problem.conv())]
    }

    /// A call on these buffers, with `scratch` of at least [`SpanConv::scratch_len`] numbers each.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input that is missing or not part of the problem, too little scratch, and errors of
    /// the driver.
    pub fn bind(&self, args: SpanConvArgs<'_>, scratch: [Option<&Buffer>; 2]) -> Result<Call> {
        let SpanConvArgs { sequences, x, query, value, depthwise, pointwise, key_bias, .. } = args;
        let SpanConvArgs { weight, weight_bias, bias, history, value_history, seed, y, .. } = args;
        let conv = self.problem.conv().convolution();
        let (channels, dtype, logits) = (conv.channels(), conv.parameters(), self.problem.conv().logits());
        let binder = Binder { gpu: &self.gpu };
        let [key_len, logits_len] = self.scratch_len();
        let z = binder.scratch(scratch[0], key_len)?;
        let memory = binder.scratch(scratch[1], logits_len)?;
        let seed = binder.seed(conv, seed)?;
        let y = (y, conv.dtype(), channels);
        let names = ["value", "value_history", "y"];
        let bound = binder.convolved(names, conv, sequences, value, value_history, y)?;
        let bias = binder.optional("bias", bias, conv.has_bias(), dtype, channels)?;
        let has_bias = self.problem.has_weight_bias();
        let mut call = Call::empty();
        if let (Some(buffer), true) = (scratch[0], key_len > 0) {
            let z = Rows::contiguous(buffer);
            let key = SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history, z };
            self.key.push(&mut call, "scratch", key)?;
        }
        let source = Source {
            source: binder.elements("weight", weight, dtype, logits * channels)?,
            query: z.as_rows(channels),
            weight_bias: binder.optional("weight_bias", weight_bias, has_bias, dtype, logits)?,
        };
        self.conv.push(&mut call, &bound, bias, (source, seed), memory, sequences.listed())?;
        Ok(call)
    }
}

fn key_len(problem: &SpanConvProblem) -> u64 {
    problem.key().depthwise().sequences().tokens() as u64 * problem.key().outputs() as u64
}
