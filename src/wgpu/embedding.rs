use crate::gpu::listed;
use crate::problem::EmbeddingProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters};
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};
use crate::{DType, Error, Layout, Result};

/// An embedding, prepared: see [`EmbeddingProblem`].
///
/// Ids are in a buffer where only the device sees them: a token whose id, type or position is past its table gets a row of NaN.
#[derive(Clone, Debug)]
pub struct Embedding {
    gpu: Gpu,
    problem: EmbeddingProblem,
}

/// What [`Embedding::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingArgs<'a> {
    /// The sequences, of the problem's shape, where it has any.
    pub sequences: Option<&'a DeviceSequences>,
    /// A u32 for each row of y.
    pub tokens: Elements<'a>,
    /// `[V, C]`.
    pub table: Rows<'a>,
    /// `[P, C]`, where the problem has one.
    pub positions: Option<Rows<'a>>,
    /// A u32 for each row of y, where the problem has types.
    pub type_ids: Option<Elements<'a>>,
    /// `[T, C]`, where the problem has one.
    pub types: Option<Rows<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: Rows<'a>,
}

/// The type of ids, of which the room only knows that it has 32 bits.
const IDS: DType = DType::F32;

impl Embedding {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] where the device allows less than the problem needs, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: EmbeddingProblem) -> Result<Self> {
        let (tokens, channels, parameters) = (problem.tokens(), problem.channels(), problem.parameters());
        gpu.limits().check_tensors(&[
            ("tokens", &[tokens], IDS),
            ("table", &[problem.vocabulary(), channels], parameters),
            ("positions", &[problem.positions().unwrap_or(0), channels], parameters),
            ("types", &[problem.types().unwrap_or(0), channels], parameters),
            ("y", &[tokens, channels], problem.dtype()),
        ])?;
        let listed = problem.sequences().is_some_and(listed);
        if let Some(launch) = plan(&problem, Places::contiguous(&problem), listed, gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(Embedding { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &EmbeddingProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input, sequences of
    /// another shape, a tensor that is missing or not part of the problem, and errors of the driver.
    pub fn bind(&self, args: EmbeddingArgs<'_>) -> Result<Call> {
        let problem = &self.problem;
        let (tokens, channels, parameters) = (problem.tokens(), problem.channels(), problem.parameters());
        let binder = Binder { gpu: &self.gpu };
        let list = match (args.sequences, problem.sequences()) {
            (Some(sequences), Some(shape)) => {
                sequences.check(&self.gpu, shape)?;
                binder.whole("sequences", sequences.list())
            }
            (None, Some(_)) => return Err(Error::Missing { tensor: "sequences" }),
            (Some(_), None) => return Err(Error::Surplus { tensor: "sequences" }),
            (None, None) => binder.nothing("sequences"),
        };
        let ids = binder.elements("tokens", args.tokens, IDS, tokens)?;
        let type_ids = binder.optional("type ids", args.type_ids, problem.types().is_some(), IDS, tokens)?;
        let table_of = |name, table, rows: Option<usize>| {
            binder.optional_rows(name, table, rows.is_some(), parameters, rows.unwrap_or(0), channels)
        };
        let table = table_of("table", Some(args.table), Some(problem.vocabulary()))?;
        let positions = table_of("positions", args.positions, problem.positions())?;
        let types = table_of("types", args.types, problem.types())?;
        let y = binder.rows("y", args.y, problem.dtype(), tokens, channels)?;
        let places = Places {
            tokens: ids.place.offset,
            table: table.place,
            positions: positions.place,
            type_ids: type_ids.place.offset,
            types: types.place,
            y: y.place,
        };
        let listed = args.sequences.is_some_and(DeviceSequences::listed);
        let mut call = Call::empty();
        if let Some(launch) = plan(problem, places, listed, self.gpu.limits())? {
            call.push(&self.gpu, &launch, y, &[list, ids, table, positions, type_ids, types])?;
        }
        Ok(call)
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) tokens: usize,
    pub(crate) table: Place,
    pub(crate) positions: Place,
    pub(crate) type_ids: usize,
    pub(crate) types: Place,
    pub(crate) y: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &EmbeddingProblem) -> Self {
        let rows = Place::contiguous(problem.channels());
        Places { tokens: 0, table: rows, positions: rows, type_ids: 0, types: rows, y: rows }
    }
}

/// Channels that an invocation has at least, where there are so many: two at a time, four times.
const PER_LANE: usize = 8;

/// Channels of a part of a row: each invocation of a workgroup has eight pairs of them.
const PART: usize = 16 * WORKGROUP;

/// The one dispatch, or none where there are no tokens.
pub(crate) fn plan(
    problem: &EmbeddingProblem,
    places: Places,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    if problem.tokens() == 0 {
        return Ok(None);
    }
    let (tokens, channels) = (problem.tokens(), problem.channels());
    let lanes = channels.div_ceil(PER_LANE).min(WORKGROUP).next_power_of_two();
    let parts = channels.div_ceil(PART);
    let groups = tokens.div_ceil(WORKGROUP / lanes) * parts;
    let (grouping, time) = match problem.grouping() {
        None => (0, 0),
        Some(Layout::Batch { time } | Layout::Padded { time }) => (1, time),
        Some(Layout::Packed) => (2, 0),
    };
    let Places { table, positions, types, y, .. } = places;
    let mut parameters = parameters(&[
        ("tokens", tokens),
        ("channels", channels),
        ("lanes", lanes),
        ("part", PART),
        ("parts", parts),
        ("groups", groups),
        ("scale", 0),
        ("nan", 0x7fc0_0000),
        ("vocabulary", problem.vocabulary()),
        ("positions", problem.positions().unwrap_or(0)),
        ("types", problem.types().unwrap_or(0)),
        ("first", problem.first().min(u32::MAX as usize)),
        ("grouping", grouping),
        ("time", time),
        ("sequences", problem.sequences().map_or(0, |sequences| sequences.sequences())),
        ("listed", usize::from(listed)),
        ("tokens_offset", places.tokens),
        ("table_offset", table.offset),
        ("table_stride", table.stride),
        ("positions_offset", positions.offset),
        ("positions_stride", positions.stride),
        ("type_ids_offset", places.type_ids),
        ("types_offset", types.offset),
        ("types_stride", types.stride),
        ("y_offset", y.offset),
        ("y_stride", y.stride),
        ("unused_1", 0),
        ("unused_2", 0),
    ])?;
    parameters[6].1 = problem.scale().to_bits();
    let whole_words = y.whole_words() && channels.is_multiple_of(2);
    let kernel = kernel(problem.dtype(), problem.parameters(), whole_words);
    Launch::new(kernel, groups as u64, parameters, limits).map(Some)
}

fn kernel(dtype: DType, parameters: DType, whole_words: bool) -> Kernel {
    Kernel {
        name: "embedding",
        workgroup: WORKGROUP,
        files: vec![File::Element, store(dtype, whole_words), File::Embedding],
        constants: vec![("P", code(parameters)), ("Y", code(dtype))],
        inputs: 6,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let types = crate::wgpu::shader::types().into_iter();
    let mut all: Vec<_> = types
        .flat_map(|(dtype, parameters)| [true, false].map(|words| kernel(dtype, parameters, words)))
        .collect();
    all.dedup();
    all
}
