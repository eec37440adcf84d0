use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::ids::{IDS, IdsMut};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count};
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::problem::TopKProblem;
use crate::{DType, Result};

/// The largest numbers of rows, prepared: see [`TopKProblem`].
#[derive(Clone, Debug)]
pub struct TopK {
    gpu: Gpu,
    problem: TopKProblem,
}

/// What [`TopK::launch`] reads and writes.
#[derive(Debug)]
pub struct TopKArgs<'a> {
    /// `[rows, V]`.
    pub x: Rows<'a>,
    /// `[rows, k]` in f32, overwritten, where the problem wants them.
    pub values: Option<RowsMut<'a>>,
    /// `[rows, k]`, overwritten.
    pub tokens: IdsMut<'a>,
}

impl TopK {
    /// Plans the call and loads its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: TopKProblem) -> Result<Self> {
        let places = [problem.vocabulary(), problem.k()].map(Place::contiguous);
        if let Some(launch) = plan(&problem, places, gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(TopK { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &TopKProblem {
        &self.problem
    }

    /// What a call reads and writes, as its plan predicts it: rows of x that all begin on a sector and are whole ones.
    pub fn traffic(&self) -> Traffic {
        traffic(&self.problem)
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, values that are missing or not part of the problem,
    /// and errors of the driver.
    pub fn launch(&self, args: TopKArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let sizes = [problem.rows(), problem.k()];
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, problem.dtype(), [problem.rows(), problem.vocabulary()])?;
        let values = binder.wanted_rows("values", args.values, problem.has_values(), DType::F32, sizes)?;
        let tokens = binder.rows_mut("tokens", RowsMut::contiguous(args.tokens.0), IDS, sizes)?;
        let launch = plan(problem, [x.place, values.place], self.gpu.limits())?;
        launch.map_or(Ok(()), |launch| binder.launch(&launch, [&x, &values, &tokens]))
    }
}

/// Threads of a block, which has a row.
const THREADS: u32 = 512;

/// The structure `Params` of `kernels/top_k.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    values_stride: u64,
    vocabulary: u32,
    k: u32,
    has_values: u32,
    log_softmax: u32,
}

/// The one launch, or none where there are no rows. `places` are those of x and the values; tokens lie side by side.
pub(crate) fn plan(problem: &TopKProblem, places: [Place; 2], limits: &Limits) -> Result<Option<Launch>> {
    if problem.rows() == 0 {
        return Ok(None);
    }
    let params = Params {
        x_stride: places[0].stride as u64,
        values_stride: places[1].stride as u64,
        vocabulary: count("x", problem.vocabulary())?,
        k: count("tokens", problem.k())?,
        has_values: problem.has_values().into(),
        log_softmax: problem.has_log_softmax().into(),
    };
    let entry = match problem.dtype() {
        DType::F32 => "top_k_f32",
        DType::F16 => "top_k_f16",
        DType::BF16 => "top_k_bf16",
    };
    Launch::new((modules::TOP_K, entry), problem.rows() as u64, THREADS, &params, limits).map(Some)
}

/// What the launch reads and writes: a row once for each of the k largest, and once more for a softmax, which each warp reads
/// the largest for; and each value on its own, as its number is read once more for it.
pub(crate) fn traffic(problem: &TopKProblem) -> Traffic {
    let (rows, k) = (problem.rows() as u64, problem.k() as u64);
    let row = (problem.vocabulary() * problem.dtype().size()).div_ceil(SECTOR) as u64;
    let softmax = if problem.has_log_softmax() { row + u64::from(THREADS / 32) } else { 0 };
    let values = if problem.has_values() { k } else { 0 };
    Traffic { read: rows * (k * row + softmax + values), written: rows * (k + values), parameters: 0 }
}
