//! The plan of `kernels/attention_mma.cu`, f16 and bf16, and of `kernels/attention.cu`, f32.

use crate::cuda::attention::{Contents, Params, Places, lists, sectors_of_row, tiles, tiles_of};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::Launch;
use crate::cuda::traffic::Traffic;
use crate::gpu::{listed, within};
use crate::problem::AttentionProblem;
use crate::{DType, Result, Sequences};

/// A kernel of the module of a type.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    entry: &'static str,
    /// Channels of a head at most.
    width: usize,
    /// Queries of a tile.
    queries: usize,
    threads: u32,
}

const MATRICES: [Kernel; 3] = [
    Kernel { entry: "attention_64", width: 64, queries: 128, threads: 256 },
    Kernel { entry: "attention_128", width: 128, queries: 128, threads: 256 },
    Kernel { entry: "attention_256", width: 256, queries: 64, threads: 128 },
];

const MULTIPLY_ADDS: [Kernel; 3] = [
    Kernel { entry: "attention_64", width: 64, queries: 64, threads: 256 },
    Kernel { entry: "attention_128", width: 128, queries: 64, threads: 256 },
    Kernel { entry: "attention_256", width: 256, queries: 64, threads: 256 },
];

/// Keys of a tile in f32: their queries are read anew for each.
const KEYS: usize = 64;

/// Channels of a head that it takes.
pub(super) const MOST_CHANNELS: usize = 256;

fn kernel(problem: &AttentionProblem) -> Result<Kernel> {
    let [small, medium, large] = match problem.dtype() {
        DType::F32 => MULTIPLY_ADDS,
        DType::F16 | DType::BF16 => MATRICES,
    };
    let d = problem.head_channels();
    within("channels of a head of", "fused attention", d as u64, MOST_CHANNELS as u64)?;
    Ok([small, medium].into_iter().find(|kernel| d <= kernel.width).unwrap_or(large))
}

pub(super) fn plan(
    problem: &AttentionProblem,
    places: &Places,
    contents: Contents,
    limits: &Limits,
) -> Result<Launch> {
    let kernel = kernel(problem)?;
    let tiles = tiles(problem, contents.listed[0], kernel.queries, 1)?;
    let params = Params::new(problem, places, contents, &tiles, 1)?;
    let module = modules::attention(problem.dtype());
    Launch::new((module, kernel.entry), tiles.groups(), kernel.threads, &params, limits)
}

/// Queries and outputs once (in f32, queries once a tile of keys), and for each tile of queries the keys and values that it
/// sees.
pub(super) fn traffic(problem: &AttentionProblem, queries: &Sequences, keys: &Sequences) -> Result<Traffic> {
    let kernel = kernel(problem)?;
    let tiles = tiles(problem, listed(queries.shape()) || queries.continues(), kernel.queries, 1)?;
    let row = sectors_of_row(problem, problem.head_channels()) * problem.heads() as u64;
    let mut all = Traffic { parameters: lists(&tiles, queries, keys), ..Traffic::default() };
    for tile in tiles_of(problem, &tiles, queries, keys) {
        let reads = match problem.dtype() {
            DType::F32 => tile.seen.len().div_ceil(KEYS),
            DType::F16 | DType::BF16 => 1,
        };
        all.read += row * (reads * tile.queries + 2 * tile.seen.len()) as u64;
        all.written += row * tile.rows as u64;
    }
    Ok(all)
}
