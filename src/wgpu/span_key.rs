mod backward;
mod depthwise;

pub use backward::{SpanKeyBackward, SpanKeyBackwardArgs};
#[cfg(test)]
pub(crate) use backward::{plan as backward_plan, scratch_len as backward_scratch_len};

use crate::DType;
use crate::Result;
use crate::gpu::{Tiles, listed, window};
use crate::problem::SpanKeyProblem;
use crate::wgpu::call::{Binder, Bound, Call, Convolved, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, Tokens, parameters, tile_parameters};
use crate::wgpu::product::Blocks;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};

/// The span-aware key, prepared: see [`SpanKeyProblem`].
#[derive(Clone, Debug)]
pub struct SpanKey {
    gpu: Gpu,
    problem: SpanKeyProblem,
}

/// What [`SpanKey::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct SpanKeyArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// q `[tokens, A]`.
    pub query: Rows<'a>,
    /// `[C, K]`.
    pub depthwise: Elements<'a>,
    /// `[A, C]`.
    pub pointwise: Elements<'a>,
    /// `[A]`, where the problem has one.
    pub key_bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// `[tokens, A]`, overwritten.
    pub z: Rows<'a>,
}

impl SpanKey {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: SpanKeyProblem) -> Result<Self> {
        let (conv, outputs) = (problem.depthwise(), problem.outputs());
        let (tokens, channels) = (conv.sequences().tokens(), conv.channels());
        gpu.limits().check_convolution(conv, ["x", "history", "x"])?;
        gpu.limits().check_tensors(&[
            ("query", &[tokens, outputs], conv.dtype()),
            ("z", &[tokens, outputs], problem.output()),
            ("depthwise", &[channels, conv.window().width()], conv.parameters()),
            ("pointwise", &[outputs, channels], conv.parameters()),
        ])?;
        let places = SpanKeyPlaces::contiguous(&problem);
        if let Some(launch) = plan(&problem, conv.dtype(), &places, listed(conv.sequences()), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(SpanKey { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanKeyProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input that is missing or not part of the problem, and errors of the driver.
    pub fn bind(&self, args: SpanKeyArgs<'_>) -> Result<Call> {
        let mut call = Call::empty();
        self.push(&mut call, "z", args)?;
        Ok(call)
    }

    /// Adds the launch, whose output is `name` to the caller.
    pub(crate) fn push(&self, call: &mut Call, name: &'static str, args: SpanKeyArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let (conv, outputs) = (problem.depthwise(), problem.outputs());
        let SpanKeyArgs { sequences, x, query, depthwise, pointwise, key_bias, history, z } = args;
        let binder = Binder { gpu: &self.gpu };
        let z = (z, problem.output(), outputs);
        let Convolved { inputs: [list, x, history], y: z, tokens } =
            binder.convolved(["x", "history", name], conv, sequences, x, history, z)?;
        let (channels, width, dtype) = (conv.channels(), conv.window().width(), conv.parameters());
        let query = binder.rows("query", query, conv.dtype(), conv.sequences().tokens(), outputs)?;
        let depthwise = binder.elements("depthwise", depthwise, dtype, channels * width)?;
        let pointwise = binder.elements("pointwise", pointwise, dtype, outputs * channels)?;
        let key_bias = binder.optional("key_bias", key_bias, problem.has_key_bias(), dtype, outputs)?;
        let offset = |bound: Bound<'_>| bound.place.offset;
        let places = SpanKeyPlaces {
            tokens: Tokens { bias: offset(key_bias), ..tokens },
            query: query.place,
            depthwise: offset(depthwise),
            pointwise: offset(pointwise),
        };
        match plan(problem, conv.dtype(), &places, sequences.listed(), self.gpu.limits())? {
            None => Ok(()),
            Some(launch) => {
                let inputs = [list, x, history, depthwise, pointwise, key_bias, query];
                call.push(&self.gpu, &launch, z, &inputs)
            }
        }
    }
}

/// Where the tensors of a span-aware key lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanKeyPlaces {
    pub(crate) tokens: Tokens,
    pub(crate) query: Place,
    pub(crate) depthwise: usize,
    pub(crate) pointwise: usize,
}

impl SpanKeyPlaces {
    pub(crate) fn contiguous(problem: &SpanKeyProblem) -> Self {
        let (channels, outputs) = (problem.depthwise().channels(), problem.outputs());
        let tokens = Tokens::contiguous(channels, outputs);
        SpanKeyPlaces { tokens, query: Place::contiguous(outputs), depthwise: 0, pointwise: 0 }
    }
}

/// Quads of rows in a row group: an invocation makes 8 x 4 keys.
const ROW_QUADS: usize = 2;

/// The one dispatch, or none where there is no token. The query is of type `query_dtype`: that of x, unless it is the
/// gradient of z, which makes z the gradient of the query.
pub(crate) fn plan(
    problem: &SpanKeyProblem,
    query_dtype: DType,
    places: &SpanKeyPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (conv, outputs) = (problem.depthwise(), problem.outputs());
    let SpanKeyPlaces { tokens, query, depthwise, pointwise } = *places;
    if conv.sequences().tokens() == 0 {
        return Ok(None);
    }
    // How many tokens a tile has decides how many columns go beside them.
    let tiles = |columns| Tiles::new(conv.sequences(), window(conv), listed, 128, columns);
    let blocks = Blocks::new(ROW_QUADS, tiles(1)?.outputs(), outputs);
    let tiles = tiles(outputs.div_ceil(blocks.tile_columns()))?;
    let mut all = tile_parameters(&tiles)?;
    all.extend(tokens.parameters(conv, problem.has_key_bias())?);
    all.extend(parameters(&[
        ("outputs", outputs),
        ("row_groups", blocks.rows),
        ("column_groups", blocks.columns),
        ("depthwise_offset", depthwise),
        ("pointwise_offset", pointwise),
        ("query_offset", query.offset),
        ("query_stride", query.stride),
        ("unused", 0),
    ])?);
    let pointwise = Place { offset: pointwise, stride: conv.channels() };
    let whole_words = tokens.y.whole_words() && outputs.is_multiple_of(2);
    let types =
        Types { x: conv.dtype(), query: query_dtype, parameters: conv.parameters(), z: problem.output() };
    let kernel = kernel(types, pointwise.whole_words(), whole_words);
    Launch::new(kernel, tiles.groups(), all, limits).map(Some)
}

#[derive(Clone, Copy, Debug)]
struct Types {
    x: DType,
    query: DType,
    parameters: DType,
    z: DType,
}

fn kernel(types: Types, paired: bool, whole_words: bool) -> Kernel {
    let paired = paired && types.parameters != DType::F32;
    let files = [File::Element, File::LaneOne, store(types.z, whole_words), File::StoreQuad, File::Tiles];
    let product = [
        File::Window,
        File::Convolve,
        File::Memory,
        File::Blocks,
        File::Product,
        File::StageColumns,
        File::SpanKey,
    ];
    Kernel {
        name: "span_key",
        workgroup: WORKGROUP,
        files: files.into_iter().chain(product).collect(),
        constants: vec![
            ("X", code(types.x)),
            ("Q", code(types.query)),
            ("P", code(types.parameters)),
            ("Y", code(types.z)),
            ("PER_STEP", 0),
            ("PAIRED", u32::from(paired)),
            ("ROW_QUADS", ROW_QUADS as u32),
            ("COLUMN_QUADS", 1),
        ],
        inputs: 7,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = depthwise::kernels();
    for (x, parameters) in crate::wgpu::shader::types() {
        for (query, z) in [(x, x), (x, DType::F32), (DType::F32, x)] {
            for bits in 0..4 {
                let types = Types { x, query, parameters, z };
                let kernel = kernel(types, bits & 1 == 1, bits & 2 == 2);
                if !all.contains(&kernel) {
                    all.push(kernel);
                }
            }
        }
    }
    all
}
