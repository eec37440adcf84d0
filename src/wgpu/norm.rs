use crate::problem::{NormKind, NormProblem, NormResidual};
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters};
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};
use crate::{DType, Result};

/// Layer norm or RMS norm, prepared: see [`NormProblem`].
#[derive(Clone, Debug)]
pub struct Norm {
    gpu: Gpu,
    problem: NormProblem,
}

/// What [`Norm::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
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
    pub y: Rows<'a>,
    /// `[tokens, C]`, overwritten with x + residual, where the problem wants that: by a dispatch of its own.
    pub sum: Option<Rows<'a>>,
}

impl Norm {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: NormProblem) -> Result<Self> {
        gpu.limits().check_tensors(&[
            ("x", &[problem.tokens(), problem.channels()], problem.dtype()),
            ("weight", &[problem.channels()], problem.parameters()),
        ])?;
        for launch in plan(&problem, &Places::contiguous(&problem), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(Norm { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &NormProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input or of the
    /// other output, a tensor that is missing or not part of the problem, and errors of the driver.
    pub fn bind(&self, args: NormArgs<'_>) -> Result<Call> {
        let problem = &self.problem;
        let (tokens, channels, dtype) = (problem.tokens(), problem.channels(), problem.dtype());
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, dtype, tokens, channels)?;
        let residual = binder.optional_rows(
            "residual",
            args.residual,
            problem.has_residual(),
            dtype,
            tokens,
            channels,
        )?;
        let weight = binder.elements("weight", args.weight, problem.parameters(), channels)?;
        let bias = binder.optional("bias", args.bias, problem.has_bias(), problem.parameters(), channels)?;
        let y = binder.rows("y", args.y, dtype, tokens, channels)?;
        let sum = binder.optional_rows("sum", args.sum, problem.has_sum(), dtype, tokens, channels)?;
        let places = Places {
            x: x.place,
            residual: residual.place,
            weight: weight.place.offset,
            bias: bias.place.offset,
            y: y.place,
            sum: sum.place,
        };
        let mut call = Call::empty();
        for (launch, output) in plan(problem, &places, self.gpu.limits())?.iter().zip([y, sum]) {
            call.push(&self.gpu, launch, output, &[x, residual, weight, bias])?;
        }
        Ok(call)
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) residual: Place,
    pub(crate) weight: usize,
    pub(crate) bias: usize,
    pub(crate) y: Place,
    pub(crate) sum: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &NormProblem) -> Self {
        let rows = Place::contiguous(problem.channels());
        Places { x: rows, residual: rows, weight: 0, bias: 0, y: rows, sum: rows }
    }
}

/// Channels that an invocation has at least, where there are so many: two at a time, four times.
const PER_LANE: usize = 8;

/// Invocations of a row: a power of two. It depends on the row alone, so that a row's sums are made in one order wherever it
/// stands.
fn lanes(channels: usize) -> usize {
    channels.div_ceil(PER_LANE).clamp(8, WORKGROUP).next_power_of_two()
}

/// The dispatch of the norm, then that of the sum where it is wanted; none where there are no rows.
pub(crate) fn plan(problem: &NormProblem, places: &Places, limits: &Limits) -> Result<Vec<Launch>> {
    if problem.tokens() == 0 {
        return Ok(vec![]);
    }
    let lanes = lanes(problem.channels());
    let groups = problem.tokens().div_ceil(WORKGROUP / lanes);
    let Places { x, residual, weight, bias, .. } = *places;
    let added = match problem.residual() {
        NormResidual::None => 0,
        NormResidual::Before { .. } => 1,
        NormResidual::After => 2,
    };
    let launch = |y: Place, sum: bool| {
        let mut parameters = parameters(&[
            ("tokens", problem.tokens()),
            ("channels", problem.channels()),
            ("lanes", lanes),
            ("eps", 0),
            ("layer", usize::from(problem.kind() == NormKind::Layer)),
            ("residual", added),
            ("has_bias", usize::from(problem.has_bias())),
            ("groups", groups),
            ("x_offset", x.offset),
            ("x_stride", x.stride),
            ("residual_offset", residual.offset),
            ("residual_stride", residual.stride),
            ("weight_offset", weight),
            ("bias_offset", bias),
            ("y_offset", y.offset),
            ("y_stride", y.stride),
        ])?;
        parameters[3].1 = problem.eps().to_bits();
        let paired = x.whole_words() && (added == 0 || residual.whole_words());
        let whole_words = y.whole_words() && problem.channels().is_multiple_of(2);
        let kernel = kernel(problem.dtype(), problem.parameters(), paired, whole_words, sum);
        Launch::new(kernel, groups as u64, parameters, limits)
    };
    let sum = problem.has_sum().then(|| launch(places.sum, true));
    [Some(launch(places.y, false)), sum].into_iter().flatten().collect()
}

fn kernel(dtype: DType, parameters: DType, paired: bool, whole_words: bool, sum: bool) -> Kernel {
    Kernel {
        name: "norm",
        workgroup: WORKGROUP,
        files: vec![File::Element, store(dtype, whole_words), File::Norm],
        constants: vec![
            ("X", code(dtype)),
            ("P", code(parameters)),
            ("Y", code(dtype)),
            // Numbers of 32 bits are whole words anyway.
            ("PAIRED", u32::from(paired && dtype != DType::F32)),
            ("SUM", u32::from(sum)),
        ],
        inputs: 4,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    for (dtype, parameters) in crate::wgpu::shader::types() {
        for bits in 0..8 {
            let kernel = kernel(dtype, parameters, bits & 1 == 1, bits & 2 == 2, bits & 4 == 4);
            if !all.contains(&kernel) {
                all.push(kernel);
            }
        }
    }
    all
}
