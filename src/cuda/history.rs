use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count, unit};
use crate::cuda::sequences::DeviceSequences;
use crate::gpu::listed;
use crate::problem::HistoryProblem;
use crate::{Layout, Result};

/// A decoder's memory moved on, prepared: see [`HistoryProblem`].
#[derive(Clone, Debug)]
pub struct History {
    gpu: Gpu,
    problem: HistoryProblem,
}

/// What [`History::launch`] reads and writes.
pub struct HistoryArgs<'a> {
    /// The sequences of x, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[sequences, (K - 1) r, C]`.
    pub history: Elements<'a>,
    /// `[sequences, (K - 1) r, C]`, overwritten.
    pub next: ElementsMut<'a>,
}

impl History {
    /// Plans the call and loads its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: HistoryProblem) -> Result<Self> {
        let conv = problem.convolution();
        let places = [Place::contiguous(conv.channels()); 3];
        if let Some(launch) = plan(&problem, places, listed(conv.sequences()), gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(History { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &HistoryProblem {
        &self.problem
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, and errors of the
    /// driver.
    pub fn launch(&self, args: HistoryArgs<'_>) -> Result<()> {
        let conv = self.problem.convolution();
        let binder = Binder { gpu: &self.gpu };
        let HistoryArgs { sequences, x, history, next } = args;
        let list = binder.sequences(sequences, conv)?;
        let [count, reach, channels] = conv.history_shape();
        let x = binder.rows("x", x, conv.dtype(), [conv.sequences().tokens(), channels])?;
        let rows = [count * reach, channels];
        let history = binder.rows("history", Rows::contiguous(history), conv.dtype(), rows)?;
        let next = binder.rows_mut("next", RowsMut::contiguous(next), conv.dtype(), rows)?;
        let places = [x.place, history.place, next.place];
        let launch = plan(&self.problem, places, sequences.is_listed(), self.gpu.limits())?;
        launch.map_or(Ok(()), |launch| binder.launch(&launch, [&x, &history, &list, &next]))
    }
}

/// Threads of a block.
const THREADS: u32 = 256;

/// The structure `Params` of `kernels/history.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    units: u64,
    width: u32,
    reach: u32,
    time: u32,
    listed: u32,
}

/// The one launch, or none where nothing is remembered. `places` are those of x, history and next.
pub(crate) fn plan(
    problem: &HistoryProblem,
    places: [Place; 3],
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let conv = problem.convolution();
    let [sequences, reach, channels] = conv.history_shape();
    if sequences * reach == 0 {
        return Ok(None);
    }
    let unit = unit(conv.dtype(), channels, &places);
    let per_unit = unit as usize / conv.dtype().size();
    let units = (sequences * reach * (channels / per_unit)) as u64;
    let time = match conv.sequences().layout() {
        Layout::Batch { time } | Layout::Padded { time } => time,
        Layout::Packed => 0,
    };
    let params = Params {
        x_stride: (places[0].stride / per_unit) as u64,
        units,
        width: count("x", channels / per_unit)?,
        reach: count("history", reach)?,
        time: count("x", time)?,
        listed: listed.into(),
    };
    // Sequences are counted in 32 bits, and so are the rows of x.
    count("history", sequences)?;
    count("x", conv.sequences().tokens())?;
    let entry = match unit {
        16 => "history_16",
        8 => "history_8",
        4 => "history_4",
        _ => "history_2",
    };
    let blocks = units.div_ceil(THREADS.into());
    Launch::new((modules::HISTORY, entry), blocks, THREADS, &params, limits).map(Some)
}
