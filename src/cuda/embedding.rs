mod traffic;

use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Bound, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::ids::{IDS, Ids};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count};
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::EmbeddingProblem;
use crate::{DType, Error, Layout, Result, Sequences};

/// An embedding, prepared: see [`EmbeddingProblem`].
///
/// Ids are in memory where only the device sees them: a token whose id, type or position is past its table gets a row of NaN.
#[derive(Clone, Debug)]
pub struct Embedding {
    gpu: Gpu,
    problem: EmbeddingProblem,
}

/// What [`Embedding::launch`] reads and writes.
#[derive(Debug)]
pub struct EmbeddingArgs<'a> {
    /// The sequences, of the problem's shape, where it has any.
    pub sequences: Option<&'a DeviceSequences>,
    /// An id for each row of y.
    pub tokens: Ids<'a>,
    /// `[V, C]`.
    pub table: Rows<'a>,
    /// `[P, C]`, where the problem has one.
    pub positions: Option<Rows<'a>>,
    /// An id for each row of y, where the problem has types.
    pub type_ids: Option<Ids<'a>>,
    /// `[T, C]`, where the problem has one.
    pub types: Option<Rows<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

impl Embedding {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] where the device allows less than the problem needs, and errors of the driver.
    pub fn new(gpu: &Gpu, problem: EmbeddingProblem) -> Result<Self> {
        let listed = problem.sequences().is_some_and(listed);
        if let Some(launch) = plan(&problem, &Places::contiguous(&problem), listed, gpu.limits())? {
            // How its memory is aligned is known with each call, which must not load anything.
            for (_, entry) in entries(&problem) {
                gpu.kernel(&Launch { entry, ..launch.clone() })?;
            }
        }
        Ok(Embedding { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &EmbeddingProblem {
        &self.problem
    }

    /// What a call on these sequences reads and writes, as its plan predicts it: rows that all begin on a sector and are whole
    /// ones, none of them the same as another that a warp reads with it.
    pub fn traffic(&self, sequences: Option<&Sequences>) -> Traffic {
        traffic::of(&self.problem, sequences)
    }

    /// Puts the call into the device's stream. Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, a tensor that is missing
    /// or not part of the problem, and errors of the driver.
    pub fn launch(&self, args: EmbeddingArgs<'_>) -> Result<()> {
        let problem = &self.problem;
        let (tokens, channels, parameters) = (problem.tokens(), problem.channels(), problem.parameters());
        let binder = Binder { gpu: &self.gpu };
        let list = match (args.sequences, problem.sequences()) {
            (Some(sequences), Some(shape)) => {
                shape.check(sequences.shape())?;
                binder.list(sequences)?
            }
            (None, Some(_)) => return Err(Error::Missing { tensor: "sequences" }),
            (Some(_), None) => return Err(Error::Surplus { tensor: "sequences" }),
            (None, None) => Bound::nothing(),
        };
        let ids = binder.elements("tokens", args.tokens.0, IDS, tokens)?;
        let type_ids = args.type_ids.map(|ids| ids.0);
        let type_ids = binder.optional("type ids", type_ids, problem.types().is_some(), IDS, tokens)?;
        let table_of = |name, table, rows: Option<usize>| {
            binder.optional_rows(name, table, rows.is_some(), parameters, [rows.unwrap_or(0), channels])
        };
        let table = table_of("table", Some(args.table), Some(problem.vocabulary()))?;
        let positions = table_of("positions", args.positions, problem.positions())?;
        let types = table_of("types", args.types, problem.types())?;
        let y = binder.rows_mut("y", args.y, problem.dtype(), [tokens, channels])?;
        let places = Places {
            table: table.place,
            positions: problem.positions().map(|_| positions.place),
            types: problem.types().map(|_| types.place),
            y: y.place,
        };
        let listed = args.sequences.is_some_and(DeviceSequences::is_listed);
        let launch = plan(problem, &places, listed, self.gpu.limits())?;
        let bound = [&list, &ids, &table, &positions, &type_ids, &types, &y];
        launch.map_or(Ok(()), |launch| binder.launch(&launch, bound))
    }
}

/// Where the tensors lie; ids may lie anywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) table: Place,
    pub(crate) positions: Option<Place>,
    pub(crate) types: Option<Place>,
    pub(crate) y: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &EmbeddingProblem) -> Self {
        let rows = Place::contiguous(problem.channels());
        Places {
            table: rows,
            positions: problem.positions().map(|_| rows),
            types: problem.types().map(|_| rows),
            y: rows,
        }
    }
}

/// Threads of a block, and of a warp.
const THREADS: u32 = 256;
const WARP: u32 = 32;

/// Units of a part of a row that a thread has at most.
const UNITS: u32 = 4;

/// The kernels, by the numbers of their units.
const ENTRIES: [(usize, &str); 4] =
    [(8, "embedding_8"), (4, "embedding_4"), (2, "embedding_2"), (1, "embedding_1")];

/// Those for rows of the problem, which its calls take by how their memory is aligned: a unit is at most 16 bytes of y, and of
/// a table.
fn entries(problem: &EmbeddingProblem) -> impl Iterator<Item = (usize, &'static str)> {
    let size = problem.dtype().size().max(problem.parameters().size());
    let channels = problem.channels();
    ENTRIES.into_iter().filter(move |(numbers, _)| numbers * size <= 16 && channels.is_multiple_of(*numbers))
}

/// The structure `Params` of `kernels/embedding.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    table_stride: u64,
    positions_stride: u64,
    types_stride: u64,
    y_stride: u64,
    tokens: u32,
    width: u32,
    lane_bits: u32,
    parts: u32,
    vocabulary: u32,
    positions: u32,
    types: u32,
    first: u32,
    grouping: u32,
    time: u32,
    sequences: u32,
    listed: u32,
    scale: f32,
    wide: u32,
}

/// The largest unit that all rows are aligned to.
fn entry(problem: &EmbeddingProblem, places: &Places) -> (usize, &'static str) {
    let aligned = |place: &Place, dtype: DType, numbers: usize| {
        place.address.is_multiple_of((numbers * dtype.size()) as u64) && place.stride.is_multiple_of(numbers)
    };
    let tables = || [Some(places.table), places.positions, places.types].into_iter().flatten();
    entries(problem)
        .find(|&(numbers, _)| {
            aligned(&places.y, problem.dtype(), numbers)
                && tables().all(|place| aligned(&place, problem.parameters(), numbers))
        })
        .unwrap_or(ENTRIES[3])
}

/// How many threads a row of `width` units has, and in how many parts it is: few units for each thread, but whole sectors for
/// those of a warp.
fn divided(width: u32) -> (u32, u32) {
    let few = width.div_ceil(UNITS).next_power_of_two();
    let lanes = few.max(width.next_power_of_two().min(WARP)).min(THREADS);
    (lanes, width.div_ceil(UNITS * lanes))
}

/// How rows find their sequences, as the kernel numbers it, and rows of each.
fn grouping(problem: &EmbeddingProblem) -> (u32, usize) {
    match problem.grouping() {
        None => (0, 0),
        Some(Layout::Batch { time } | Layout::Padded { time }) => (1, time),
        Some(Layout::Packed) => (2, 0),
    }
}

/// The one launch, or none where there are no tokens.
pub(crate) fn plan(
    problem: &EmbeddingProblem,
    places: &Places,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    if problem.tokens() == 0 {
        return Ok(None);
    }
    let tokens = count("y", problem.tokens())?;
    let channels = count("y", problem.channels())?;
    let (numbers, entry) = entry(problem, places);
    let width = channels / numbers as u32;
    let (lanes, parts) = divided(width);
    let (grouping, time) = grouping(problem);
    let stride = |place: Option<Place>| place.map_or(0, |place| place.stride as u64);
    let params = Params {
        table_stride: places.table.stride as u64,
        positions_stride: stride(places.positions),
        types_stride: stride(places.types),
        y_stride: places.y.stride as u64,
        tokens,
        width,
        lane_bits: lanes.trailing_zeros(),
        parts,
        vocabulary: count("table", problem.vocabulary())?,
        positions: count("positions", problem.positions().unwrap_or(0))?,
        types: count("types", problem.types().unwrap_or(0))?,
        first: problem.first().min(u32::MAX as usize) as u32,
        grouping,
        time: count("y", time)?,
        sequences: count("y", problem.sequences().map_or(0, |sequences| sequences.sequences()))?,
        listed: listed.into(),
        scale: problem.scale(),
        wide: (problem.parameters() == DType::F32).into(),
    };
    let blocks = u64::from(tokens.div_ceil(THREADS / lanes)) * u64::from(parts);
    Launch::new((modules::embedding(problem.dtype()), entry), blocks, THREADS, &params, limits).map(Some)
}
