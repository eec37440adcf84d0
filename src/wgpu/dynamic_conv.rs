mod backward;
pub(crate) mod band;
mod plan;

pub(crate) use backward::BackwardBound;
#[cfg(test)]
pub(crate) use backward::all_launches as backward_plan;
pub use backward::{DynamicConvBackward, DynamicConvBackwardArgs};

use ::wgpu::Buffer;

use crate::Result;
use crate::gpu::listed;
use crate::problem::{DynamicConvProblem, Taps};
use crate::wgpu::call::{Binder, Bound, Call, Convolved, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::plan::Tokens;
use crate::wgpu::sequences::DeviceSequences;

#[cfg(test)]
pub(crate) use plan::kernels;
pub(crate) use plan::{DynamicPlaces, Logits, plan, plan_gathered, plan_generate, plan_given, scratch_len};

/// Dynamic convolution, prepared: see [`DynamicConvProblem`].
#[derive(Clone, Debug)]
pub struct DynamicConv {
    gpu: Gpu,
    problem: DynamicConvProblem,
}

/// What [`DynamicConv::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct DynamicConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// Logits, or what generates them.
    pub taps: TapArgs<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// What decides which weights are dropped, where the problem has dropout.
    pub seed: Option<u64>,
    /// `[tokens, C]`, overwritten.
    pub y: Rows<'a>,
}

/// Where the taps come from, as the problem's [`Taps`] say.
#[derive(Clone, Copy, Debug)]
pub enum TapArgs<'a> {
    /// Logits are given.
    Given {
        /// `[tokens, H K]`.
        logits: Rows<'a>,
    },
    /// Logits are generated.
    Generated {
        /// W `[H K, Cq]`.
        weight: Elements<'a>,
        /// `[H K]`, where the problem has one.
        weight_bias: Option<Elements<'a>>,
        /// `[tokens, Cq]`, where the problem has one.
        query: Option<Rows<'a>>,
    },
}

impl DynamicConv {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: DynamicConvProblem) -> Result<Self> {
        let (conv, logits) = (problem.convolution(), problem.logits());
        let tokens = conv.sequences().tokens();
        gpu.limits().check_convolution(conv, ["x", "history", "y"])?;
        match problem.taps() {
            Taps::Given => gpu.limits().check_tensors(&[("logits", &[tokens, logits], conv.parameters())])?,
            Taps::Generated { query_channels, query, .. } => gpu.limits().check_tensors(&[
                ("weight", &[logits, query_channels], conv.parameters()),
                ("query", &[tokens, query_channels], query.unwrap_or(conv.dtype())),
            ])?,
        }
        let places = DynamicPlaces::contiguous(&problem);
        gpu.limits().check_binding("scratch", 4 * scratch_len(&problem))?;
        for launch in plan(&problem, &places, listed(conv.sequences()), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(DynamicConv { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs: none where the logits stay on the chip.
    pub fn scratch_len(&self) -> u64 {
        scratch_len(&self.problem)
    }

    /// A call on these buffers, with `scratch` of at least [`DynamicConv::scratch_len`] numbers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input that is missing or not part of the problem, too little scratch, and errors of
    /// the driver.
    pub fn bind(&self, args: DynamicConvArgs<'_>, scratch: Option<&Buffer>) -> Result<Call> {
        let conv = self.problem.convolution();
        let DynamicConvArgs { sequences, x, taps, bias, history, seed, y } = args;
        let binder = Binder { gpu: &self.gpu };
        let scratch = binder.scratch(scratch, self.scratch_len())?;
        let seed = binder.seed(conv, seed)?;
        let y = (y, conv.dtype(), conv.channels());
        let bound = binder.convolved(["x", "history", "y"], conv, sequences, x, history, y)?;
        let bias = binder.optional("bias", bias, conv.has_bias(), conv.parameters(), conv.channels())?;
        let source = binder.taps(&self.problem, taps, bound.inputs[1])?;
        let mut call = Call::empty();
        self.push(&mut call, &bound, bias, (source, seed), scratch, sequences.listed())?;
        Ok(call)
    }

    /// Adds the launches, on buffers that are checked.
    pub(crate) fn push(
        &self,
        call: &mut Call,
        bound: &Convolved<'_>,
        bias: Bound<'_>,
        (source, seed): (Source<'_>, u64),
        scratch: Bound<'_>,
        listed: bool,
    ) -> Result<()> {
        let places = DynamicPlaces {
            tokens: Tokens { bias: bias.place.offset, ..bound.tokens },
            source: source.source.place,
            query: source.query.place,
            weight_bias: source.weight_bias.place.offset,
            seed,
        };
        let [list, x, history] = bound.inputs;
        let nothing = Binder { gpu: &self.gpu }.nothing("nothing");
        let launches = plan(&self.problem, &places, listed, self.gpu.limits())?;
        let Source { source, query, weight_bias } = source;
        match launches.as_slice() {
            [] => Ok(()),
            [one] => {
                call.push(&self.gpu, one, bound.y, &[list, x, history, source, bias, query, weight_bias])
            }
            [generate, convolve, ..] => {
                call.push(&self.gpu, generate, scratch, &[query, source, weight_bias, nothing])?;
                let inputs = [list, x, history, scratch, bias, nothing, nothing];
                call.push(&self.gpu, convolve, bound.y, &inputs)
            }
        }
    }
}

/// Where taps come from, checked: logits or W, query, generator bias.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) source: Bound<'a>,
    pub(crate) query: Bound<'a>,
    pub(crate) weight_bias: Bound<'a>,
}

impl<'a> Binder<'a> {
    fn taps(self, problem: &DynamicConvProblem, taps: TapArgs<'a>, x: Bound<'a>) -> Result<Source<'a>> {
        let conv = problem.convolution();
        let (tokens, dtype, len) = (conv.sequences().tokens(), conv.parameters(), problem.logits());
        let nothing = self.nothing("nothing");
        match (taps, problem.taps()) {
            (TapArgs::Given { logits }, Taps::Given) => {
                let source = self.rows("logits", logits, dtype, tokens, len)?;
                Ok(Source { source, query: nothing, weight_bias: nothing })
            }
            (TapArgs::Given { .. }, _) => Err(crate::Error::Surplus { tensor: "logits" }),
            (TapArgs::Generated { .. }, Taps::Given) => Err(crate::Error::Missing { tensor: "logits" }),
            (
                TapArgs::Generated { weight, weight_bias, query },
                Taps::Generated { query_channels, query: query_dtype, weight_bias: has_bias },
            ) => Ok(Source {
                source: self.elements("weight", weight, dtype, len * query_channels)?,
                weight_bias: self.optional("weight_bias", weight_bias, has_bias, dtype, len)?,
                query: match (query, query_dtype) {
                    (Some(query), Some(dtype)) => self.rows("query", query, dtype, tokens, query_channels)?,
                    (Some(_), None) => return Err(crate::Error::Surplus { tensor: "query" }),
                    (None, Some(_)) => return Err(crate::Error::Missing { tensor: "query" }),
                    (None, None) => x,
                },
            }),
        }
    }
}
