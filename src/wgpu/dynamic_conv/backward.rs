mod plan;

use ::wgpu::Buffer;

use crate::gpu::listed;
use crate::problem::{DynamicConvBackwardProblem, Taps};
use crate::wgpu::call::{Binder, Bound, Call, Elements, Rows};
use crate::wgpu::dynamic_conv::{Source, TapArgs};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::linear::products::{Flow, Matrix, Operand};
use crate::wgpu::plan::{Launch, Place};
use crate::wgpu::sequences::DeviceSequences;
use crate::{DType, Result};

use plan::{Launches, Places, bias_products, generator_products, plan, scratch_len};

/// The gradients of a dynamic convolution, prepared: see [`DynamicConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct DynamicConvBackward {
    gpu: Gpu,
    problem: DynamicConvBackwardProblem,
}

/// What [`DynamicConvBackward::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct DynamicConvBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// Logits, or what generates them.
    pub taps: TapArgs<'a>,
    /// What decided which weights were dropped, where the problem has dropout.
    pub seed: Option<u64>,
    /// `[tokens, C]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten; where it is wanted.
    pub dx: Option<Rows<'a>>,
    /// `[tokens, H K]`, overwritten; where it is wanted.
    pub dlogits: Option<Rows<'a>>,
    /// `[H K, Cq]`, overwritten; where it is wanted.
    pub dweight: Option<Elements<'a>>,
    /// `[H K]`, overwritten; where it is wanted.
    pub dweight_bias: Option<Elements<'a>>,
    /// `[tokens, Cq]`, overwritten; where it is wanted.
    pub dquery: Option<Rows<'a>>,
    /// `[C]`, overwritten; where it is wanted.
    pub dbias: Option<Elements<'a>>,
}

/// The buffers of a call, checked.
#[derive(Clone, Copy)]
pub(crate) struct BackwardBound<'a> {
    pub(crate) list: Bound<'a>,
    pub(crate) listed: bool,
    pub(crate) x: Bound<'a>,
    pub(crate) source: Source<'a>,
    pub(crate) seed: u64,
    pub(crate) dy: Bound<'a>,
    pub(crate) dx: Bound<'a>,
    pub(crate) dlogits: Bound<'a>,
    pub(crate) dweight: Bound<'a>,
    pub(crate) dweight_bias: Bound<'a>,
    pub(crate) dquery: Bound<'a>,
    pub(crate) dbias: Bound<'a>,
}

impl DynamicConvBackward {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: DynamicConvBackwardProblem) -> Result<Self> {
        let forward = problem.forward();
        let (conv, logits, limits) = (forward.convolution(), forward.logits(), gpu.limits());
        let tokens = conv.sequences().tokens();
        limits.check_convolution(conv, ["x", "history", "dy"])?;
        let (parameters, gradients) = (conv.parameters(), problem.parameters());
        match forward.taps() {
            Taps::Given => limits.check_tensors(&[
                ("logits", &[tokens, logits], parameters),
                ("dlogits", &[tokens, logits], gradients),
            ])?,
            Taps::Generated { query_channels, query, .. } => limits.check_tensors(&[
                ("weight", &[logits, query_channels], parameters),
                ("dweight", &[logits, query_channels], gradients),
                ("query", &[tokens, query_channels], query.unwrap_or(conv.dtype())),
            ])?,
        }
        for len in scratch_len(&problem) {
            limits.check_binding("scratch", len.saturating_mul(4))?;
        }
        for launch in all_launches(&problem, limits)? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(DynamicConvBackward { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvBackwardProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs in each of four buffers: the logits, computed again, and later
    /// partial sums; the statistics of each token's softmax; the gradient of generated logits; and that of x where it is its
    /// own query, before what it has as such.
    pub fn scratch_len(&self) -> [u64; 4] {
        scratch_len(&self.problem)
    }

    /// A call on these buffers, with `scratch` of at least [`DynamicConvBackward::scratch_len`] numbers each.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input or output that is missing or not part of the problem, too little scratch, and
    /// errors of the driver.
    pub fn bind(&self, args: DynamicConvBackwardArgs<'_>, scratch: [Option<&Buffer>; 4]) -> Result<Call> {
        let (problem, wanted) = (&self.problem, self.problem.wanted());
        let (forward, gradients) = (problem.forward(), problem.parameters());
        let conv = forward.convolution();
        let DynamicConvBackwardArgs { sequences, x, taps, seed, dy, dx, dlogits, .. } = args;
        let DynamicConvBackwardArgs { dweight, dweight_bias, dquery, dbias, .. } = args;
        let binder = Binder { gpu: &self.gpu };
        let (tokens, channels, dtype) = (conv.sequences().tokens(), conv.channels(), conv.dtype());
        let logits = forward.logits();
        let (query_channels, query) = match forward.taps() {
            Taps::Given => (0, dtype),
            Taps::Generated { query_channels, query, .. } => (query_channels, query.unwrap_or(dtype)),
        };
        sequences.check(&self.gpu, conv.sequences())?;
        sequences.check_begins()?;
        let seed = binder.seed(conv, seed)?;
        let x = binder.rows("x", x, dtype, tokens, channels)?;
        let bound = BackwardBound {
            list: binder.whole("sequences", sequences.list()),
            listed: sequences.listed(),
            x,
            source: binder.taps(forward, taps, x)?,
            seed,
            dy: binder.rows("dy", dy, dtype, tokens, channels)?,
            dx: binder.optional_rows("dx", dx, wanted.x, dtype, tokens, channels)?,
            dlogits: binder.optional_rows("dlogits", dlogits, wanted.logits, gradients, tokens, logits)?,
            dweight: binder
                .optional("dweight", dweight, wanted.weight, gradients, logits * query_channels)?
                .as_rows(query_channels),
            dweight_bias: binder.optional(
                "dweight_bias",
                dweight_bias,
                wanted.weight_bias,
                gradients,
                logits,
            )?,
            dquery: binder.optional_rows("dquery", dquery, wanted.query, query, tokens, query_channels)?,
            dbias: binder.optional("dbias", dbias, wanted.bias, gradients, channels)?,
        };
        let mut call = Call::empty();
        self.push(&mut call, &bound, self.scratch(scratch)?)?;
        Ok(call)
    }

    /// The scratch memory, checked.
    pub(crate) fn scratch<'a>(&'a self, scratch: [Option<&'a Buffer>; 4]) -> Result<[Bound<'a>; 4]> {
        let (binder, lens) = (Binder { gpu: &self.gpu }, self.scratch_len());
        let [a, b, c, d] = scratch;
        Ok([
            binder.scratch(a, lens[0])?,
            binder.scratch(b, lens[1])?,
            binder.scratch(c, lens[2])?,
            binder.scratch(d, lens[3])?,
        ])
    }

    /// Adds the launches, on buffers that are checked.
    pub(crate) fn push(
        &self,
        call: &mut Call,
        bound: &BackwardBound<'_>,
        [memory, statistics, dlogits, addend]: [Bound<'_>; 4],
    ) -> Result<()> {
        let (gpu, problem, wanted) = (&self.gpu, &self.problem, self.problem.wanted());
        let (forward, gradients) = (problem.forward(), problem.parameters());
        let conv = forward.convolution();
        let BackwardBound { list, x, source, dy, .. } = *bound;
        let Source { source, query, weight_bias } = source;
        let nothing = Binder { gpu }.nothing("nothing");
        let generated = forward.taps() != Taps::Given;
        let logits = if generated { memory } else { source };
        let dlogits = if generated { dlogits.as_rows(forward.logits()) } else { bound.dlogits };
        let addend = addend.as_rows(conv.channels());
        let dx = if problem.own_query() { addend } else { bound.dx };
        let places = Places {
            x: x.place,
            dy: dy.place,
            dx: dx.place,
            source: source.place,
            query: query.place,
            weight_bias: weight_bias.place.offset,
            dlogits: dlogits.place,
            seed: bound.seed,
        };
        let launches = plan(problem, &places, bound.listed, gpu.limits())?;
        if let Some(launch) = launches.generate {
            call.push(gpu, &launch, memory, &[query, source, weight_bias, nothing])?;
        }
        if let Some(launch) = launches.statistics {
            call.push(gpu, &launch, statistics, &[list, nothing, nothing, logits])?;
        }
        if let Some(launch) = launches.logits {
            call.push(gpu, &launch, dlogits, &[list, x, nothing, logits, dy, statistics])?;
        }
        if let Some(launch) = launches.x {
            call.push(gpu, &launch, dx, &[list, dy, nothing, logits, nothing, statistics, nothing])?;
        }
        let (query_dtype, products) = (query_dtype(problem), generator_products(problem));
        let flow = Flow { dy: dlogits, factor: None, sequences: list };
        if wanted.query || problem.own_query() {
            let Taps::Generated { query_channels, .. } = forward.taps() else { return Ok(()) };
            let weight = Operand::new(source.as_rows(query_channels), conv.parameters());
            let (addend, to) = if wanted.query { (None, bound.dquery) } else { (Some(addend), bound.dx) };
            products.push_input(call, gpu, flow, weight, addend, Operand::new(to, query_dtype))?;
        }
        // The logits have been read: partial sums take their place.
        if wanted.weight {
            let (query, to) = (Operand::new(query, query_dtype), Operand::new(bound.dweight, gradients));
            products.push_weight(call, gpu, flow, query, memory, to)?;
        }
        if wanted.weight_bias {
            products.push_bias(call, gpu, flow, memory, Operand::new(bound.dweight_bias, gradients))?;
        }
        if wanted.bias {
            let flow = Flow { dy, factor: None, sequences: list };
            let to = Operand::new(bound.dbias, gradients);
            bias_products(problem).push_bias(call, gpu, flow, memory, to)?;
        }
        Ok(())
    }
}

/// The type of the query, x's own where it has none of its own.
fn query_dtype(problem: &DynamicConvBackwardProblem) -> DType {
    match problem.forward().taps() {
        Taps::Generated { query: Some(dtype), .. } => dtype,
        _ => problem.forward().convolution().dtype(),
    }
}

/// All launches, on contiguous tensors.
pub(crate) fn all_launches(problem: &DynamicConvBackwardProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let (forward, wanted, gradients) = (problem.forward(), problem.wanted(), problem.parameters());
    let conv = forward.convolution();
    let places = Places::contiguous(problem);
    let launches: Launches = plan(problem, &places, listed(conv.sequences()), limits)?;
    let mut all: Vec<Launch> = launches.all().collect();
    let products = generator_products(problem);
    let flow = products.contiguous();
    let matrix = |dtype, place: Place| Matrix { dtype, place };
    let query = matrix(query_dtype(problem), places.query);
    if wanted.query || problem.own_query() {
        let weight = matrix(conv.parameters(), places.query);
        let addend = problem.own_query().then_some(places.x);
        all.extend(products.plan_input(flow, weight, addend, query, limits)?);
    }
    if wanted.weight {
        all.extend(products.plan_weight(flow, query, 0, matrix(gradients, places.query), limits)?);
    }
    if wanted.weight_bias {
        all.extend(products.plan_bias(flow, 0, matrix(gradients, places.source), limits)?);
    }
    if wanted.bias {
        let products = bias_products(problem);
        all.extend(products.plan_bias(products.contiguous(), 0, matrix(gradients, places.x), limits)?);
    }
    Ok(all)
}
