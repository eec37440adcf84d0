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
use crate::{DType, Error, Result};

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
    /// W `[out, in]`.
    pub weight: Elements<'a>,
    /// `[out]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[rows, out]`, overwritten.
    pub y: Rows<'a>,
}

impl Linear {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] where the device allows less than the problem needs, [`Error::Unsupported`] for groups, a residual and
    /// activations other than a ReLU, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: LinearProblem) -> Result<Self> {
        if let Some(what) = problem.beyond_relu() {
            return Err(Error::Unsupported { backend: "wgpu", operator: "linear", what });
        }
        let (rows, inputs, outputs) = (problem.rows(), problem.inputs(), problem.outputs());
        gpu.limits().check_tensors(&[
            ("x", &[rows, inputs], problem.dtype()),
            ("weight", &[outputs, inputs], problem.parameters()),
            ("y", &[rows, outputs], problem.dtype()),
        ])?;
        let (x, y) = (Place::contiguous(problem.inputs()), Place::contiguous(problem.outputs()));
        let places = Places { x, weight: 0, bias: 0, y };
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
        let weight = binder.elements("weight", args.weight, problem.parameters(), outputs * inputs)?;
        let bias = binder.optional("bias", args.bias, problem.has_bias(), problem.parameters(), outputs)?;
        let y = binder.rows("y", args.y, problem.dtype(), rows, outputs)?;
        let places = Places { x: x.place, weight: weight.place.offset, bias: bias.place.offset, y: y.place };
        let mut call = Call::empty();
        if let Some(launch) = plan(problem, &places, Types::of(problem), self.gpu.limits())? {
            call.push(&self.gpu, &launch, y, &[x, weight, bias])?;
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
    pub(crate) y: Place,
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

/// Tiles of a product.
fn tiles(problem: &LinearProblem, blocks: Blocks) -> u64 {
    let down = problem.rows().div_ceil(blocks.tile_rows()) as u64;
    down * problem.outputs().div_ceil(blocks.tile_columns()) as u64
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
    let big = Blocks::new(2, problem.rows().min(128), problem.outputs());
    let small = Blocks::new(1, problem.rows().min(64), problem.outputs());
    let blocks = if tiles(problem, big) < BUSY { small } else { big };
    let Places { x, weight, bias, y } = *places;
    let columns = problem.outputs().div_ceil(blocks.tile_columns());
    let groups = tiles(problem, blocks);
    let parameters = parameters(&[
        ("rows", problem.rows()),
        ("inputs", problem.inputs()),
        ("outputs", problem.outputs()),
        ("activation", usize::from(problem.activation() == Activation::Relu)),
        ("has_bias", usize::from(problem.has_bias())),
        ("x_offset", x.offset),
        ("x_stride", x.stride),
        ("weight_offset", weight),
        ("bias_offset", bias),
        ("y_offset", y.offset),
        ("y_stride", y.stride),
        ("row_groups", blocks.rows),
        ("column_groups", blocks.columns),
        ("columns", columns),
        ("groups", usize::try_from(groups).unwrap_or(usize::MAX)),
        ("unused", 0),
    ])?;
    let weight = Place { offset: weight, stride: problem.inputs() };
    let paired = x.whole_words() && weight.whole_words();
    let whole_words = y.whole_words() && problem.outputs().is_multiple_of(2);
    let kernel = kernel(types, paired, whole_words, blocks.row_quads);
    Launch::new(kernel, groups, parameters, limits).map(Some)
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
        files: files.into_iter().chain([File::StageRows, File::StageColumns, File::Linear]).collect(),
        constants: vec![
            ("X", code(types.x)),
            ("P", code(types.parameters)),
            ("Y", code(types.y)),
            ("PAIRED", u32::from(paired)),
            ("ROW_QUADS", row_quads as u32),
            ("COLUMN_QUADS", 1),
        ],
        inputs: 3,
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
