use crate::gpu::listed;
use crate::problem::HistoryProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters};
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::{File, Kernel, WORKGROUP};
use crate::{DType, Layout, Result};

/// A decoder's memory moved on, prepared: see [`HistoryProblem`].
#[derive(Clone, Debug)]
pub struct History {
    gpu: Gpu,
    problem: HistoryProblem,
}

/// What [`History::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct HistoryArgs<'a> {
    /// The sequences of x, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[sequences, (K - 1) r, C]`.
    pub history: Elements<'a>,
    /// `[sequences, (K - 1) r, C]`, overwritten.
    pub next: Elements<'a>,
}

impl History {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: HistoryProblem) -> Result<Self> {
        let conv = problem.convolution();
        gpu.limits().check_convolution(conv, ["x", "history", "x"])?;
        let places = Places { x: Place::contiguous(conv.channels()), history: 0, next: 0 };
        if let Some(launch) = plan(&problem, places, listed(conv.sequences()), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(History { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &HistoryProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, and errors of the driver.
    pub fn bind(&self, args: HistoryArgs<'_>) -> Result<Call> {
        let conv = self.problem.convolution();
        let HistoryArgs { sequences, x, history, next } = args;
        sequences.check(&self.gpu, conv.sequences())?;
        let binder = Binder { gpu: &self.gpu };
        let (dtype, tokens) = (conv.dtype(), conv.sequences().tokens());
        let len = conv.history_shape().iter().product();
        let list = binder.whole("sequences", sequences.list());
        let x = binder.rows("x", x, dtype, tokens, conv.channels())?;
        let history = binder.elements("history", history, dtype, len)?;
        let next = binder.elements("next", next, dtype, len)?;
        let places = Places { x: x.place, history: history.place.offset, next: next.place.offset };
        let mut call = Call::empty();
        if let Some(launch) = plan(&self.problem, places, sequences.listed(), self.gpu.limits())? {
            call.push(&self.gpu, &launch, next, &[list, x, history])?;
        }
        Ok(call)
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) history: usize,
    pub(crate) next: usize,
}

/// The one dispatch, or none where nothing is remembered.
pub(crate) fn plan(
    problem: &HistoryProblem,
    places: Places,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let conv = problem.convolution();
    let [sequences, reach, channels] = conv.history_shape();
    if sequences * reach == 0 {
        return Ok(None);
    }
    let Places { x, history, next } = places;
    // Numbers are moved as they are: a word at a time, or a half where rows do not begin on whole words.
    let halves = conv.dtype() != DType::F32;
    let pairs = halves && x.whole_words() && [channels, history, next].iter().all(|n| n.is_multiple_of(2));
    let per_word = if pairs { 2 } else { 1 };
    let time = match conv.sequences().layout() {
        Layout::Batch { time } | Layout::Padded { time } => time,
        Layout::Packed => 0,
    };
    let width = channels / per_word;
    let numbers = sequences * reach * width;
    let parameters = parameters(&[
        ("sequences", sequences),
        ("reach", reach),
        ("width", width),
        ("x_offset", x.offset / per_word),
        ("x_stride", x.stride / per_word),
        ("history_offset", history / per_word),
        ("next_offset", next / per_word),
        ("listed", usize::from(listed)),
        ("time", time),
        ("unused_1", 0),
        ("unused_2", 0),
        ("unused_3", 0),
    ])?;
    Launch::new(kernel(halves && !pairs), numbers.div_ceil(WORKGROUP) as u64, parameters, limits).map(Some)
}

fn kernel(halves: bool) -> Kernel {
    let store = if halves { File::StoreHalves } else { File::StoreWords };
    Kernel {
        name: "history",
        workgroup: WORKGROUP,
        files: vec![File::Element, store, File::Bits, File::History],
        // What is stored are bits, whatever their type.
        constants: vec![("Y", 0), ("HALVES", u32::from(halves))],
        inputs: 3,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    vec![kernel(false), kernel(true)]
}
