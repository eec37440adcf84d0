mod depthwise;

use crate::cuda::call::{Binder, Bound, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::linear::product::{
    ColumnSums, Form, Gate, Product, ProductBound, ProductPlaces, push_product, push_sums,
};
use crate::cuda::plan::{Launch, Place};
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::span_key::{self, SpanKeyPlaces};
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::{SpanKeyBackwardProblem, SpanKeyProblem};
use crate::{DType, Result, Sequences};

use depthwise::{Depthwise, Filters};

/// The gradients of a span-aware key, prepared: see [`SpanKeyBackwardProblem`].
#[derive(Clone, Debug)]
pub struct SpanKeyBackward {
    gpu: Gpu,
    problem: SpanKeyBackwardProblem,
    parts: SpanKeyParts,
}

/// What [`SpanKeyBackward::launch`] reads and writes. Each gradient is given where it is wanted, and no other.
#[derive(Debug)]
pub struct SpanKeyBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// q `[tokens, A]`.
    pub query: Rows<'a>,
    /// `[C, K]`.
    pub depthwise: Elements<'a>,
    /// `[A, C]`.
    pub pointwise: Elements<'a>,
    /// `[A]`, where the problem has one.
    pub key_bias: Option<Elements<'a>>,
    /// `[tokens, A]`, of the type of z.
    pub dz: Rows<'a>,
    /// `[tokens, C]`, overwritten; zero in the padding.
    pub dx: Option<RowsMut<'a>>,
    /// `[tokens, A]`, overwritten; zero in the padding.
    pub dquery: Option<RowsMut<'a>>,
    /// `[C, K]`, overwritten.
    pub ddepthwise: Option<ElementsMut<'a>>,
    /// `[A, C]`, overwritten.
    pub dpointwise: Option<ElementsMut<'a>>,
    /// `[A]`, overwritten.
    pub dkey_bias: Option<ElementsMut<'a>>,
}

impl SpanKeyBackward {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanKeyBackwardProblem) -> Result<Self> {
        let parts = SpanKeyParts::of(&problem, gpu.limits())?;
        for launch in plan(&problem, listed(problem.forward().depthwise().sequences()), gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(SpanKeyBackward { gpu: gpu.clone(), problem, parts })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanKeyBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs: the convolved x and its gradient, `[tokens, C]`, one after the
    /// other, and sums over some of the tokens.
    pub fn scratch_len(&self) -> u64 {
        self.parts.convolved.saturating_add(self.parts.sums)
    }

    /// What a call reads and writes, as its plan predicts it: of sequences without padding, in tensors whose rows all begin
    /// on a sector. What crosses from one launch to another is written and read.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        sequences.check(self.problem.forward().depthwise().sequences())?;
        self.parts.traffic(sequences, self.gpu.limits())
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`SpanKeyBackward::scratch_len`] numbers of f32.
    /// Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, a tensor that is
    /// missing or not part of the problem, too little scratch, and errors of the driver.
    pub fn launch(&self, args: SpanKeyBackwardArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let (conv, outputs) = (forward.depthwise(), forward.outputs());
        let (dtype, parameters, gradients) = (conv.dtype(), conv.parameters(), self.problem.parameters());
        let (channels, width, tokens) = (conv.channels(), conv.window().width(), conv.sequences().tokens());
        let binder = Binder { gpu: &self.gpu };
        let [key, convolved] = [[tokens, outputs], [tokens, channels]];
        let pointwise = binder.elements("pointwise", args.pointwise, parameters, outputs * channels)?;
        let bound = SpanKeyBound {
            list: binder.sequences(args.sequences, conv)?,
            x: binder.rows("x", args.x, dtype, convolved)?,
            query: binder.rows("query", args.query, dtype, key)?,
            depthwise: binder.elements("depthwise", args.depthwise, parameters, channels * width)?,
            pointwise: pointwise.with_stride(channels),
            key_bias: binder
                .optional("key_bias", args.key_bias, forward.has_key_bias(), parameters, outputs)?
                .with_stride(0),
            dz: binder.rows("dz", args.dz, forward.output(), key)?,
            dx: binder.wanted_rows("dx", args.dx, wanted.x, dtype, convolved)?,
            dquery: binder.wanted_rows("dquery", args.dquery, wanted.query, dtype, key)?,
            ddepthwise: {
                let len = channels * width;
                binder.wanted_elements("ddepthwise", args.ddepthwise, wanted.depthwise, gradients, len)?
            },
            dpointwise: {
                let len = outputs * channels;
                binder
                    .wanted_elements("dpointwise", args.dpointwise, wanted.pointwise, gradients, len)?
                    .with_stride(channels)
            },
            dkey_bias: {
                binder.wanted_elements("dkey_bias", args.dkey_bias, wanted.key_bias, gradients, outputs)?
            },
            scratch: binder.scratch(scratch, self.scratch_len())?,
        };
        self.push(&bound, args.sequences.is_listed())
    }

    /// Puts the launches into the stream, on memory that is checked.
    pub(crate) fn push(&self, bound: &SpanKeyBound<'_>, listed: bool) -> Result<()> {
        let SpanKeyBound { list, x, query, depthwise, pointwise, key_bias, dz, .. } = bound;
        let (binder, limits, parts) = (Binder { gpu: &self.gpu }, self.gpu.limits(), &self.parts);
        let channels = self.problem.forward().depthwise().channels();
        // The convolved x, then its gradient; then sums.
        let convolved = &bound.scratch.part(0, channels);
        let sums = &bound.scratch.part(parts.convolved, 0);
        let nothing = &Bound::nothing();
        let product = |a, gate, b, c| ProductBound {
            a,
            gate,
            b,
            addend: nothing,
            factor: nothing,
            list,
            c,
            scratch: sums,
        };
        let convolve = |of: &Depthwise, from: &Bound<'_>, to: &Bound<'_>| -> Result<()> {
            match of.plan([from.place, to.place], listed, limits)? {
                Some(launch) => binder.launch(&launch, [from, depthwise, list, to]),
                None => Ok(()),
            }
        };
        if let Some(of) = &parts.x_convolved {
            convolve(of, x, convolved)?;
        }
        match &parts.query {
            None => {}
            Some(QueryPart::Forward(forward)) => {
                let places = SpanKeyPlaces {
                    x: x.place,
                    history: Place::contiguous(channels),
                    pointwise: pointwise.place,
                    query: dz.place,
                    z: bound.dquery.place,
                };
                if let Some(launch) = span_key::plan(forward, &places, listed, limits)? {
                    let all = [x, depthwise, pointwise, key_bias, dz, nothing, list, &bound.dquery];
                    binder.launch(&launch, all)?;
                }
            }
            Some(QueryPart::Product(of)) => {
                let apart = product(convolved, nothing, pointwise, &bound.dquery);
                push_product(binder, of, &ProductBound { addend: key_bias, factor: dz, ..apart })?;
            }
        }
        if let Some(of) = &parts.pointwise {
            push_product(binder, of, &product(dz, query, convolved, &bound.dpointwise))?;
        }
        if let Some(of) = &parts.key_bias {
            push_sums(binder, of, [dz, query, list, &bound.dkey_bias, sums])?;
        }
        if let Some(of) = &parts.convolved_gradient {
            push_product(binder, of, &product(dz, query, pointwise, convolved))?;
        }
        if let Some(of) = &parts.x {
            convolve(of, convolved, &bound.dx)?;
        }
        if let Some(of) = &parts.depthwise {
            match &of.plan([x.place, convolved.place], listed, limits)?[..] {
                [] => {}
                [first] => binder.launch(first, [x, convolved, list, &bound.ddepthwise])?,
                [first, others @ ..] => {
                    binder.launch(first, [x, convolved, list, sums])?;
                    for launch in others {
                        binder.launch(launch, [sums, &bound.ddepthwise])?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The memory of a call, checked: rows of `pointwise` and its gradient are C numbers, and `key_bias` is one row for all.
pub(crate) struct SpanKeyBound<'a> {
    pub(crate) list: Bound<'a>,
    pub(crate) x: Bound<'a>,
    pub(crate) query: Bound<'a>,
    pub(crate) depthwise: Bound<'a>,
    pub(crate) pointwise: Bound<'a>,
    pub(crate) key_bias: Bound<'a>,
    pub(crate) dz: Bound<'a>,
    pub(crate) dx: Bound<'a>,
    pub(crate) dquery: Bound<'a>,
    pub(crate) ddepthwise: Bound<'a>,
    pub(crate) dpointwise: Bound<'a>,
    pub(crate) dkey_bias: Bound<'a>,
    pub(crate) scratch: Bound<'a>,
}

/// How the gradient of the query is made: dz k.
#[derive(Clone, Copy, Debug)]
enum QueryPart {
    /// By the forward pass, with dz in the place of the query, where it has the type of one.
    Forward(SpanKeyProblem),
    /// From the convolved x.
    Product(Product),
}

/// What of the gradients is wanted, in the order in which it is computed.
#[derive(Clone, Copy, Debug)]
struct SpanKeyParts {
    /// d, where it is needed.
    x_convolved: Option<Depthwise>,
    query: Option<QueryPart>,
    pointwise: Option<Product>,
    key_bias: Option<ColumnSums>,
    /// dd, where it is needed: in the place of d.
    convolved_gradient: Option<Product>,
    x: Option<Depthwise>,
    depthwise: Option<Filters>,
    /// Numbers of scratch memory for d and dd, and for sums.
    convolved: u64,
    sums: u64,
}

impl SpanKeyParts {
    fn of(problem: &SpanKeyBackwardProblem, limits: &Limits) -> Result<Self> {
        let (forward, wanted) = (problem.forward(), problem.wanted());
        let (conv, outputs, dz) = (*forward.depthwise(), forward.outputs(), forward.output());
        let (dtype, parameters, gradients) = (conv.dtype(), conv.parameters(), problem.parameters());
        let (channels, rows) = (conv.channels(), conv.sequences().tokens());
        let tokens = Some(conv.sequences());
        let gate = Some(Gate::Times(dtype));
        let query = if dz == dtype {
            QueryPart::Forward(*forward)
        } else {
            let product =
                Product::new(Form::ByRows, [rows, outputs, channels], [DType::F32, parameters, dtype]);
            let addend = forward.has_key_bias().then_some(parameters);
            QueryPart::Product(Product { addend, factor: Some(dz), tokens, ..product })
        };
        let query = wanted.query.then_some(query);
        let convolved = wanted.pointwise || matches!(query, Some(QueryPart::Product(_)));
        let x_convolved = Depthwise { conv, x: dtype, y: DType::F32, mirrored: false };
        let pointwise = wanted.pointwise.then(|| {
            let types = [dz, DType::F32, gradients];
            Product { gate, tokens, ..Product::new(Form::Transposed, [outputs, channels, rows], types) }
        });
        let key_bias = ColumnSums { rows, columns: outputs, dtype: dz, gate, sum: gradients, tokens };
        let key_bias = wanted.key_bias.then_some(key_bias);
        let convolved_gradient = {
            let types = [dz, parameters, DType::F32];
            Product { gate, tokens, ..Product::new(Form::Plain, [rows, channels, outputs], types) }
        };
        let x = Depthwise { conv: conv.mirrored(), x: DType::F32, y: dtype, mirrored: true };
        let depthwise = wanted.depthwise.then_some(Filters { conv, sum: gradients });
        let sums = [
            pointwise.map_or(0, |of| of.scratch_len(limits)),
            key_bias.map_or(0, |of| of.scratch_len(limits)),
            depthwise.map_or(Ok(0), |of| of.scratch_len(limits))?,
        ];
        let len = if convolved || problem.needs_convolved() {
            // Sums begin where a sector may.
            (rows as u64).saturating_mul(channels as u64).saturating_add(7) / 8 * 8
        } else {
            0
        };
        Ok(SpanKeyParts {
            x_convolved: convolved.then_some(x_convolved),
            query,
            pointwise,
            key_bias,
            convolved_gradient: problem.needs_convolved().then_some(convolved_gradient),
            x: wanted.x.then_some(x),
            depthwise,
            convolved: len,
            sums: sums.into_iter().fold(0, u64::max),
        })
    }

    fn traffic(&self, sequences: &Sequences, limits: &Limits) -> Result<Traffic> {
        let mut all = Traffic::default();
        for of in [self.x_convolved, self.x].into_iter().flatten() {
            all = all + of.traffic(sequences)?;
        }
        all = match &self.query {
            None => all,
            Some(QueryPart::Forward(forward)) => all + span_key::traffic(forward, sequences, limits)?,
            Some(QueryPart::Product(of)) => all + of.traffic(limits),
        };
        for of in [self.pointwise, self.convolved_gradient].into_iter().flatten() {
            all = all + of.traffic(limits);
        }
        if let Some(of) = &self.key_bias {
            all = all + of.traffic(limits);
        }
        match &self.depthwise {
            Some(of) => Ok(all + of.traffic(sequences, limits)?),
            None => Ok(all),
        }
    }
}

/// All launches of a call on tensors that lie without gaps.
pub(crate) fn plan(problem: &SpanKeyBackwardProblem, listed: bool, limits: &Limits) -> Result<Vec<Launch>> {
    let forward = problem.forward();
    let [channels, outputs] = [forward.depthwise().channels(), forward.outputs()].map(Place::contiguous);
    let parts = SpanKeyParts::of(problem, limits)?;
    let mut launches = vec![];
    let places = |a, b, c| ProductPlaces { a, gate: a, b, addend: c, factor: c, c, scratch: c };
    for of in [parts.x_convolved, parts.x].into_iter().flatten() {
        launches.extend(of.plan([channels; 2], listed, limits)?);
    }
    match &parts.query {
        None => {}
        Some(QueryPart::Forward(forward)) => {
            let places = SpanKeyPlaces::contiguous(forward);
            launches.extend(span_key::plan(forward, &places, listed, limits)?);
        }
        Some(QueryPart::Product(of)) => {
            launches.extend(of.plan(&places(channels, channels, outputs), limits)?);
        }
    }
    for of in [parts.pointwise, parts.convolved_gradient].into_iter().flatten() {
        launches.extend(of.plan(&places(outputs, channels, channels), limits)?);
    }
    if let Some(of) = &parts.key_bias {
        launches.extend(of.plan([outputs; 2], limits)?);
    }
    if let Some(of) = &parts.depthwise {
        launches.extend(of.plan([channels; 2], listed, limits)?);
    }
    Ok(launches)
}
