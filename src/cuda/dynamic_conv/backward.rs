mod logits;
mod plan;

use crate::cuda::call::{Binder, Bound, ElementsMut, Rows, RowsMut};
use crate::cuda::dynamic_conv::{Source, TapArgs, source};
use crate::cuda::gpu::Gpu;
use crate::cuda::linear::product::{ProductBound, push_product, push_sums};
use crate::cuda::plan::DropoutParams;
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::{DynamicConvBackwardProblem, Taps};
use crate::{Result, Sequences};

use plan::OfX;
pub(crate) use plan::{BackwardPlaces, Parts};

/// The backward pass of a dynamic convolution, prepared: see [`DynamicConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct DynamicConvBackward {
    gpu: Gpu,
    problem: DynamicConvBackwardProblem,
    parts: Parts,
}

/// What [`DynamicConvBackward::launch`] reads and writes: the gradients that the problem wants, and no others.
#[derive(Debug)]
pub struct DynamicConvBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// Logits, or what generates them.
    pub taps: TapArgs<'a>,
    /// That of the forward pass, where weights are dropped.
    pub seed: Option<u64>,
    /// `[tokens, C]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten; zero in the padding, as are all gradients of tokens.
    pub dx: Option<RowsMut<'a>>,
    /// `[tokens, H K]`, overwritten.
    pub dlogits: Option<RowsMut<'a>>,
    /// `[H K, Cq]`, overwritten.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[H K]`, overwritten.
    pub dweight_bias: Option<ElementsMut<'a>>,
    /// `[tokens, Cq]`, overwritten.
    pub dquery: Option<RowsMut<'a>>,
    /// `[C]`, overwritten.
    pub dbias: Option<ElementsMut<'a>>,
}

impl DynamicConvBackward {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: DynamicConvBackwardProblem) -> Result<Self> {
        let parts = Parts::new(&problem, gpu.limits())?;
        let listed = listed(problem.forward().convolution().sequences());
        let places = BackwardPlaces::contiguous(&problem);
        for launch in parts.launches(DropoutParams::default(), &places, listed, gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(DynamicConvBackward { gpu: gpu.clone(), problem, parts })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs: logits that are generated again and their gradients, what own
    /// queries add to the gradient of x, and sums over some of the tokens.
    pub fn scratch_len(&self) -> u64 {
        self.parts.scratch.len
    }

    /// What a call reads and writes, as its plan predicts it: tokens that lie without gaps, and begin on a sector, as do
    /// all heads, queries, rows of W and of logits; none of them is padding. What crosses from one launch to another is
    /// written and read.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        sequences.check(self.problem.forward().convolution().sequences())?;
        self.parts.traffic(sequences, self.gpu.limits())
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`DynamicConvBackward::scratch_len`] numbers of
    /// f32. Nothing is allocated on the device, and nothing waited for. The same call gives the same bits.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, an input that is
    /// missing or not part of the problem, a gradient that is missing or not wanted, too little scratch, and errors of the
    /// driver.
    pub fn launch(&self, args: DynamicConvBackwardArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let DynamicConvBackwardArgs { sequences, x, taps, seed, dy, dx, dlogits, .. } = args;
        let DynamicConvBackwardArgs { dweight, dweight_bias, dquery, dbias, .. } = args;
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let (conv, logits) = (forward.convolution(), forward.logits());
        let (dtype, parameters, tokens) =
            (conv.dtype(), self.problem.parameters(), conv.sequences().tokens());
        let (query_channels, query) = match forward.taps() {
            Taps::Given => (0, None),
            Taps::Generated { query_channels, query, .. } => (query_channels, query),
        };
        let binder = Binder { gpu: &self.gpu };
        let rows = [tokens, conv.channels()];
        let bound = BackwardBound {
            sequences: binder.sequences(sequences, conv)?,
            x: binder.rows("x", x, dtype, rows)?,
            source: source(binder, forward, taps)?,
            dropout: binder.dropout(conv, seed)?,
            dy: binder.rows("dy", dy, dtype, rows)?,
            dx: binder.wanted_rows("dx", dx, wanted.x, dtype, rows)?,
            dlogits: binder.wanted_rows("dlogits", dlogits, wanted.logits, parameters, [tokens, logits])?,
            dweight: binder
                .wanted_elements("dweight", dweight, wanted.weight, parameters, logits * query_channels)?
                .with_stride(query_channels),
            dweight_bias: {
                let wanted = wanted.weight_bias;
                binder.wanted_elements("dweight_bias", dweight_bias, wanted, parameters, logits)?
            },
            dquery: {
                let (wanted, dtype) = (wanted.query, query.unwrap_or(dtype));
                binder.wanted_rows("dquery", dquery, wanted, dtype, [tokens, query_channels])?
            },
            dbias: binder.wanted_elements("dbias", dbias, wanted.bias, parameters, conv.channels())?,
        };
        let scratch = binder.scratch(scratch, self.scratch_len())?;
        self.push(&bound, &scratch, sequences.is_listed())
    }

    /// Puts the launches into the stream, on memory that is checked.
    pub(crate) fn push(
        &self,
        bound: &BackwardBound<'_, '_>,
        scratch: &Bound<'_>,
        listed: bool,
    ) -> Result<()> {
        let BackwardBound { sequences, x, source, dropout, dy, dx, dlogits, .. } = bound;
        let (parts, limits) = (&self.parts, self.gpu.limits());
        let binder = Binder { gpu: &self.gpu };
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let nothing = &Bound::nothing();
        let query = source.query.as_ref().unwrap_or(x);
        let part = |at, stride| scratch.part(at, stride);
        let generated = part(parts.scratch.logits, forward.logits());
        let logits = if forward.taps() == Taps::Given { &source.source } else { &generated };
        let kept = part(parts.scratch.gradients, forward.logits());
        let gradients = if wanted.logits { dlogits } else { &kept };
        let addend = part(parts.scratch.addend, forward.convolution().channels());
        let sums = part(parts.scratch.sums, 0);
        let places = BackwardPlaces {
            x: x.place,
            source: source.source.place,
            query: query.place,
            logits: logits.place,
            dy: dy.place,
            dx: dx.place,
            gradients: gradients.place,
        };
        if let Some(launch) = parts.generate(&places, limits)? {
            binder.launch(&launch, [query, &source.source, &source.weight_bias, nothing, &generated])?;
        }
        if let Some(launch) = parts.logits(*dropout, &places, listed, limits)? {
            binder.launch(&launch, [x, dy, logits, sequences, gradients])?;
        }
        let product = |b, c| ProductBound {
            a: gradients,
            gate: nothing,
            b,
            addend: nothing,
            factor: nothing,
            list: sequences,
            c,
            scratch: &sums,
        };
        if let Some(of_query) = &parts.query {
            let to = if wanted.query { &bound.dquery } else { &addend };
            push_product(binder, of_query, &product(&source.source, to))?;
        }
        let addend = if parts.adds_query() { &addend } else { nothing };
        match parts.x(*dropout, &places, listed, limits)? {
            Some(OfX::Transposed(launch)) => binder.launch(&launch, [dy, logits, addend, sequences, dx])?,
            Some(OfX::MultiplyAdd(launch)) => {
                binder.launch(&launch, [dy, logits, addend, nothing, sequences, dx])?;
            }
            None => {}
        }
        if let Some(of_weight) = &parts.weight {
            push_product(binder, of_weight, &product(query, &bound.dweight))?;
        }
        if let Some(of_bias) = &parts.weight_bias {
            push_sums(binder, of_bias, [gradients, nothing, sequences, &bound.dweight_bias, &sums])?;
        }
        match &parts.bias {
            Some(of_bias) => push_sums(binder, of_bias, [dy, nothing, sequences, &bound.dbias, &sums]),
            None => Ok(()),
        }
    }
}

/// What a call reads and writes, checked; nothing in the place of what is not wanted.
pub(crate) struct BackwardBound<'a, 'b> {
    pub(crate) sequences: Bound<'a>,
    pub(crate) x: Bound<'a>,
    pub(crate) source: Source<'b>,
    pub(crate) dropout: DropoutParams,
    pub(crate) dy: Bound<'a>,
    pub(crate) dx: Bound<'a>,
    pub(crate) dlogits: Bound<'a>,
    /// Rows of Cq.
    pub(crate) dweight: Bound<'a>,
    pub(crate) dweight_bias: Bound<'a>,
    pub(crate) dquery: Bound<'a>,
    pub(crate) dbias: Bound<'a>,
}
