pub(crate) mod backward;
pub(crate) mod multiply_add;
mod toeplitz;

pub use backward::{LightConvBackward, LightConvBackwardArgs};

use crate::cuda::call::{Binder, Elements, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::plan::{DropoutParams, Launch, Place};
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::{Convolution, LightConvProblem};
use crate::{Normalize, Result, Sequences};

/// Light convolution, prepared: see [`LightConvProblem`].
#[derive(Clone, Debug)]
pub struct LightConv {
    gpu: Gpu,
    problem: LightConvProblem,
}

/// What [`LightConv::launch`] reads and writes.
#[derive(Debug)]
pub struct LightConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// What the weights to be dropped are made from, where the problem drops any: see [`Dropout`](crate::Dropout).
    pub seed: Option<u64>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

impl LightConv {
    /// Plans the call and loads its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LightConvProblem) -> Result<Self> {
        let conv = problem.convolution();
        let places = Places::contiguous(conv.channels());
        let filter = Filter::default();
        if let Some(launch) = plan(conv, filter, &places, listed(conv.sequences()), gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(LightConv { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvProblem {
        &self.problem
    }

    /// What a call reads and writes, as its plan predicts it: tokens that lie without gaps, and begin on a sector, as do
    /// all heads. Biases are left out, and what a softmax over the taps in range reads again at the ends of sequences.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        let (conv, limits) = (self.problem.convolution(), self.gpu.limits());
        sequences.check(conv.sequences())?;
        traffic(conv, Filter::default(), sequences, limits)
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, an input that is
    /// missing or not part of the problem, and errors of the driver.
    pub fn launch(&self, args: LightConvArgs<'_>) -> Result<()> {
        let conv = self.problem.convolution();
        let (dtype, parameters, channels) = (conv.dtype(), conv.parameters(), conv.channels());
        let binder = Binder { gpu: &self.gpu };
        let sequences = binder.sequences(args.sequences, conv)?;
        let rows = [conv.sequences().tokens(), channels];
        let x = binder.rows("x", args.x, dtype, rows)?;
        let len = self.problem.weight_shape().iter().product();
        let weight = binder.elements("weight", args.weight, parameters, len)?;
        let bias = binder.optional("bias", args.bias, conv.has_bias(), parameters, channels)?;
        let len = conv.history_shape().iter().product();
        let history = binder.optional("history", args.history, conv.has_history(), dtype, len)?;
        let filter = Filter { dropout: binder.dropout(conv, args.seed)?, ..Filter::default() };
        let y = binder.rows_mut("y", args.y, dtype, rows)?;
        let places = Places { x: x.place, history: Place { stride: channels, ..history.place }, y: y.place };
        let launch = plan(conv, filter, &places, args.sequences.is_listed(), self.gpu.limits())?;
        launch.map_or(Ok(()), |launch| binder.launch(&launch, [&x, &weight, &bias, &history, &sequences, &y]))
    }
}

/// Where the tokens lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) history: Place,
    pub(crate) y: Place,
}

impl Places {
    pub(crate) fn contiguous(channels: usize) -> Self {
        let place = Place::contiguous(channels);
        Places { x: place, history: place, y: place }
    }
}

/// How a convolution takes its weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) dropout: DropoutParams,
    /// Whether taps are counted from the last, for the gradient of x.
    pub(crate) mirrored: bool,
    /// Whether numbers of f32 for each token are added in the place of biases: dynamic convolutions by multiply-adds may.
    pub(crate) addends: bool,
}

impl Filter {
    /// Whether all outputs share it, but for those of which not all taps are in range. Mirrored, the softmax over the taps in
    /// range is that of the tokens that are read.
    fn shared(&self, conv: &Convolution) -> bool {
        !(self.mirrored && conv.normalize() == Normalize::SoftmaxInRange)
    }
}

/// The one launch, or none where there is no token.
pub(crate) fn plan(
    conv: &Convolution,
    filter: Filter,
    places: &Places,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    if conv.sequences().tokens() == 0 {
        return Ok(None);
    }
    let launch = match filter.shared(conv) {
        true => toeplitz::plan(conv, filter, places, listed, limits)?,
        false => None,
    };
    match launch {
        Some(launch) => Ok(Some(launch)),
        None => multiply_add::plan(conv, filter, places, listed, limits).map(Some),
    }
}

/// What it reads and writes.
fn traffic(conv: &Convolution, filter: Filter, sequences: &Sequences, limits: &Limits) -> Result<Traffic> {
    let traffic = match filter.shared(conv) {
        true => toeplitz::traffic(conv, filter.mirrored, sequences, limits)?,
        false => None,
    };
    match traffic {
        Some(traffic) => Ok(traffic),
        None => multiply_add::traffic(conv, filter.mirrored, sequences, limits),
    }
}
