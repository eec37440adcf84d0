mod backward;
pub(crate) mod cublaslt;
mod mma;
mod multiply_add;
pub(crate) mod product;
mod sums;

#[cfg(test)]
pub(crate) use backward::plan as plan_backward;
pub use backward::{LinearBackward, LinearBackwardArgs};

use crate::cuda::call::{Binder, Elements, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::plan::{Launch, Place, unit};
use crate::cuda::products::Products;
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::problem::{Activation, LinearProblem};
use crate::{DType, Result};

/// A linear layer, prepared: see [`LinearProblem`].
#[derive(Clone, Debug)]
pub struct Linear {
    gpu: Gpu,
    problem: LinearProblem,
    by: Products,
}

/// What [`Linear::launch`] reads and writes.
#[derive(Debug)]
pub struct LinearArgs<'a> {
    /// `[rows, in]`.
    pub x: Rows<'a>,
    /// W `[out, in / g]`, or `[2 out, in]` for a GLU.
    pub weight: Elements<'a>,
    /// A number for each row of W, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[rows, out]`, where the problem has one.
    pub residual: Option<Rows<'a>>,
    /// `[rows, out]`, overwritten.
    pub y: RowsMut<'a>,
}

impl Linear {
    /// Plans the call and loads its kernel. The first plain product of a [`Gpu`] by [cuBLASLt](Products::CublasLt) allocates that
    /// library's workspace, which stays: 4 MiB, or 32 from Hopper on.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver and of the library.
    pub fn new(gpu: &Gpu, problem: LinearProblem) -> Result<Self> {
        let places = Places::contiguous(&problem);
        if let Some(launch) = plan(&problem, &places, Types::of(&problem), gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        let by = cublaslt::prepare(gpu, &problem)?;
        Ok(Linear { gpu: gpu.clone(), problem, by })
    }

    /// Whose kernels make it. Where that is cuBLASLt, a call whose memory is not aligned to 16 bytes, or has gaps between its
    /// rows, may still be one of ours: as the library has it.
    pub fn by(&self) -> Products {
        self.by
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LinearProblem {
        &self.problem
    }

    /// What a call by our kernels reads and writes, as its plan predicts it: matrices whose rows all begin on a sector. Of those of
    /// cuBLASLt nothing is known.
    pub fn traffic(&self) -> Traffic {
        traffic(&self.problem, Types::of(&self.problem), self.gpu.limits())
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, an input that is missing or not part of the
    /// problem, and errors of the driver.
    pub fn launch(&self, args: LinearArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let (dtype, parameters) = (problem.dtype(), problem.parameters());
        let (rows, inputs, outputs) = (problem.rows(), problem.inputs(), problem.outputs());
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, dtype, [rows, inputs])?;
        let (weight_rows, width) = (problem.weight_rows(), problem.group_inputs());
        let weight = binder.elements("weight", args.weight, parameters, weight_rows * width)?;
        let bias = binder.optional("bias", args.bias, problem.has_bias(), parameters, weight_rows)?;
        let residual = args.residual;
        let residual =
            binder.optional_rows("residual", residual, problem.has_residual(), dtype, [rows, outputs])?;
        let y = binder.rows_mut("y", args.y, dtype, [rows, outputs])?;
        let weight_place = Place { stride: width, ..weight.place };
        let places = Places { x: x.place, weight: weight_place, residual: residual.place, y: y.place };
        if self.by == Products::CublasLt {
            // SAFETY: the memory of all tensors is checked to have room for their rows, and held until the end of this function;
            // by its lifetime nobody else writes what is bound to be read, or touches what is bound to be written.
            let launched = unsafe { cublaslt::launch(&self.gpu, problem, &places, bias.place.address) }?;
            if launched {
                return Ok(());
            }
        }
        let launch = plan(problem, &places, Types::of(problem), self.gpu.limits())?;
        launch.map_or(Ok(()), |launch| binder.launch(&launch, [&x, &weight, &bias, &residual, &y]))
    }
}

/// Where the matrices lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) weight: Place,
    /// That of y where there is none.
    pub(crate) residual: Place,
    pub(crate) y: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &LinearProblem) -> Self {
        let y = Place::contiguous(problem.outputs());
        let weight = Place::contiguous(problem.group_inputs());
        Places { x: Place::contiguous(problem.inputs()), weight, residual: y, y }
    }
}

/// Types of x, of weight and bias, and of y. Parameters and y are of the type of x or of f32; parameters beside an x in f32
/// are of any type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Types {
    pub(crate) x: DType,
    pub(crate) parameters: DType,
    pub(crate) y: DType,
}

impl Types {
    fn of(problem: &LinearProblem) -> Self {
        Types { x: problem.dtype(), parameters: problem.parameters(), y: problem.dtype() }
    }
}

/// The one launch, or none where there are no rows. The types are `types`, whatever the problem's.
pub(crate) fn plan(
    problem: &LinearProblem,
    places: &Places,
    types: Types,
    limits: &Limits,
) -> Result<Option<Launch>> {
    if problem.rows() == 0 {
        return Ok(None);
    }
    match types.x {
        DType::F32 => multiply_add::plan(problem, places, types, limits),
        DType::F16 | DType::BF16 => mma::plan(problem, places, types, limits),
    }
    .map(Some)
}

/// What the launch reads and writes: matrices whose rows all begin on a sector.
pub(crate) fn traffic(problem: &LinearProblem, types: Types, limits: &Limits) -> Traffic {
    let kernel = match types.x {
        DType::F32 => multiply_add::kernel(problem, limits),
        DType::F16 | DType::BF16 => mma::kernel(problem, types, limits),
    };
    let (rows, groups) = (problem.rows() as u64, problem.groups() as u64);
    let (outputs, halves) = (problem.group_outputs() as u64, problem.activation().halves() as u64);
    let row = |numbers: usize, dtype: DType| (numbers * dtype.size()).div_ceil(SECTOR) as u64;
    let [down, across] = kernel.grid(problem);
    // Each warp of a tile reads the biases of its columns; on tensor cores, a thread those of two columns of eight, one by
    // one.
    let eights = outputs.div_ceil(8);
    let bias = match types.x {
        DType::F32 => down.saturating_mul(4 * eights),
        _ => down.saturating_mul(2 * (eights + if outputs % 8 == 1 { outputs / 8 } else { eights })),
    };
    let bias = bias.saturating_mul(groups * halves);
    let weight = down
        .saturating_mul(problem.weight_rows() as u64)
        .saturating_mul(row(problem.group_inputs(), types.parameters));
    let written = rows.saturating_mul(groups * row(problem.group_outputs(), types.y));
    let residual = if problem.has_residual() { written } else { 0 };
    let x = across.saturating_mul(rows).saturating_mul(row(problem.group_inputs(), types.x));
    Traffic {
        read: x.saturating_add(residual),
        written,
        parameters: weight.saturating_add(if problem.has_bias() { bias } else { 0 }),
    }
}

/// As `kernels/shared/activation.cuh` names it.
fn activation(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::GeluTanh => 3,
        Activation::Glu => 4,
    }
}

/// Whether the rows of y and of the residual are whole quads, each aligned to its size, also those of a group.
fn quads(dtype: DType, group_outputs: usize, places: &Places) -> u32 {
    (unit(dtype, group_outputs, &[places.residual, places.y]) as usize >= 4 * dtype.size()).into()
}

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    entry: &'static str,
    /// Threads of a block.
    threads: u32,
    /// Rows and columns of y that a block makes.
    tile: [usize; 2],
}

impl Kernel {
    /// The one with big tiles, unless they are so few that multiprocessors would go without.
    fn choose(big: Kernel, small: Kernel, problem: &LinearProblem, limits: &Limits) -> Kernel {
        if big.tiles(problem) < u64::from(limits.multiprocessors) { small } else { big }
    }

    /// Tiles side by side on the outputs of a group: of a GLU a tile has half as many.
    fn group_columns(&self, problem: &LinearProblem) -> usize {
        problem.group_outputs().div_ceil(self.tile[1] / problem.activation().halves())
    }

    /// Tiles down and across.
    fn grid(&self, problem: &LinearProblem) -> [u64; 2] {
        let across = (self.group_columns(problem) as u64).saturating_mul(problem.groups() as u64);
        [problem.rows().div_ceil(self.tile[0]) as u64, across]
    }

    fn tiles(&self, problem: &LinearProblem) -> u64 {
        let [down, across] = self.grid(problem);
        down.saturating_mul(across)
    }
}
