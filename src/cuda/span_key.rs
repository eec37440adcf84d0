pub(crate) mod backward;
mod plan;

pub(crate) use backward::SpanKeyBound;
#[cfg(test)]
pub(crate) use backward::plan as plan_backward;
pub use backward::{SpanKeyBackward, SpanKeyBackwardArgs};
pub(crate) use plan::{plan, traffic};

use crate::cuda::call::{Binder, Bound, Elements, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::plan::Place;
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::SpanKeyProblem;
use crate::{Result, Sequences};

/// The span-aware key, prepared: see [`SpanKeyProblem`].
#[derive(Clone, Debug)]
pub struct SpanKey {
    gpu: Gpu,
    problem: SpanKeyProblem,
}

/// What [`SpanKey::launch`] reads and writes.
#[derive(Debug)]
pub struct SpanKeyArgs<'a> {
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
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// `[tokens, A]`, overwritten.
    pub z: RowsMut<'a>,
}

impl SpanKey {
    /// Plans the call and loads its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanKeyProblem) -> Result<Self> {
        let places = SpanKeyPlaces::contiguous(&problem);
        let listed = listed(problem.depthwise().sequences());
        if let Some(launch) = plan(&problem, &places, listed, gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(SpanKey { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanKeyProblem {
        &self.problem
    }

    /// What a call reads and writes, as its plan predicts it: tokens and weights whose rows all begin on a sector. Queries
    /// are among what is read, and biases are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        sequences.check(self.problem.depthwise().sequences())?;
        plan::traffic(&self.problem, sequences, self.gpu.limits())
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, an input that is
    /// missing or not part of the problem, and errors of the driver.
    pub fn launch(&self, args: SpanKeyArgs<'_>) -> Result<()> {
        let SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history, z } = args;
        let (conv, outputs) = (self.problem.depthwise(), self.problem.outputs());
        let rows = [conv.sequences().tokens(), outputs];
        let z = Binder { gpu: &self.gpu }.rows_mut("z", z, self.problem.output(), rows)?;
        self.push(SpanKeyInputs { sequences, x, query, depthwise, pointwise, key_bias, history }, &z)
    }

    /// The same into memory that is checked.
    pub(crate) fn push(&self, inputs: SpanKeyInputs<'_>, z: &Bound<'_>) -> Result<()> {
        let problem = &self.problem;
        let (conv, outputs) = (problem.depthwise(), problem.outputs());
        let (dtype, parameters, channels) = (conv.dtype(), conv.parameters(), conv.channels());
        let tokens = conv.sequences().tokens();
        let binder = Binder { gpu: &self.gpu };
        let sequences = binder.sequences(inputs.sequences, conv)?;
        let x = binder.rows("x", inputs.x, dtype, [tokens, channels])?;
        let query = binder.rows("query", inputs.query, dtype, [tokens, outputs])?;
        let width = conv.window().width();
        let depthwise = binder.elements("depthwise", inputs.depthwise, parameters, channels * width)?;
        let pointwise = binder.elements("pointwise", inputs.pointwise, parameters, outputs * channels)?;
        let key_bias =
            binder.optional("key_bias", inputs.key_bias, problem.has_key_bias(), parameters, outputs)?;
        let len = conv.history_shape().iter().product();
        let history = binder.optional("history", inputs.history, conv.has_history(), dtype, len)?;
        let row = |place| Place { stride: channels, ..place };
        let places = SpanKeyPlaces {
            x: x.place,
            history: row(history.place),
            pointwise: row(pointwise.place),
            query: query.place,
            z: z.place,
        };
        let launch = plan(problem, &places, inputs.sequences.is_listed(), self.gpu.limits())?;
        let all = [&x, &depthwise, &pointwise, &key_bias, &query, &history, &sequences, z];
        launch.map_or(Ok(()), |launch| binder.launch(&launch, all))
    }
}

/// What [`SpanKey`] reads.
pub(crate) struct SpanKeyInputs<'a> {
    pub(crate) sequences: &'a DeviceSequences,
    pub(crate) x: Rows<'a>,
    pub(crate) query: Rows<'a>,
    pub(crate) depthwise: Elements<'a>,
    pub(crate) pointwise: Elements<'a>,
    pub(crate) key_bias: Option<Elements<'a>>,
    pub(crate) history: Option<Elements<'a>>,
}

/// Where the tensors of a span-aware key lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanKeyPlaces {
    pub(crate) x: Place,
    pub(crate) history: Place,
    pub(crate) pointwise: Place,
    pub(crate) query: Place,
    pub(crate) z: Place,
}

impl SpanKeyPlaces {
    pub(crate) fn contiguous(problem: &SpanKeyProblem) -> Self {
        let channels = Place::contiguous(problem.depthwise().channels());
        let outputs = Place::contiguous(problem.outputs());
        SpanKeyPlaces { x: channels, history: channels, pointwise: channels, query: outputs, z: outputs }
    }
}
