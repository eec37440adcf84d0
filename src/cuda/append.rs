use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count, unit};
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::gpu::{bisection, listed};
use crate::problem::AppendProblem;
use crate::{Layout, Result, SequenceShape, Sequences};

/// Writing tokens behind those that a cache holds, prepared: see [`AppendProblem`].
#[derive(Clone, Debug)]
pub struct Append {
    gpu: Gpu,
    problem: AppendProblem,
}

/// What [`Append::launch`] reads and writes.
#[derive(Debug)]
pub struct AppendArgs<'a> {
    /// The sequences of x, of the problem's shape, after the tokens that the cache holds of each.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[sequences, room, C]`, in which the rows of x are written and no others.
    pub cache: RowsMut<'a>,
}

impl Append {
    /// Plans the call and loads its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: AppendProblem) -> Result<Self> {
        let places = [Place::contiguous(problem.channels()); 2];
        if let Some(launch) = plan(&problem, places, listed(problem.sequences()), gpu.limits())? {
            // How its memory is aligned is known with each call, which must not load anything.
            for (_, entry) in ENTRIES {
                gpu.kernel(&Launch { entry, ..launch.clone() })?;
            }
        }
        Ok(Append { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AppendProblem {
        &self.problem
    }

    /// What a call on tensors reads and writes, as the kernel was laid out; the emulator counts the same. Tokens in memory
    /// of your own may be aligned to less, and take more.
    ///
    /// # Errors
    ///
    /// For sequences of another shape.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        sequences.check(self.problem.sequences())?;
        Ok(traffic(&self.problem, sequences))
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape,
    /// [`Error::CacheRoom`](crate::Error::CacheRoom) for one that goes past the room, and errors of the driver.
    pub fn launch(&self, args: AppendArgs<'_>) -> Result<()> {
        self.problem.sequences().check(args.sequences.shape())?;
        self.problem.check_room(args.sequences.furthest())?;
        self.run(args)
    }

    /// The same where what is past the room is left out.
    fn run(&self, args: AppendArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let ([count, room, channels], dtype) = (problem.cache_shape(), problem.dtype());
        let binder = Binder { gpu: &self.gpu };
        let list = binder.list(args.sequences)?;
        let x = binder.rows("x", args.x, dtype, [problem.sequences().tokens(), channels])?;
        let cache = binder.rows_mut("cache", args.cache, dtype, [count * room, channels])?;
        let launch = plan(problem, [x.place, cache.place], args.sequences.is_listed(), self.gpu.limits())?;
        launch.map_or(Ok(()), |launch| binder.launch(&launch, [&x, &list, &cache]))
    }
}

/// The kernels, by the bytes of their units.
const ENTRIES: [(u32, &str); 4] = [(16, "append_16"), (8, "append_8"), (4, "append_4"), (2, "append_2")];

/// Threads of a block, and of a warp.
const THREADS: u32 = 256;
const WARP: usize = 32;

/// The structure `Params` of `kernels/append.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    cache_stride: u64,
    units: u64,
    width: u32,
    room: u32,
    time: u32,
    listed: u32,
    sequences: u32,
    step: u32,
}

/// Rows of each sequence of a rectangular batch, or the first step of the search among packed ones; 0 where it does not
/// matter.
fn layout(shape: SequenceShape) -> (usize, usize) {
    match shape.layout() {
        Layout::Batch { time } | Layout::Padded { time } => (time, 0),
        Layout::Packed => (0, bisection(shape.sequences())),
    }
}

/// The one launch, or none where there are no tokens. `places` are those of x and of the cache.
pub(crate) fn plan(
    problem: &AppendProblem,
    places: [Place; 2],
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (shape, dtype, channels) = (problem.sequences(), problem.dtype(), problem.channels());
    if shape.tokens() == 0 {
        return Ok(None);
    }
    let unit = unit(dtype, channels, &places);
    let per_unit = unit as usize / dtype.size();
    let width = channels / per_unit;
    // Rows of x are counted in 32 bits.
    let units = u64::from(count("x", shape.tokens())?) * u64::from(count("x", width)?);
    let [x, cache] = places;
    let (time, step) = layout(shape);
    let params = Params {
        x_stride: (x.stride / per_unit) as u64,
        cache_stride: (cache.stride / per_unit) as u64,
        units,
        width: count("x", width)?,
        room: count("cache", problem.room())?,
        time: count("x", time)?,
        listed: listed.into(),
        sequences: count("cache", shape.sequences())?,
        step: count("cache", step)?,
    };
    let entry = ENTRIES.iter().find(|(of, _)| *of == unit).map_or("append_2", |(_, entry)| entry);
    let blocks = units.div_ceil(THREADS.into());
    Launch::new((modules::APPEND, entry), blocks, THREADS, &params, limits).map(Some)
}

/// What the warps of a call on tensors ask for: each moves the units of 32 threads, which are those of some rows.
fn traffic(problem: &AppendProblem, sequences: &Sequences) -> Traffic {
    let (shape, channels) = (problem.sequences(), problem.channels());
    let unit = unit(problem.dtype(), channels, &[Place::contiguous(channels)]) as usize;
    let width = channels * problem.dtype().size() / unit;
    let units = shape.tokens() * width;
    let (time, first_step) = layout(shape);
    let all = sequences.as_slice();
    let is_listed = listed(shape) || sequences.continues();
    let mut traffic = Traffic::default();
    for start in (0..units).step_by(WARP) {
        // Of each thread: its unit, its row, and the sequence that has the row.
        let mut threads: Vec<_> = (start..units.min(start + WARP))
            .map(|number| {
                let row = number / width;
                (number, row, row.checked_div(time).unwrap_or(0))
            })
            .collect();
        let mut step = first_step;
        while step > 0 {
            let asked = threads.iter().map(|(.., index)| index + step).filter(|&index| index < all.len());
            traffic.parameters += distinct(asked.map(|index| index * LISTED));
            for (_, row, index) in &mut threads {
                if all.get(*index + step).is_some_and(|sequence| sequence.first <= *row) {
                    *index += step;
                }
            }
            step /= 2;
        }
        if is_listed {
            traffic.parameters += distinct(threads.iter().map(|(.., index)| index * LISTED));
        }
        threads.retain(|&(_, row, index)| row - all[index].first < all[index].length);
        traffic.read += distinct(threads.iter().map(|(number, ..)| number * unit));
        let to = threads.iter().map(|&(number, row, index)| {
            let at = index * problem.room() + all[index].past + row - all[index].first;
            (at * width + number % width) * unit
        });
        traffic.written += distinct(to);
    }
    traffic
}

/// Bytes of a sequence in the list.
const LISTED: usize = 16;

/// Sectors that these bytes lie in.
fn distinct(bytes: impl Iterator<Item = usize>) -> u64 {
    let mut sectors: Vec<_> = bytes.map(|byte| byte / SECTOR).collect();
    sectors.sort_unstable();
    sectors.dedup();
    sectors.len() as u64
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::{DType, Device, Tensor};

    /// Calls are refused before it comes to that, but the kernel does not rely on it: of a list that goes past the room it
    /// writes what there is room for, and the emulator finds nothing out of bounds.
    #[test]
    fn the_kernel_leaves_out_what_is_past_the_room() {
        let device = Device::cuda_emulated();
        let gpu = device.cuda_gpu().unwrap();
        const ROOM: usize = 6;
        let far = [4, 6, 5, usize::MAX >> 4, 0];
        for dtype in DType::ALL {
            for channels in [1, 3, 16] {
                for packed in [false, true] {
                    let sequences = if packed {
                        Sequences::packed(&[0, 3, 4, 4, 9, 18]).unwrap()
                    } else {
                        Sequences::padded(9, &[3, 1, 0, 5, 9]).unwrap()
                    };
                    let sequences = sequences.after(&far).unwrap();
                    let problem = AppendProblem::new(sequences.shape(), channels, ROOM, dtype).unwrap();
                    let rows = sequences.shape().tokens();
                    let x: Vec<f32> = (0..rows * channels).map(|i| 1.0 + (i / channels) as f32).collect();
                    let x = Tensor::from_f32(&x, &[rows, channels], dtype, &device).unwrap();
                    let mut cache = Tensor::zeros(&problem.cache_shape(), dtype, &device).unwrap();
                    let operator = Append::new(gpu, problem).unwrap();
                    let args = AppendArgs {
                        sequences: &DeviceSequences::new(gpu, &sequences).unwrap(),
                        x: Rows::contiguous(x.on_cuda()),
                        cache: RowsMut::contiguous(cache.on_cuda_mut()),
                    };
                    operator.run(args).unwrap();
                    let mut expected = [0.0; 5 * ROOM];
                    for (s, sequence) in sequences.as_slice().iter().enumerate() {
                        for i in 0..sequence.length.min(ROOM.saturating_sub(sequence.past)) {
                            expected[s * ROOM + sequence.past + i] = 1.0 + (sequence.first + i) as f32;
                        }
                    }
                    let expected: Vec<f32> = expected.iter().flat_map(|&row| vec![row; channels]).collect();
                    assert_eq!(
                        cache.to_f32().unwrap(),
                        expected,
                        "{dtype}, C = {channels}, packed: {packed}"
                    );
                }
            }
        }
    }
}
