//! The plan of `kernels/attention_naive_mma.cu`, f16 and bf16, and of `kernels/attention_naive.cu`, f32.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::cuda::attention::{Contents, Params, Places, lists, sectors_of_row, tiles, tiles_of};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, unit};
use crate::cuda::traffic::{SECTOR, Traffic, sectors};
use crate::gpu::{Tiles, listed};
use crate::problem::AttentionProblem;
use crate::{DType, Error, Result, Sequences};

/// The structure `NaiveAttention` of `kernels/shared/naive_attention.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct NaiveParams {
    attention: Params,
    score_stride: u64,
    score_rows: u64,
    score_unit: u32,
    unused: u32,
}

/// How the launches divide their work.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// Queries, and keys, of a tile of scores, and threads.
    scores: [usize; 2],
    score_threads: u32,
    /// Queries, and channels, of a tile of outputs.
    values: [usize; 2],
}

/// Queries of a block of the softmax, one after another.
const SOFTMAX: usize = 8;
/// Threads of a block of it, and of one of values.
const THREADS: u32 = 256;
/// Keys of a tile of values.
const KEYS: usize = 32;
/// Scores of a sector.
const SCORES: usize = SECTOR / size_of::<f32>();

fn form(dtype: DType) -> Form {
    match dtype {
        DType::F32 => Form { scores: [64; 2], score_threads: 256, values: [64; 2] },
        DType::F16 | DType::BF16 => Form { scores: [128; 2], score_threads: 128, values: [128, 64] },
    }
}

/// Tiles of scores, rows of scores, and tiles of values, each with the parts that a head is divided into.
fn all_tiles(problem: &AttentionProblem, listed: bool, longest: usize) -> Result<[(Tiles, usize); 3]> {
    let form = form(problem.dtype());
    let of = |queries, parts| Ok::<_, Error>((tiles(problem, listed, queries, parts)?, parts));
    Ok([
        of(form.scores[0], longest.div_ceil(form.scores[1]).max(1))?,
        of(SOFTMAX, 1)?,
        of(form.values[0], problem.head_channels().div_ceil(form.values[1]))?,
    ])
}

/// Numbers from one row of scores to the next: whole sectors.
pub(super) fn score_stride(longest: usize) -> usize {
    longest.next_multiple_of(SCORES)
}

pub(super) fn scratch_len(problem: &AttentionProblem, longest: usize) -> u64 {
    let sizes = [problem.heads(), problem.queries().tokens(), score_stride(longest)];
    sizes.into_iter().fold(1, |product: u64, size| product.saturating_mul(size as u64))
}

pub(super) fn plan(
    problem: &AttentionProblem,
    places: &Places,
    contents: Contents,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let module = modules::attention_naive(problem.dtype());
    let softmax = modules::attention_naive(DType::F32);
    let launches = [
        ((module, "attention_scores"), form(problem.dtype()).score_threads),
        ((softmax, "attention_softmax"), THREADS),
        ((module, "attention_values"), THREADS),
    ];
    let all = all_tiles(problem, contents.listed[0], contents.longest)?;
    let stride = score_stride(contents.longest);
    launches
        .into_iter()
        .zip(all)
        .map(|((kernel, threads), (tiles, parts))| {
            let params = NaiveParams {
                attention: Params::new(problem, places, contents, &tiles, parts)?,
                score_stride: stride as u64,
                score_rows: problem.queries().tokens() as u64,
                score_unit: unit(DType::F32, stride, &[places.scores]),
                unused: 0,
            };
            Launch::new(kernel, tiles.groups(), threads, &params, limits)
        })
        .collect()
}

/// Sectors of `count` scores that begin on one.
fn scores(count: usize) -> u64 {
    count.div_ceil(SCORES) as u64
}

/// Sectors of the scores `first` to `end` of a row, by runs of 32 from `first` on, of which those of `seen` are read.
fn runs(first: usize, end: usize, seen: &Range<usize>) -> u64 {
    let size = size_of::<f32>();
    let read = |run: usize| {
        let (from, to) = (run.max(seen.start), (run + 32).min(end).min(seen.end));
        sectors(from * size, to.saturating_sub(from) * size)
    };
    (first..end).step_by(32).map(read).sum()
}

/// What the launches of scores and of their softmax read and write, where there are keys.
pub(super) fn traffic_of_weights(
    problem: &AttentionProblem,
    queries: &Sequences,
    keys: &Sequences,
) -> Result<Traffic> {
    let longest = keys.as_slice().iter().map(|keys| keys.length).max().unwrap_or(0);
    let listed = listed(queries.shape()) || queries.continues();
    let [scoring, softmax, _] = all_tiles(problem, listed, longest)?;
    let (form, d) = (form(problem.dtype()), problem.head_channels());
    let parameters = lists(&scoring.0, queries, keys) + lists(&softmax.0, queries, keys);
    let mut all = Traffic::default();
    let width = form.scores[1];
    for tile in tiles_of(problem, &scoring.0, queries, keys) {
        for first in (tile.seen.start / width * width..tile.seen.end).step_by(width) {
            let count = (tile.keys.length - first).min(width);
            all.read += sectors_of_row(problem, d) * (tile.queries + count) as u64;
            all.written += scores(count) * tile.queries as u64;
        }
    }
    for tile in tiles_of(problem, &softmax.0, queries, keys) {
        for seen in &tile.each {
            // For the largest, for the total, and once more.
            all.read += 2 * runs(seen.start, seen.end, seen) + runs(0, tile.keys.length, seen);
            all.written += scores(tile.keys.length);
        }
    }
    let heads = problem.heads() as u64;
    Ok(Traffic { read: all.read * heads, written: all.written * heads, parameters })
}

pub(super) fn traffic(problem: &AttentionProblem, queries: &Sequences, keys: &Sequences) -> Result<Traffic> {
    let longest = keys.as_slice().iter().map(|keys| keys.length).max().unwrap_or(0);
    let listed = listed(queries.shape()) || queries.continues();
    let [_, _, values] = all_tiles(problem, listed, longest)?;
    let (form, d) = (form(problem.dtype()), problem.head_channels());
    let mut all = Traffic { parameters: lists(&values.0, queries, keys), ..Traffic::default() };
    for tile in tiles_of(problem, &values.0, queries, keys) {
        let begin = tile.seen.start / KEYS * KEYS;
        let weights: u64 = (begin..tile.seen.end)
            .step_by(KEYS)
            .map(|key| scores((tile.keys.length - key).min(KEYS)) * tile.queries as u64)
            .sum();
        for channels in (0..d).step_by(form.values[1]).map(|first| (d - first).min(form.values[1])) {
            let row = sectors_of_row(problem, channels);
            all.read += weights + row * (tile.seen.end - begin) as u64;
            all.written += row * tile.rows as u64;
        }
    }
    let heads = problem.heads() as u64;
    let weighing = Traffic { read: all.read * heads, written: all.written * heads, ..all };
    Ok(if longest > 0 { weighing + traffic_of_weights(problem, queries, keys)? } else { weighing })
}
