use ::wgpu::Buffer;

use crate::gpu::listed;
use crate::problem::{Convolution, SpanKeyBackwardProblem};
use crate::wgpu::call::{Binder, Bound, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::linear::products::{Factor, Flow, Incoming, Matrix, Operand, Products};
use crate::wgpu::plan::{Launch, Place, Tokens};
use crate::wgpu::reduce;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::span_key::depthwise::{filters_scratch, plan_convolve, plan_filters};
use crate::wgpu::span_key::{SpanKeyPlaces, plan as plan_key};
use crate::{DType, Result};

/// The gradients of a span-aware key, prepared: see [`SpanKeyBackwardProblem`].
#[derive(Clone, Debug)]
pub struct SpanKeyBackward {
    gpu: Gpu,
    problem: SpanKeyBackwardProblem,
    scratch_len: [u64; 2],
}

/// What [`SpanKeyBackward::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
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
    /// `[tokens, A]`.
    pub dz: Rows<'a>,
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
}

impl SpanKeyBackward {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanKeyBackwardProblem) -> Result<Self> {
        let (forward, conv) = (problem.forward(), problem.forward().depthwise());
        let (tokens, channels, outputs) = (conv.sequences().tokens(), conv.channels(), forward.outputs());
        let width = conv.window().width();
        gpu.limits().check_tensors(&[
            ("x", &[tokens, channels], conv.dtype()),
            ("query", &[tokens, outputs], conv.dtype()),
            ("dz", &[tokens, outputs], forward.output()),
            ("depthwise", &[channels, width], conv.parameters()),
            ("pointwise", &[outputs, channels], conv.parameters()),
            ("ddepthwise", &[channels, width], problem.parameters()),
            ("dpointwise", &[outputs, channels], problem.parameters()),
        ])?;
        let scratch_len = scratch_len(&problem)?;
        for len in scratch_len {
            gpu.limits().check_binding("scratch", len.saturating_mul(4))?;
        }
        for launch in plan(&problem, listed(conv.sequences()), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(SpanKeyBackward { gpu: gpu.clone(), problem, scratch_len })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanKeyBackwardProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs in each of two buffers: d or its gradient, `[tokens, C]`,
    /// and partial sums.
    pub fn scratch_len(&self) -> [u64; 2] {
        self.scratch_len
    }

    /// A call on these buffers, with `scratch` of at least [`SpanKeyBackward::scratch_len`] numbers each.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input or output that is missing or not part of the problem, too little scratch, and
    /// errors of the driver.
    pub fn bind(&self, args: SpanKeyBackwardArgs<'_>, scratch: [Option<&Buffer>; 2]) -> Result<Call> {
        let mut call = Call::empty();
        self.push(&mut call, "dz", args, scratch)?;
        Ok(call)
    }

    /// Adds the launches, whose dz is `name` to the caller.
    pub(crate) fn push(
        &self,
        call: &mut Call,
        name: &'static str,
        args: SpanKeyBackwardArgs<'_>,
        scratch: [Option<&Buffer>; 2],
    ) -> Result<()> {
        let SpanKeyBackwardArgs { sequences, x, query, depthwise, pointwise, key_bias, .. } = args;
        let SpanKeyBackwardArgs { dz, dx, dquery, ddepthwise, dpointwise, dkey_bias, .. } = args;
        let (gpu, problem, wanted) = (&self.gpu, &self.problem, self.problem.wanted());
        let (forward, conv) = (problem.forward(), problem.forward().depthwise());
        let (tokens, channels, outputs) = (conv.sequences().tokens(), conv.channels(), forward.outputs());
        let (dtype, parameters, gradients) = (conv.dtype(), conv.parameters(), problem.parameters());
        let filters = channels * conv.window().width();
        let binder = Binder { gpu };
        sequences.check(gpu, conv.sequences())?;
        sequences.check_begins()?;
        let list = binder.whole("sequences", sequences.list());
        let x = binder.rows("x", x, dtype, tokens, channels)?;
        let query = binder.rows("query", query, dtype, tokens, outputs)?;
        let depthwise = binder.elements("depthwise", depthwise, parameters, filters)?;
        let pointwise = binder.elements("pointwise", pointwise, parameters, outputs * channels)?;
        let key_bias = binder.optional("key_bias", key_bias, forward.has_key_bias(), parameters, outputs)?;
        let dz = binder.rows(name, dz, forward.output(), tokens, outputs)?;
        let dx = binder.optional_rows("dx", dx, wanted.x, dtype, tokens, channels)?;
        let dquery = binder.optional_rows("dquery", dquery, wanted.query, dtype, tokens, outputs)?;
        let ddepthwise = binder.optional("ddepthwise", ddepthwise, wanted.depthwise, gradients, filters)?;
        let dpointwise =
            binder.optional("dpointwise", dpointwise, wanted.pointwise, gradients, outputs * channels)?;
        let dkey_bias = binder.optional("dkey_bias", dkey_bias, wanted.key_bias, gradients, outputs)?;
        let [convolved_len, partial_len] = self.scratch_len;
        let convolved = binder.scratch(scratch[0], convolved_len)?.as_rows(channels);
        let partial = binder.scratch(scratch[1], partial_len)?;
        let (limits, is_listed, products) = (gpu.limits(), sequences.listed(), products(problem));
        let flow = Flow { dy: dz, factor: Some(query), sequences: list };
        let nothing = binder.nothing("history");

        if wanted.query {
            let places = SpanKeyPlaces {
                tokens: Tokens { x: x.place, y: dquery.place, history: 0, bias: key_bias.place.offset },
                query: dz.place,
                depthwise: depthwise.place.offset,
                pointwise: pointwise.place.offset,
            };
            if let Some(launch) = plan_query(problem, &places, is_listed, limits)? {
                let inputs = [list, x, nothing, depthwise, pointwise, key_bias, dz];
                call.push(gpu, &launch, dquery, &inputs)?;
            }
        }
        let convolve = |[x, y]: [Bound<'_>; 2], back| {
            let lies = Convolve { x: x.place, y: y.place, depthwise: depthwise.place.offset };
            plan_depthwise(conv, lies, back, is_listed, limits)
        };
        if wanted.pointwise {
            if let Some(launch) = convolve([x, convolved], false)? {
                call.push(gpu, &launch, convolved, &[list, x, nothing, depthwise])?;
            }
            let (d, dpointwise) = (Operand::new(convolved, DType::F32), Operand::new(dpointwise, gradients));
            products.push_weight(call, gpu, flow, d, partial, dpointwise)?;
        }
        if wanted.key_bias {
            products.push_bias(call, gpu, flow, partial, Operand::new(dkey_bias, gradients))?;
        }
        if problem.needs_convolved() {
            let pointwise = Operand::new(pointwise.as_rows(channels), parameters);
            products.push_input(call, gpu, flow, pointwise, None, Operand::new(convolved, DType::F32))?;
        }
        if wanted.depthwise {
            let (launch, parts) =
                plan_filters(conv, x.place, convolved.place, partial.place.offset, is_listed, limits)?;
            call.push(gpu, &launch, partial, &[list, x, convolved])?;
            let sum = reduce::plan(parts, gradients, ddepthwise.place.offset, limits)?;
            call.push(gpu, &sum, ddepthwise, &[partial])?;
        }
        if wanted.x
            && let Some(launch) = convolve([convolved, dx], true)?
        {
            call.push(gpu, &launch, dx, &[list, convolved, nothing, depthwise])?;
        }
        Ok(())
    }
}

fn products(problem: &SpanKeyBackwardProblem) -> Products {
    let (forward, conv) = (problem.forward(), problem.forward().depthwise());
    let incoming = Incoming { dy: forward.output(), factor: Some(Factor::Times(conv.dtype())) };
    let sizes = [conv.sequences().tokens(), forward.outputs(), conv.channels()];
    Products::new(sizes, incoming, Some(conv.sequences()))
}

pub(crate) fn scratch_len(problem: &SpanKeyBackwardProblem) -> Result<[u64; 2]> {
    let (wanted, products, conv) = (problem.wanted(), products(problem), problem.forward().depthwise());
    let when = |wanted: bool, len: u64| if wanted { len } else { 0 };
    let all = (conv.sequences().tokens() as u64).saturating_mul(conv.channels() as u64);
    let convolved = when(wanted.pointwise || problem.needs_convolved(), all);
    let products =
        when(wanted.pointwise, products.weight_scratch()).max(when(wanted.key_bias, products.bias_scratch()));
    let filters = if wanted.depthwise { filters_scratch(conv)? } else { 0 };
    Ok([convolved, products.max(filters)])
}

/// dquery = k dz, which is what the forward pass makes of dz in the place of q.
fn plan_query(
    problem: &SpanKeyBackwardProblem,
    places: &SpanKeyPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let forward = problem.forward();
    let key = forward.with_output(forward.depthwise().dtype())?;
    plan_key(&key, forward.output(), places, listed, limits)
}

/// Where the tensors of a depthwise convolution lie.
#[derive(Clone, Copy, Debug)]
struct Convolve {
    x: Place,
    y: Place,
    depthwise: usize,
}

/// d from x, or, `back`, dx from its gradient. Both are f32 on the way.
fn plan_depthwise(
    conv: &Convolution,
    lies: Convolve,
    back: bool,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (window, mut types) = (conv.window(), [conv.dtype(), DType::F32]);
    let mut conv = *conv;
    if back {
        conv = Convolution::new(
            conv.sequences(),
            conv.channels(),
            conv.heads(),
            window.mirrored(),
            conv.dtype(),
        )?
        .with_parameters(conv.parameters())?;
        types.reverse();
    }
    let tokens = Tokens { x: lies.x, y: lies.y, history: 0, bias: 0 };
    plan_convolve(&conv, types, &tokens, lies.depthwise, back, listed, limits)
}

/// The dispatches on contiguous tensors.
pub(crate) fn plan(problem: &SpanKeyBackwardProblem, listed: bool, limits: &Limits) -> Result<Vec<Launch>> {
    let (forward, wanted, products) = (problem.forward(), problem.wanted(), products(problem));
    let conv = forward.depthwise();
    let (flow, rows) = (products.contiguous(), Place::contiguous(conv.channels()));
    let convolved = Matrix { dtype: DType::F32, place: rows };
    let gradients = Matrix { dtype: problem.parameters(), place: rows };
    let lies = Convolve { x: rows, y: rows, depthwise: 0 };
    let mut launches = vec![];
    if wanted.query {
        launches.extend(plan_query(problem, &SpanKeyPlaces::contiguous(forward), listed, limits)?);
    }
    if wanted.pointwise {
        launches.extend(plan_depthwise(conv, lies, false, listed, limits)?);
        launches.extend(products.plan_weight(flow, convolved, 0, gradients, limits)?);
    }
    if wanted.key_bias {
        launches.extend(products.plan_bias(flow, 0, gradients, limits)?);
    }
    if problem.needs_convolved() {
        let pointwise = Matrix { dtype: conv.parameters(), place: rows };
        launches.extend(products.plan_input(flow, pointwise, None, convolved, limits)?);
    }
    if wanted.depthwise {
        let (launch, parts) = plan_filters(conv, rows, rows, 0, listed, limits)?;
        launches.extend([launch, reduce::plan(parts, problem.parameters(), 0, limits)?]);
    }
    if wanted.x {
        launches.extend(plan_depthwise(conv, lies, true, listed, limits)?);
    }
    Ok(launches)
}
