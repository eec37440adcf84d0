use crate::gpu::{bisection, listed};
use crate::problem::AppendProblem;
use crate::wgpu::call::{Binder, Call, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters};
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::{File, Kernel, WORKGROUP};
use crate::{DType, Layout, Result};

/// Writing tokens behind those that a cache holds, prepared: see [`AppendProblem`].
#[derive(Clone, Debug)]
pub struct Append {
    gpu: Gpu,
    problem: AppendProblem,
}

/// What [`Append::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct AppendArgs<'a> {
    /// The sequences of x, of the problem's shape, after the tokens that the cache holds of each.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[sequences, room, C]`, in which the rows of x are written and no others.
    pub cache: Rows<'a>,
}

impl Append {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: AppendProblem) -> Result<Self> {
        let (shape, channels, dtype) = (problem.sequences(), problem.channels(), problem.dtype());
        let tensors: [(_, &[usize], _); 2] =
            [("x", &[shape.tokens(), channels], dtype), ("cache", &problem.cache_shape(), dtype)];
        gpu.limits().check_tensors(&tensors)?;
        let places = Places { x: Place::contiguous(channels), cache: Place::contiguous(channels) };
        if let Some(launch) = plan(&problem, places, listed(shape), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(Append { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AppendProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, a cache in the buffer of x, sequences of
    /// another shape, [`Error::CacheRoom`](crate::Error::CacheRoom) for one that goes past the room, and errors of the
    /// driver.
    pub fn bind(&self, args: AppendArgs<'_>) -> Result<Call> {
        let problem = &self.problem;
        let AppendArgs { sequences, x, cache } = args;
        sequences.check(&self.gpu, problem.sequences())?;
        problem.check_room(sequences.furthest())?;
        let binder = Binder { gpu: &self.gpu };
        let ([count, room, channels], dtype) = (problem.cache_shape(), problem.dtype());
        let list = binder.whole("sequences", sequences.list());
        let x = binder.rows("x", x, dtype, problem.sequences().tokens(), channels)?;
        let cache = binder.rows("cache", cache, dtype, count * room, channels)?;
        let places = Places { x: x.place, cache: cache.place };
        let mut call = Call::empty();
        if let Some(launch) = plan(problem, places, sequences.listed(), self.gpu.limits())? {
            call.push(&self.gpu, &launch, cache, &[list, x])?;
        }
        Ok(call)
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) cache: Place,
}

/// The one dispatch, or none where there are no tokens.
pub(crate) fn plan(
    problem: &AppendProblem,
    places: Places,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let ([sequences, room, channels], rows) = (problem.cache_shape(), problem.sequences().tokens());
    if rows == 0 {
        return Ok(None);
    }
    let Places { x, cache } = places;
    // Numbers are moved as they are: a word at a time, or a half where rows do not begin on whole words.
    let halves = problem.dtype() != DType::F32;
    let pairs = halves && x.whole_words() && cache.whole_words() && channels.is_multiple_of(2);
    let per_word = if pairs { 2 } else { 1 };
    let (time, step) = match problem.sequences().layout() {
        Layout::Batch { time } | Layout::Padded { time } => (time, 0),
        Layout::Packed => (0, bisection(sequences)),
    };
    let width = channels / per_word;
    let parameters = parameters(&[
        ("sequences", sequences),
        ("rows", rows),
        ("width", width),
        ("room", room),
        ("x_offset", x.offset / per_word),
        ("x_stride", x.stride / per_word),
        ("cache_offset", cache.offset / per_word),
        ("cache_stride", cache.stride / per_word),
        ("listed", usize::from(listed)),
        ("time", time),
        ("step", step),
        ("unused", 0),
    ])?;
    let groups = (rows * width).div_ceil(WORKGROUP) as u64;
    Launch::new(kernel(halves && !pairs), groups, parameters, limits).map(Some)
}

fn kernel(halves: bool) -> Kernel {
    let store = if halves { File::StoreHalves } else { File::StoreWords };
    Kernel {
        name: "append",
        workgroup: WORKGROUP,
        files: vec![File::Element, store, File::Bits, File::Append],
        // What is stored are bits, whatever their type.
        constants: vec![("Y", 0), ("HALVES", u32::from(halves))],
        inputs: 2,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    vec![kernel(false), kernel(true)]
}
