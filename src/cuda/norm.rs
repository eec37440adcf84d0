use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Elements, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count, unit};
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::problem::{NormKind, NormProblem, NormResidual};
use crate::{DType, Result};

/// Layer norm or RMS norm, prepared: see [`NormProblem`].
#[derive(Clone, Debug)]
pub struct Norm {
    gpu: Gpu,
    problem: NormProblem,
}

/// What [`Norm::launch`] reads and writes.
#[derive(Debug)]
pub struct NormArgs<'a> {
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[tokens, C]`, where the problem has one.
    pub residual: Option<Rows<'a>>,
    /// `[C]`.
    pub weight: Elements<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
    /// `[tokens, C]`, overwritten with x + residual, where the problem wants that.
    pub sum: Option<RowsMut<'a>>,
}

impl Norm {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: NormProblem) -> Result<Self> {
        if let Some(launch) = plan(&problem, &Places::contiguous(&problem), gpu.limits())? {
            // How its memory is aligned is known with each call, which must not load anything.
            for entry in entries(&problem) {
                gpu.kernel(&Launch { entry, ..launch.clone() })?;
            }
        }
        Ok(Norm { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &NormProblem {
        &self.problem
    }

    /// What a call reads and writes, as its plan predicts it: rows that all begin on a sector and are whole ones.
    pub fn traffic(&self) -> Traffic {
        traffic(&self.problem)
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, a tensor that is missing or not part of the
    /// problem, and errors of the driver.
    pub fn launch(&self, args: NormArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let (dtype, parameters) = (problem.dtype(), problem.parameters());
        let sizes = [problem.tokens(), problem.channels()];
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, dtype, sizes)?;
        let residual =
            binder.optional_rows("residual", args.residual, problem.has_residual(), dtype, sizes)?;
        let weight = binder.elements("weight", args.weight, parameters, sizes[1])?;
        let bias = binder.optional("bias", args.bias, problem.has_bias(), parameters, sizes[1])?;
        let y = binder.rows_mut("y", args.y, dtype, sizes)?;
        let sum = binder.wanted_rows("sum", args.sum, problem.has_sum(), dtype, sizes)?;
        let places = Places {
            x: x.place,
            residual: residual.place,
            weight: weight.place.address,
            bias: bias.place.address,
            y: y.place,
            sum: sum.place,
        };
        let launch = plan(problem, &places, self.gpu.limits())?;
        launch.map_or(Ok(()), |launch| binder.launch(&launch, [&x, &residual, &weight, &bias, &y, &sum]))
    }
}

/// Where the tensors lie: weight and bias by the addresses of their first numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) residual: Place,
    pub(crate) weight: u64,
    pub(crate) bias: u64,
    pub(crate) y: Place,
    pub(crate) sum: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &NormProblem) -> Self {
        let rows = Place::contiguous(problem.channels());
        Places { x: rows, residual: rows, weight: 0, bias: 0, y: rows, sum: rows }
    }
}

/// Threads of a block, and of a warp.
const THREADS: u32 = 256;
const WARP: u32 = 32;

/// Numbers of a row that a thread keeps.
const KEPT: usize = 32;

/// The longest row of a warp.
const WARP_CHANNELS: usize = KEPT * WARP as usize;

/// The longest row that a block keeps.
const BLOCK_CHANNELS: usize = KEPT * THREADS as usize;

/// The kernels of a warp and of a block for each row, by the bytes of their units.
const ENTRIES: [(u32, [&str; 2]); 4] = [
    (16, ["norm_warp_16", "norm_block_16"]),
    (8, ["norm_warp_8", "norm_block_8"]),
    (4, ["norm_warp_4", "norm_block_4"]),
    (2, ["norm_warp_2", "norm_block_2"]),
];

/// Those for rows of the problem, which its calls take by how their memory is aligned.
fn entries(problem: &NormProblem) -> impl Iterator<Item = &'static str> {
    let (size, kind) = (problem.dtype().size(), usize::from(problem.channels() > WARP_CHANNELS));
    ENTRIES.into_iter().filter(move |(unit, _)| *unit as usize >= size).map(move |(_, names)| names[kind])
}

/// The structure `Params` of `kernels/norm.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    residual_stride: u64,
    y_stride: u64,
    sum_stride: u64,
    tokens: u32,
    channels: u32,
    eps: f32,
    layer: u32,
    residual: u32,
    has_bias: u32,
    has_sum: u32,
    wide: u32,
}

/// Bytes of the unit in which rows are read and written, and so many numbers of weight and bias: as many as all of them are
/// aligned to.
fn row_unit(problem: &NormProblem, places: &Places) -> u32 {
    let (dtype, parameters) = (problem.dtype(), problem.parameters());
    let Places { x, residual, weight, bias, y, sum } = *places;
    let there = [(x, true), (residual, problem.has_residual()), (y, true), (sum, problem.has_sum())];
    let rows: Vec<Place> = there.into_iter().filter_map(|(place, there)| there.then_some(place)).collect();
    let most = unit(dtype, problem.channels(), &rows);
    // Numbers of a unit as parameters, which are read by 16 bytes at most.
    let fits = |unit: u32| {
        let bytes = (unit as usize * parameters.size() / dtype.size()).min(16) as u64;
        weight.is_multiple_of(bytes) && (bias.is_multiple_of(bytes) || !problem.has_bias())
    };
    ENTRIES.into_iter().map(|(unit, _)| unit).find(|&unit| unit <= most && fits(unit)).unwrap_or(most)
}

/// The one launch, or none where there are no rows.
pub(crate) fn plan(problem: &NormProblem, places: &Places, limits: &Limits) -> Result<Option<Launch>> {
    if problem.tokens() == 0 {
        return Ok(None);
    }
    let (channels, dtype) = (problem.channels(), problem.dtype());
    let Places { x, residual, y, sum, .. } = *places;
    let unit = row_unit(problem, places);
    let params = Params {
        x_stride: x.stride as u64,
        residual_stride: residual.stride as u64,
        y_stride: y.stride as u64,
        sum_stride: sum.stride as u64,
        tokens: count("x", problem.tokens())?,
        channels: count("x", channels)?,
        eps: problem.eps(),
        layer: (problem.kind() == NormKind::Layer).into(),
        residual: match problem.residual() {
            NormResidual::None => 0,
            NormResidual::Before { .. } => 1,
            NormResidual::After => 2,
        },
        has_bias: problem.has_bias().into(),
        has_sum: problem.has_sum().into(),
        wide: (problem.parameters() == DType::F32).into(),
    };
    let long = channels > WARP_CHANNELS;
    let entry = ENTRIES.iter().find(|(of, _)| *of == unit).map_or(ENTRIES[3].1, |(_, names)| *names);
    let blocks = if long { problem.tokens() } else { problem.tokens().div_ceil((THREADS / WARP) as usize) };
    let kernel = (modules::norm(dtype), entry[usize::from(long)]);
    Launch::new(kernel, blocks as u64, THREADS, &params, limits).map(Some)
}

/// What the launch reads and writes: rows that begin on a sector and are whole ones.
pub(crate) fn traffic(problem: &NormProblem) -> Traffic {
    let (tokens, channels) = (problem.tokens() as u64, problem.channels());
    let sectors = |numbers: usize, dtype: DType| (numbers * dtype.size()).div_ceil(SECTOR) as u64;
    let row = sectors(channels, problem.dtype());
    // What a block does not keep is read anew for the mean (or the sum that is stored), the squares and the outputs.
    let rest = sectors(channels.saturating_sub(BLOCK_CHANNELS), problem.dtype());
    let anew = 1 + u64::from(problem.kind() == NormKind::Layer || problem.has_sum());
    let added = match problem.residual() {
        NormResidual::None => 0,
        NormResidual::Before { .. } => row + anew * rest,
        NormResidual::After => row,
    };
    // Where units of 16-bit numbers meet parameters of f32, each of a thread's two loads touches all of its sectors.
    let twice = if problem.dtype() != DType::F32 && problem.parameters() == DType::F32 { 2 } else { 1 };
    let parameters = twice * sectors(channels, problem.parameters()) * (1 + u64::from(problem.has_bias()));
    Traffic {
        read: tokens * (row + anew * rest + added),
        written: tokens * row * (1 + u64::from(problem.has_sum())),
        parameters: tokens * parameters,
    }
}
