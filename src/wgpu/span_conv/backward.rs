use ::wgpu::Buffer;

use crate::problem::SpanConvBackwardProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::dynamic_conv::{BackwardBound, DynamicConvBackward, Source};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::span_key::{SpanKey, SpanKeyArgs, SpanKeyBackward, SpanKeyBackwardArgs};
use crate::{Error, Result};

/// The gradients of a span-based dynamic convolution, prepared: see [`SpanConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct SpanConvBackward {
    gpu: Gpu,
    problem: SpanConvBackwardProblem,
    /// What makes z again, where it is needed.
    forward: Option<SpanKey>,
    conv: DynamicConvBackward,
    key: SpanKeyBackward,
}

/// What [`SpanConvBackward::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct SpanConvBackwardArgs<'a> {
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
    /// What decided which weights were dropped, where the problem has dropout.
    pub seed: Option<u64>,
    /// `[tokens, A]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten; where it is wanted, as all that follow.
    pub dx: Option<Rows<'a>>,
    /// `[tokens, A]`, overwritten.
    pub dquery: Option<Rows<'a>>,
    /// `[C, K]`, overwritten.
    pub ddepthwise: Option<Elements<'a>>,
    /// `[A, C]`, overwritten.
    pub dpointwise: Option<Elements<'a>>,
    /// `[A]`, overwritten.
    pub dkey_bias: Option<Elements<'a>>,
    /// `[tokens, A]`, overwritten.
    pub dvalue: Option<Rows<'a>>,
    /// `[H K, A]`, overwritten.
    pub dweight: Option<Elements<'a>>,
    /// `[H K]`, overwritten.
    pub dweight_bias: Option<Elements<'a>>,
    /// `[A]`, overwritten.
    pub dbias: Option<Elements<'a>>,
}

impl SpanConvBackward {
    /// Plans the calls of all operators and compiles their kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanConvBackwardProblem) -> Result<Self> {
        let [again, wanted] = [problem.needs_forward_key(), problem.needs_key()];
        if again || wanted {
            gpu.limits().check_binding("scratch", key_len(&problem).saturating_mul(4))?;
        }
        let forward = again.then(|| SpanKey::new(gpu, *problem.forward().key())).transpose()?;
        let conv = DynamicConvBackward::new(gpu, *problem.conv())?;
        let key = SpanKeyBackward::new(gpu, *problem.key())?;
        Ok(SpanConvBackward { gpu: gpu.clone(), problem, forward, conv, key })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanConvBackwardProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs in each of five buffers: the key z, computed again; its
    /// gradient; the logits and partial sums; the statistics of each token's softmax; the gradient of the logits, and later
    /// what is between x and the key.
    pub fn scratch_len(&self) -> [u64; 5] {
        let [logits, statistics, dlogits, _] = self.conv.scratch_len();
        let [convolved, partial] = self.key.scratch_len();
        let z = if self.forward.is_some() { key_len(&self.problem) } else { 0 };
        let dz = if self.problem.needs_key() { key_len(&self.problem) } else { 0 };
        [z, dz, logits.max(partial), statistics, dlogits.max(convolved)]
    }

    /// A call on these buffers, with `scratch` of at least [`SpanConvBackward::scratch_len`] numbers each.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input or output that is missing or not part of the problem, too little scratch, and
    /// errors of the driver.
    pub fn bind(&self, args: SpanConvBackwardArgs<'_>, scratch: [Option<&Buffer>; 5]) -> Result<Call> {
        let SpanConvBackwardArgs { sequences, x, query, value, depthwise, pointwise, key_bias, .. } = args;
        let SpanConvBackwardArgs { weight, weight_bias, seed, dy, dvalue, dweight, dweight_bias, .. } = args;
        let SpanConvBackwardArgs { dx, dquery, ddepthwise, dpointwise, dkey_bias, dbias, .. } = args;
        let (problem, forward, wanted) =
            (&self.problem, self.problem.forward(), self.problem.conv().wanted());
        let (conv, logits) = (forward.conv().convolution(), forward.conv().logits());
        let (tokens, channels, dtype) = (conv.sequences().tokens(), conv.channels(), conv.dtype());
        let (parameters, gradients) = (conv.parameters(), problem.conv().parameters());
        let (gpu, binder) = (&self.gpu, Binder { gpu: &self.gpu });
        sequences.check(gpu, conv.sequences())?;
        sequences.check_begins()?;
        let seed = binder.seed(conv, seed)?;
        let key = forward.key();
        let (inputs, filters) = (key.depthwise().channels(), key.depthwise().window().width());
        binder.rows("x", x, dtype, tokens, inputs)?;
        binder.rows("query", query, dtype, tokens, channels)?;
        binder.elements("depthwise", depthwise, parameters, inputs * filters)?;
        binder.elements("pointwise", pointwise, parameters, channels * inputs)?;
        binder.optional("key_bias", key_bias, key.has_key_bias(), parameters, channels)?;
        let [z_len, dz_len, ..] = self.scratch_len();
        for (buffer, len) in scratch.into_iter().zip(self.scratch_len()) {
            binder.scratch(buffer, len)?;
        }
        let [z_buffer, dz_buffer, memory, statistics, others] = scratch;
        let z = binder.scratch(z_buffer, z_len)?.as_rows(channels);
        let dz = binder.scratch(dz_buffer, dz_len)?.as_rows(channels);

        let mut call = Call::empty();
        // Rows that are not there lie nowhere.
        let [z_rows, dz_rows] =
            [z_buffer, dz_buffer].map(|buffer| Rows::contiguous(buffer.unwrap_or(gpu.nothing())));
        if let Some(forward) = &self.forward {
            let (z, history) = (z_rows, None);
            let args = SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history, z };
            forward.push(&mut call, "scratch", args)?;
        }
        let value = binder.rows("value", value, dtype, tokens, channels)?;
        let weight = binder.elements("weight", weight, parameters, logits * channels)?;
        let has_bias = forward.has_weight_bias();
        let weight_bias = binder.optional("weight_bias", weight_bias, has_bias, parameters, logits)?;
        let bound = BackwardBound {
            list: binder.whole("sequences", sequences.list()),
            listed: sequences.listed(),
            x: value,
            source: Source { source: weight, query: z, weight_bias },
            seed,
            dy: binder.rows("dy", dy, dtype, tokens, channels)?,
            dx: binder.optional_rows("dvalue", dvalue, wanted.x, dtype, tokens, channels)?,
            dlogits: binder.nothing("dlogits"),
            dweight: binder
                .optional("dweight", dweight, wanted.weight, gradients, logits * channels)?
                .as_rows(channels),
            dweight_bias: binder.optional(
                "dweight_bias",
                dweight_bias,
                wanted.weight_bias,
                gradients,
                logits,
            )?,
            dquery: dz,
            dbias: binder.optional("dbias", dbias, wanted.bias, gradients, channels)?,
        };
        let conv_scratch = self.conv.scratch([memory, statistics, others, None])?;
        self.conv.push(&mut call, &bound, conv_scratch)?;

        if !problem.needs_key() {
            let given = [
                ("dx", dx.is_some()),
                ("dquery", dquery.is_some()),
                ("ddepthwise", ddepthwise.is_some()),
                ("dpointwise", dpointwise.is_some()),
                ("dkey_bias", dkey_bias.is_some()),
            ];
            return match given.into_iter().find(|&(_, is_given)| is_given) {
                Some((tensor, _)) => Err(Error::Surplus { tensor }),
                None => Ok(call),
            };
        }
        let args = SpanKeyBackwardArgs {
            sequences,
            x,
            query,
            depthwise,
            pointwise,
            key_bias,
            dz: dz_rows,
            dx,
            dquery,
            ddepthwise,
            dpointwise,
            dkey_bias,
        };
        self.key.push(&mut call, "scratch", args, [others, memory])?;
        Ok(call)
    }
}

/// Numbers of the key.
fn key_len(problem: &SpanConvBackwardProblem) -> u64 {
    let key = problem.forward().key();
    key.depthwise().sequences().tokens() as u64 * key.outputs() as u64
}
