use crate::problem::TopKProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters};
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code};
use crate::{DType, Result};

/// The largest numbers of rows, prepared: see [`TopKProblem`].
#[derive(Clone, Debug)]
pub struct TopK {
    gpu: Gpu,
    problem: TopKProblem,
}

/// What [`TopK::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct TopKArgs<'a> {
    /// `[rows, V]`.
    pub x: Rows<'a>,
    /// `[rows, k]` in f32, overwritten, where the problem wants them: by a dispatch of its own.
    pub values: Option<Rows<'a>>,
    /// `[rows, k]` of u32, overwritten.
    pub tokens: Elements<'a>,
}

/// The type of tokens, of which the room only knows that it has 32 bits.
const IDS: DType = DType::F32;

impl TopK {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: TopKProblem) -> Result<Self> {
        let outputs = [problem.rows(), problem.k()];
        gpu.limits().check_tensors(&[
            ("x", &[problem.rows(), problem.vocabulary()], problem.dtype()),
            ("tokens", &outputs, IDS),
        ])?;
        for launch in plan(&problem, Places::contiguous(&problem), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(TopK { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &TopKProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of x or of the other
    /// output, values that are missing or not part of the problem, and errors of the driver.
    pub fn bind(&self, args: TopKArgs<'_>) -> Result<Call> {
        let problem = &self.problem;
        let (rows, k) = (problem.rows(), problem.k());
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, problem.dtype(), rows, problem.vocabulary())?;
        let tokens = binder.elements("tokens", args.tokens, IDS, rows * k)?;
        let values =
            binder.optional_rows("values", args.values, problem.has_values(), DType::F32, rows, k)?;
        let places = Places { x: x.place, tokens: tokens.place.offset, values: values.place };
        let mut call = Call::empty();
        let launches = [(tokens, binder.nothing("tokens")), (values, tokens)];
        for (launch, (output, read)) in plan(problem, places, self.gpu.limits())?.iter().zip(launches) {
            call.push(&self.gpu, launch, output, &[x, read])?;
        }
        Ok(call)
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) tokens: usize,
    pub(crate) values: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &TopKProblem) -> Self {
        let x = Place::contiguous(problem.vocabulary());
        Places { x, tokens: 0, values: Place::contiguous(problem.k()) }
    }
}

/// The dispatch of the tokens, then that of the values where they are wanted; none where there are no rows.
pub(crate) fn plan(problem: &TopKProblem, places: Places, limits: &Limits) -> Result<Vec<Launch>> {
    if problem.rows() == 0 {
        return Ok(vec![]);
    }
    let Places { x, tokens, values } = places;
    let launch = |y: Place, of_values: bool| {
        let parameters = parameters(&[
            ("groups", problem.rows()),
            ("vocabulary", problem.vocabulary()),
            ("k", problem.k()),
            ("log_softmax", usize::from(problem.has_log_softmax())),
            ("x_offset", x.offset),
            ("x_stride", x.stride),
            ("tokens_offset", tokens),
            ("y_offset", y.offset),
            ("y_stride", y.stride),
            ("unused_1", 0),
            ("unused_2", 0),
            ("unused_3", 0),
        ])?;
        Launch::new(kernel(problem.dtype(), of_values), problem.rows() as u64, parameters, limits)
    };
    let rows = Place { offset: tokens, stride: problem.k() };
    let values = problem.has_values().then(|| launch(values, true));
    [Some(launch(rows, false)), values].into_iter().flatten().collect()
}

fn kernel(dtype: DType, values: bool) -> Kernel {
    Kernel {
        name: "top_k",
        workgroup: WORKGROUP,
        files: vec![File::Element, File::StoreWords, File::TopK],
        // What is stored are bits, of whole words.
        constants: vec![("X", code(dtype)), ("Y", 0), ("VALUES", u32::from(values))],
        inputs: 2,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    DType::ALL.into_iter().flat_map(|dtype| [false, true].map(|values| kernel(dtype, values))).collect()
}
