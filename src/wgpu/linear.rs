mod backward;
pub(crate) mod kernels;
pub(crate) mod products;

pub use backward::{LinearBackward, LinearBackwardArgs};
#[cfg(test)]
pub(crate) use backward::{plan as backward_plan, scratch_len as backward_scratch_len};

use crate::problem::{Activation, LinearProblem};
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters};
use crate::wgpu::product::Blocks;
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};
use crate::{DType, Result};

/// A linear layer, prepared: see [`LinearProblem`].
#[derive(Clone, Debug)]
pub struct Linear {
    gpu: Gpu,
    problem: LinearProblem,
}

/// What [`Linear::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
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
    pub y: Rows<'a>,
}

impl Linear {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LinearProblem) -> Result<Self> {
        let (rows, inputs, outputs) = (problem.rows(), problem.inputs(), problem.outputs());
        gpu.limits().check_tensors(&[
            ("x", &[rows, inputs], problem.dtype()),
            ("weight", &[problem.weight_rows(), problem.group_inputs()], problem.parameters()),
            ("y", &[rows, outputs], problem.dtype()),
        ])?;
        let places = Places::contiguous(&problem);
        if let Some(launch) = plan(&problem, &places, Types::of(&problem), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(Linear { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LinearProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input, an
    /// input that is missing or not part of the problem, and errors of the driver.
    pub fn bind(&self, args: LinearArgs<'_>) -> Result<Call> {
        let problem = &self.problem;
        let (rows, inputs, outputs) = (problem.rows(), problem.inputs(), problem.outputs());
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, problem.dtype(), rows, inputs)?;
        let (weight_rows, parameters) = (problem.weight_rows(), problem.parameters());
        let weight =
            binder.elements("weight", args.weight, parameters, weight_rows * problem.group_inputs())?;
        let bias = binder.optional("bias", args.bias, problem.has_bias(), parameters, weight_rows)?;
        let residual = binder.optional_rows(
            "residual",
            args.residual,
            problem.has_residual(),
            problem.dtype(),
            rows,
            outputs,
        )?;
        let y = binder.rows("y", args.y, problem.dtype(), rows, outputs)?;
        let places = Places {
            x: x.place,
            weight: weight.place.offset,
            bias: bias.place.offset,
            residual: residual.place,
            y: y.place,
        };
        let mut call = Call::empty();
        if let Some(launch) = plan(problem, &places, Types::of(problem), self.gpu.limits())? {
            call.push(&self.gpu, &launch, y, &[x, weight, bias, residual])?;
        }
        Ok(call)
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) weight: usize,
    pub(crate) bias: usize,
    pub(crate) residual: Place,
    pub(crate) y: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &LinearProblem) -> Self {
        let y = Place::contiguous(problem.outputs());
        Places { x: Place::contiguous(problem.inputs()), weight: 0, bias: 0, residual: y, y }
    }
}

/// Types of x, of weight and bias, and of y.
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

/// Columns of the product that makes one group of outputs.
fn group_columns(problem: &LinearProblem) -> usize {
    problem.weight_rows() / problem.groups()
}

/// Tiles side by side on those.
fn tiles_across(problem: &LinearProblem, blocks: Blocks) -> usize {
    group_columns(problem).div_ceil(blocks.tile_columns())
}

/// Tiles of a product.
fn tiles(problem: &LinearProblem, blocks: Blocks) -> u64 {
    let down = problem.rows().div_ceil(blocks.tile_rows()) as u64;
    down.saturating_mul((problem.groups() * tiles_across(problem, blocks)) as u64)
}

/// Tiles that keep a big GPU busy. Where there are fewer, they had better be smaller.
const BUSY: u64 = 256;

/// The one dispatch, or none where there are no rows.
pub(crate) fn plan(
    problem: &LinearProblem,
    places: &Places,
    types: Types,
    limits: &Limits,
) -> Result<Option<Launch>> {
    if problem.rows() == 0 {
        return Ok(None);
    }
    let big = Blocks::new(2, problem.rows().min(128), group_columns(problem));
    let small = Blocks::new(1, problem.rows().min(64), group_columns(problem));
    let blocks = if tiles(problem, big) < BUSY { small } else { big };
    let Places { x, weight, bias, residual, y } = *places;
    let across = tiles_across(problem, blocks);
    let groups = tiles(problem, blocks);
    let parameters = parameters(&[
        ("rows", problem.rows()),
        ("inputs", problem.group_inputs()),
        ("outputs", problem.group_outputs()),
        ("activation", activation(problem.activation())),
        ("has_bias", usize::from(problem.has_bias())),
        ("has_residual", usize::from(problem.has_residual())),
        ("x_offset", x.offset),
        ("x_stride", x.stride),
        ("weight_offset", weight),
        ("bias_offset", bias),
        ("residual_offset", residual.offset),
        ("residual_stride", residual.stride),
        ("y_offset", y.offset),
        ("y_stride", y.stride),
        ("row_groups", blocks.rows),
        ("column_groups", blocks.columns),
        ("group_columns", across),
        ("columns", problem.groups() * across),
        ("groups", usize::try_from(groups).unwrap_or(usize::MAX)),
        ("unused", 0),
    ])?;
    let weight = Place { offset: weight, stride: problem.group_inputs() };
    let paired = x.whole_words() && weight.whole_words();
    let whole_words = y.whole_words() && problem.group_outputs().is_multiple_of(2);
    let kernel = kernel(types, paired, whole_words, blocks.row_quads);
    Launch::new(kernel, groups, parameters, limits).map(Some)
}

/// As `shaders/shared/activation.wgsl` names it.
fn activation(activation: Activation) -> usize {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::GeluTanh => 3,
        Activation::Glu => 4,
    }
}

fn kernel(types: Types, paired: bool, whole_words: bool, row_quads: usize) -> Kernel {
    // Numbers of 32 bits are whole words anyway.
    let paired = paired && (types.x != DType::F32 || types.parameters != DType::F32);
    let files = [
        File::Element,
        store(types.y, whole_words),
        File::StoreQuad,
        File::Memory,
        File::Blocks,
        File::Product,
    ];
    Kernel {
        name: "linear",
        workgroup: WORKGROUP,
        files: files
            .into_iter()
            .chain([File::StageRows, File::StageColumns, File::Activation, File::Linear])
            .collect(),
        constants: vec![
            ("X", code(types.x)),
            ("P", code(types.parameters)),
            ("Y", code(types.y)),
            ("PAIRED", u32::from(paired)),
            ("ROW_QUADS", row_quads as u32),
            ("COLUMN_QUADS", 1),
        ],
        inputs: 4,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    all.extend(kernels::kernels());
    for (x, parameters) in crate::wgpu::shader::types() {
        for y in [x, DType::F32] {
            for bits in 0..8 {
                let types = Types { x, parameters, y };
                let kernel = kernel(types, bits & 1 == 1, bits & 2 == 2, 1 + (bits >> 2));
                if !all.contains(&kernel) {
                    all.push(kernel);
                }
            }
        }
    }
    all
}
