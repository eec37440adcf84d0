use crate::cuda::call::{Binder, Bound, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::dynamic_conv::backward::BackwardBound;
use crate::cuda::dynamic_conv::{DynamicConvBackward, Source};
use crate::cuda::gpu::Gpu;
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::span_key::{SpanKey, SpanKeyBackward, SpanKeyBound, SpanKeyInputs};
use crate::cuda::traffic::Traffic;
use crate::problem::SpanConvBackwardProblem;
use crate::{Result, Sequences};

/// The gradients of a span-based dynamic convolution, prepared: see [`SpanConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct SpanConvBackward {
    gpu: Gpu,
    problem: SpanConvBackwardProblem,
    /// What makes z again, where it is needed.
    forward: Option<SpanKey>,
    key: SpanKeyBackward,
    conv: DynamicConvBackward,
}

/// What [`SpanConvBackward::launch`] reads and writes: the gradients that the problem wants, and no others.
#[derive(Debug)]
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
    /// That of the forward pass, where weights are dropped.
    pub seed: Option<u64>,
    /// `[tokens, A]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten; zero in the padding, as are all gradients of tokens.
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
    /// Plans what the wanted gradients need of both operators and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanConvBackwardProblem) -> Result<Self> {
        let again = || SpanKey::new(gpu, *problem.forward().key());
        let forward = problem.needs_forward_key().then(again).transpose()?;
        let key = SpanKeyBackward::new(gpu, *problem.key())?;
        let conv = DynamicConvBackward::new(gpu, *problem.conv())?;
        Ok(SpanConvBackward { gpu: gpu.clone(), problem, forward, key, conv })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanConvBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs: z and its gradient, and what either operator needs of its own.
    pub fn scratch_len(&self) -> u64 {
        self.own_scratch().saturating_add(self.conv.scratch_len().max(self.key.scratch_len()))
    }

    /// Numbers of z, and where the operators' own scratch memory begins: where a sector may.
    fn keys(&self) -> [u64; 2] {
        let key = self.problem.forward().key();
        let tokens = key.depthwise().sequences().tokens() as u64;
        let len = tokens.saturating_mul(key.outputs() as u64).saturating_add(7) / 8 * 8;
        let of = |is: bool| if is { len } else { 0 };
        [of(self.forward.is_some()), of(self.problem.needs_key())]
    }

    fn own_scratch(&self) -> u64 {
        self.keys().into_iter().fold(0, u64::saturating_add)
    }

    /// What a call reads and writes, as the plans of both operators predict it, that of z again among it: see
    /// [`DynamicConvBackward::traffic`] and [`SpanKeyBackward::traffic`]. A key bias that is read is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        let mut all = self.conv.traffic(sequences)? + self.key.traffic(sequences)?;
        if let Some(forward) = &self.forward {
            all = all + forward.traffic(sequences)?;
        }
        Ok(all)
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`SpanConvBackward::scratch_len`] numbers of f32.
    /// Nothing is allocated on the device, and nothing waited for. The same call gives the same bits.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, an input that is
    /// missing or not part of the problem, a gradient that is missing or not wanted, too little scratch, and errors of the
    /// driver.
    pub fn launch(&self, args: SpanConvBackwardArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let SpanConvBackwardArgs { sequences, x, query, value, depthwise, pointwise, key_bias, .. } = args;
        let (key_wanted, wanted) = (self.problem.key().wanted(), self.problem.conv().wanted());
        let (forward, gradients) = (self.problem.forward(), self.problem.conv().parameters());
        let (of_key, of_conv) = (forward.key(), forward.conv());
        let (convolved, conv, logits) = (of_key.depthwise(), of_conv.convolution(), of_conv.logits());
        let (dtype, parameters, tokens) = (conv.dtype(), conv.parameters(), conv.sequences().tokens());
        let (channels, outputs, width) = (convolved.channels(), conv.channels(), convolved.window().width());
        let binder = Binder { gpu: &self.gpu };
        let (rows, keys) = ([tokens, channels], [tokens, outputs]);

        let list = binder.sequences(sequences, conv)?;
        let of_x = binder.rows("x", x, dtype, rows)?;
        let of_query = binder.rows("query", query, dtype, keys)?;
        let of_value = binder.rows("value", value, dtype, keys)?;
        let of_depthwise = binder.elements("depthwise", depthwise, parameters, channels * width)?;
        let of_pointwise = binder.elements("pointwise", pointwise, parameters, outputs * channels)?;
        let has_bias = of_key.has_key_bias();
        let of_key_bias = binder.optional("key_bias", key_bias, has_bias, parameters, outputs)?;
        let weight = binder.rows("weight", Rows::contiguous(args.weight), parameters, [logits, outputs])?;
        let has_bias = forward.has_weight_bias();
        let weight_bias = binder.optional("weight_bias", args.weight_bias, has_bias, parameters, logits)?;
        let dropout = binder.dropout(conv, args.seed)?;
        let dy = binder.rows("dy", args.dy, dtype, keys)?;
        let elements =
            |name, elements, wanted, len| binder.wanted_elements(name, elements, wanted, gradients, len);
        let dx = binder.wanted_rows("dx", args.dx, key_wanted.x, dtype, rows)?;
        let dquery = binder.wanted_rows("dquery", args.dquery, key_wanted.query, dtype, keys)?;
        let ddepthwise = elements("ddepthwise", args.ddepthwise, key_wanted.depthwise, channels * width)?;
        let dpointwise = elements("dpointwise", args.dpointwise, key_wanted.pointwise, outputs * channels)?;
        let dkey_bias = elements("dkey_bias", args.dkey_bias, key_wanted.key_bias, outputs)?;
        let dvalue = binder.wanted_rows("dvalue", args.dvalue, wanted.x, dtype, keys)?;
        let dweight = elements("dweight", args.dweight, wanted.weight, logits * outputs)?;
        let dweight_bias = elements("dweight_bias", args.dweight_bias, wanted.weight_bias, logits)?;
        let dbias = elements("dbias", args.dbias, wanted.bias, outputs)?;
        let scratch = binder.scratch(scratch, self.scratch_len())?;
        let [z_len, _] = self.keys();
        let own = scratch.part(self.own_scratch(), 0);

        if let Some(forward) = &self.forward {
            let inputs = SpanKeyInputs { sequences, x, query, depthwise, pointwise, key_bias, history: None };
            forward.push(inputs, &scratch.part(0, outputs))?;
        }
        let bound = BackwardBound {
            sequences: list,
            x: of_value,
            source: Source { source: weight, weight_bias, query: Some(scratch.part(0, outputs)) },
            dropout,
            dy,
            dx: dvalue,
            dlogits: Bound::nothing(),
            dweight: dweight.with_stride(outputs),
            dweight_bias,
            dquery: scratch.part(z_len, outputs),
            dbias,
        };
        self.conv.push(&bound, &own, sequences.is_listed())?;
        let bound = SpanKeyBound {
            list: bound.sequences,
            x: of_x,
            query: of_query,
            depthwise: of_depthwise,
            pointwise: of_pointwise.with_stride(channels),
            key_bias: of_key_bias.with_stride(0),
            dz: scratch.part(z_len, outputs),
            dx,
            dquery,
            ddepthwise,
            dpointwise: dpointwise.with_stride(channels),
            dkey_bias,
            scratch: own,
        };
        self.key.push(&bound, sequences.is_listed())
    }
}
