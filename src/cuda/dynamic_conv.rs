pub(crate) mod backward;
mod banded;
mod bands;
mod fused;
mod multiply_add;
mod plan;
mod transposed;

use crate::cuda::call::{Binder, Bound, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::light_conv::Places;
use crate::cuda::plan::{DropoutParams, Place};
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::{DynamicConvProblem, Taps};
use crate::{Error, Result, Sequences};

pub use backward::{DynamicConvBackward, DynamicConvBackwardArgs};
pub(crate) use fused::{Fused, fused};
pub(crate) use plan::{DynamicPlaces, Plan, plan, scratch_len};

/// Dynamic convolution, prepared: see [`DynamicConvProblem`].
#[derive(Clone, Debug)]
pub struct DynamicConv {
    gpu: Gpu,
    problem: DynamicConvProblem,
    /// Where the logits stay on the chip.
    fused: Option<Fused>,
}

/// What [`DynamicConv::launch`] reads and writes.
#[derive(Debug)]
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
    /// What the weights to be dropped are made from, where the problem drops any: see [`Dropout`](crate::Dropout).
    pub seed: Option<u64>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
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
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] where the device allows less than the problem needs, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: DynamicConvProblem) -> Result<Self> {
        let places = DynamicPlaces::contiguous(&problem);
        let listed = listed(problem.convolution().sequences());
        let fused = fused(&problem, gpu.limits());
        let dropout = DropoutParams::default();
        for launch in plan(&problem, fused.as_ref(), dropout, &places, listed, gpu.limits())?.launches() {
            gpu.kernel(launch)?;
        }
        Ok(DynamicConv { gpu: gpu.clone(), problem, fused })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs: none where the logits stay on the chip.
    pub fn scratch_len(&self) -> u64 {
        scratch_len(&self.problem, self.fused.as_ref())
    }

    /// What a call reads and writes, as its plan predicts it: tokens that lie without gaps, and begin on a sector, as do
    /// all heads, queries and rows of W. Logits that are given count as tokens do; those that cross from one launch to another are written and
    /// read. Biases are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`] for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        sequences.check(self.problem.convolution().sequences())?;
        plan::traffic(&self.problem, self.fused.as_ref(), sequences, self.gpu.limits())
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`DynamicConv::scratch_len`] numbers of f32.
    /// Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, an input that is
    /// missing or not part of the problem, too little scratch, and errors of the driver.
    pub fn launch(&self, args: DynamicConvArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let conv = self.problem.convolution();
        let DynamicConvArgs { sequences, x, taps, bias, history, seed, y } = args;
        let binder = Binder { gpu: &self.gpu };
        let (dtype, rows) = (conv.dtype(), [conv.sequences().tokens(), conv.channels()]);
        let bound = Convolved {
            sequences: binder.sequences(sequences, conv)?,
            x: binder.rows("x", x, dtype, rows)?,
            bias: binder.optional("bias", bias, conv.has_bias(), conv.parameters(), conv.channels())?,
            history: {
                let len = conv.history_shape().iter().product();
                binder.optional("history", history, conv.has_history(), dtype, len)?
            },
            dropout: binder.dropout(conv, seed)?,
            y: binder.rows_mut("y", y, dtype, rows)?,
        };
        let source = source(binder, &self.problem, taps)?;
        let scratch = binder.scratch(scratch, self.scratch_len())?;
        self.push(&bound, &source, &scratch, sequences.is_listed())
    }

    /// Puts the launches into the stream, on memory that is checked.
    pub(crate) fn push(
        &self,
        bound: &Convolved<'_>,
        source: &Source<'_>,
        scratch: &Bound<'_>,
        listed: bool,
    ) -> Result<()> {
        let Convolved { sequences, x, bias, history, dropout, y } = bound;
        let channels = self.problem.convolution().channels();
        let query = source.query.as_ref().unwrap_or(x);
        let places = DynamicPlaces {
            tokens: Places { x: x.place, history: Place { stride: channels, ..history.place }, y: y.place },
            source: source.source.place,
            query: query.place,
            scratch: scratch.place,
        };
        let Source { source, weight_bias, .. } = source;
        let binder = Binder { gpu: &self.gpu };
        match plan(&self.problem, self.fused.as_ref(), *dropout, &places, listed, self.gpu.limits())? {
            Plan::Nothing => Ok(()),
            Plan::Given(launch) => binder.launch(&launch, [x, source, bias, history, sequences, y]),
            Plan::Fused(launch) => {
                let inputs = [x, source, weight_bias, query, bias, history, sequences, y];
                binder.launch(&launch, inputs)
            }
            Plan::Apart(launches) => {
                let [generate, convolve] = *launches;
                binder.launch(&generate, [query, source, weight_bias, &Bound::nothing(), scratch])?;
                binder.launch(&convolve, [x, scratch, bias, history, sequences, y])
            }
        }
    }
}

/// Where taps come from, bound.
fn source<'a>(binder: Binder<'a>, problem: &DynamicConvProblem, taps: TapArgs<'a>) -> Result<Source<'a>> {
    let (conv, len) = (problem.convolution(), problem.logits());
    let (tokens, dtype) = (conv.sequences().tokens(), conv.parameters());
    match (taps, problem.taps()) {
        (TapArgs::Given { logits }, Taps::Given) => Ok(Source {
            source: binder.rows("logits", logits, dtype, [tokens, len])?,
            weight_bias: Bound::nothing(),
            query: None,
        }),
        (TapArgs::Given { .. }, _) => Err(Error::Surplus { tensor: "logits" }),
        (TapArgs::Generated { .. }, Taps::Given) => Err(Error::Missing { tensor: "logits" }),
        (
            TapArgs::Generated { weight, weight_bias, query },
            Taps::Generated { query_channels, query: query_dtype, weight_bias: has_bias },
        ) => Ok(Source {
            source: binder.rows("weight", Rows::contiguous(weight), dtype, [len, query_channels])?,
            weight_bias: binder.optional("weight_bias", weight_bias, has_bias, dtype, len)?,
            query: match (query, query_dtype) {
                (Some(query), Some(dtype)) => {
                    Some(binder.rows("query", query, dtype, [tokens, query_channels])?)
                }
                (Some(_), None) => return Err(Error::Surplus { tensor: "query" }),
                (None, Some(_)) => return Err(Error::Missing { tensor: "query" }),
                (None, None) => None,
            },
        }),
    }
}

/// What is convolved, checked.
pub(crate) struct Convolved<'a> {
    pub(crate) sequences: Bound<'a>,
    pub(crate) x: Bound<'a>,
    pub(crate) bias: Bound<'a>,
    pub(crate) history: Bound<'a>,
    pub(crate) dropout: DropoutParams,
    pub(crate) y: Bound<'a>,
}

/// Where taps come from, checked.
pub(crate) struct Source<'a> {
    /// Logits or W.
    pub(crate) source: Bound<'a>,
    pub(crate) weight_bias: Bound<'a>,
    /// Where it is not x.
    pub(crate) query: Option<Bound<'a>>,
}
