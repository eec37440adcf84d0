mod backward;
mod fused;
mod naive;

pub use backward::{AttentionBackward, AttentionBackwardArgs};
#[cfg(test)]
pub(crate) use backward::{BackwardPlaces, plan as plan_backward};

use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::plan::{Launch, Place, TileParams, count, unit};
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::gpu::attention::{check_lengths, check_past, reach};
use crate::gpu::{Tiles, listed, within};
use crate::problem::{AttentionKind, AttentionProblem};
use crate::{Layout, Result, Sequence, SequenceShape, Sequences, Window};

/// Attention, prepared: see [`AttentionProblem`].
#[derive(Clone, Debug)]
pub struct Attention {
    gpu: Gpu,
    problem: AttentionProblem,
    kind: AttentionKind,
}

/// What [`Attention::launch`] reads and writes.
#[derive(Debug)]
pub struct AttentionArgs<'a> {
    /// The query sequences, of the problem's shape.
    pub queries: &'a DeviceSequences,
    /// The key sequences, of the problem's shape.
    pub keys: &'a DeviceSequences,
    /// `[queries, H D]`.
    pub q: Rows<'a>,
    /// `[keys, H D]`.
    pub k: Rows<'a>,
    /// `[keys, H D]`.
    pub v: Rows<'a>,
    /// `[queries, H D]`, overwritten.
    pub y: RowsMut<'a>,
}

impl Attention {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and for more than 256
    /// channels of a head in the fused form, which has no more registers; and errors of the driver.
    pub fn new(gpu: &Gpu, problem: AttentionProblem, kind: AttentionKind) -> Result<Self> {
        let contents = Attention::contents(&problem);
        for launch in plan(&problem, kind, &Places::contiguous(&problem), contents, gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(Attention { gpu: gpu.clone(), problem, kind })
    }

    /// What is known of the sequences before a call.
    fn contents(problem: &AttentionProblem) -> Contents {
        Contents {
            listed: [listed(problem.queries()), listed(problem.keys())],
            // Of packed keys it is not known before a call how long the longest are.
            longest: match problem.keys().layout() {
                Layout::Packed => problem.keys().mean_room().ceil() as usize,
                _ => problem.keys().longest(),
            },
        }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionProblem {
        &self.problem
    }

    /// Numbers of f32 that a call with these keys needs as scratch memory: all scores of naive attention, `[H, queries,
    /// longest sequence of keys, up to a multiple of 8]`, and none of fused.
    pub fn scratch_len(&self, keys: &DeviceSequences) -> u64 {
        match self.kind {
            AttentionKind::Naive => naive::scratch_len(&self.problem, keys.longest()),
            AttentionKind::Fused => 0,
        }
    }

    /// What a call reads and writes, as its plan predicts it: rows that lie without gaps, heads that begin on a sector and
    /// are whole ones, and values that are numbers. Scores in scratch memory count as tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, queries: &Sequences, keys: &Sequences) -> Result<Traffic> {
        queries.check(self.problem.queries())?;
        keys.check(self.problem.keys())?;
        match self.kind {
            _ if self.problem.queries().tokens() == 0 => Ok(Traffic::default()),
            AttentionKind::Naive => naive::traffic(&self.problem, queries, keys),
            AttentionKind::Fused => fused::traffic(&self.problem, queries, keys),
        }
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`Attention::scratch_len`] numbers. Nothing is
    /// allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, scratch memory that
    /// is missing, and errors of the driver.
    pub fn launch(&self, args: AttentionArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let problem = &self.problem;
        let AttentionArgs { queries, keys, q, k, v, y } = args;
        problem.queries().check(queries.shape())?;
        problem.keys().check(keys.shape())?;
        check_past(problem, queries.furthest())?;
        let binder = Binder { gpu: &self.gpu };
        let [query_list, key_list] = [binder.list(queries)?, binder.list(keys)?];
        let (dtype, channels) = (problem.dtype(), problem.channels());
        let [query_rows, key_rows] =
            [problem.queries(), problem.keys()].map(|shape: SequenceShape| [shape.tokens(), channels]);
        let q = binder.rows("q", q, dtype, query_rows)?;
        let k = binder.rows("k", k, dtype, key_rows)?;
        let v = binder.rows("v", v, dtype, key_rows)?;
        let y = binder.rows_mut("y", y, dtype, query_rows)?;
        let scratch = binder.scratch(scratch, self.scratch_len(keys))?;
        let places = Places {
            q: q.place,
            k: k.place,
            v: v.place,
            y: y.place,
            scores: Place { stride: naive::score_stride(keys.longest()), ..scratch.place },
        };
        let contents = Contents { listed: [queries.is_listed(), keys.is_listed()], longest: keys.longest() };
        match plan(problem, self.kind, &places, contents, self.gpu.limits())?.as_slice() {
            [] => Ok(()),
            [fused] => binder.launch(fused, [&q, &k, &v, &query_list, &key_list, &y]),
            [scores, softmax @ .., values] => {
                // Where there is no key there are no scores.
                if keys.longest() > 0 {
                    binder.launch(scores, [&q, &k, &query_list, &key_list, &scratch])?;
                    for softmax in softmax {
                        binder.launch(softmax, [&query_list, &key_list, &scratch])?;
                    }
                }
                binder.launch(values, [&scratch, &v, &query_list, &key_list, &y])
            }
        }
    }
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) q: Place,
    pub(crate) k: Place,
    pub(crate) v: Place,
    pub(crate) y: Place,
    /// Rows of scores, of naive attention.
    pub(crate) scores: Place,
}

impl Places {
    pub(crate) fn contiguous(problem: &AttentionProblem) -> Self {
        let place = Place::contiguous(problem.channels());
        Places { q: place, k: place, v: place, y: place, scores: Place::contiguous(8) }
    }
}

/// What a plan wants to know of the sequences beside their shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    /// Whether queries, and keys, are listed.
    pub(crate) listed: [bool; 2],
    /// Keys of the longest sequence.
    pub(crate) longest: usize,
}

/// The launches: one of fused attention, three of naive, none where there is no query.
pub(crate) fn plan(
    problem: &AttentionProblem,
    kind: AttentionKind,
    places: &Places,
    contents: Contents,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    match kind {
        _ if problem.queries().tokens() == 0 => Ok(vec![]),
        AttentionKind::Naive => naive::plan(problem, places, contents, limits),
        AttentionKind::Fused => fused::plan(problem, places, contents, limits).map(|launch| vec![launch]),
    }
}

/// The structure `Attention` of `kernels/shared/attention.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    q_stride: u64,
    k_stride: u64,
    v_stride: u64,
    y_stride: u64,
    tiles: TileParams,
    keys_time: u32,
    keys_listed: u32,
    head_channels: u32,
    /// Bits of an f32.
    scale: u32,
    left: u32,
    right: u32,
    parts: u32,
    q_unit: u32,
    k_unit: u32,
    v_unit: u32,
    y_unit: u32,
    alignment: u32,
}

/// Tiles of so many queries of a head, each divided into parts.
fn tiles(problem: &AttentionProblem, listed: bool, queries: usize, parts: usize) -> Result<Tiles> {
    check_lengths(problem)?;
    // Kernels count rows in 32 bits.
    within("tokens of", "the call", problem.keys().tokens() as u64, u32::MAX.into())?;
    let columns = problem.heads().saturating_mul(parts);
    // A tile of queries is that of a convolution of one tap.
    Tiles::of(problem.queries(), Window::causal(1)?, listed, [1, queries], columns)
}

impl Params {
    fn new(
        problem: &AttentionProblem,
        places: &Places,
        contents: Contents,
        tiles: &Tiles,
        parts: usize,
    ) -> Result<Self> {
        let (dtype, mask, d) = (problem.dtype(), problem.mask(), problem.head_channels());
        let keys_time = match problem.keys().layout() {
            Layout::Batch { time } | Layout::Padded { time } => time,
            Layout::Packed => 0,
        };
        let scale = (f64::from(problem.scale()) * std::f64::consts::LOG2_E) as f32;
        // Finite: a score of zero stays so.
        let scale = scale.clamp(-f32::MAX, f32::MAX);
        // A unit is of one head.
        let unit = |place: Place| unit(dtype, d, &[place]);
        count("q", problem.channels())?;
        Ok(Params {
            q_stride: places.q.stride as u64,
            k_stride: places.k.stride as u64,
            v_stride: places.v.stride as u64,
            y_stride: places.y.stride as u64,
            tiles: TileParams::new(tiles)?,
            keys_time: count("k", keys_time)?,
            keys_listed: contents.listed[1].into(),
            head_channels: count("q", d)?,
            scale: scale.to_bits(),
            left: reach(mask.left()) as u32,
            right: reach(mask.right()) as u32,
            parts: count("q", parts)?,
            q_unit: unit(places.q),
            k_unit: unit(places.k),
            v_unit: unit(places.v),
            y_unit: unit(places.y),
            alignment: problem.alignment_number(false),
        })
    }
}

/// Queries that a block works on, of one head, and what they see.
#[derive(Clone, Debug)]
struct Tile {
    /// Rows, padding included, and queries.
    rows: usize,
    queries: usize,
    keys: Sequence,
    /// From the first key that any of the queries sees to the last.
    seen: std::ops::Range<usize>,
    /// What each query sees.
    each: Vec<std::ops::Range<usize>>,
}

/// The tiles that hold a row of a sequence.
fn tiles_of(problem: &AttentionProblem, tiles: &Tiles, queries: &Sequences, keys: &Sequences) -> Vec<Tile> {
    let mut all = vec![];
    for (&sequence, &keys) in queries.as_slice().iter().zip(keys.as_slice()) {
        for start in (0..sequence.length + sequence.padding).step_by(tiles.span) {
            let end = start + tiles.span;
            let each: Vec<_> =
                (start..end.min(sequence.length)).map(|t| problem.seen(sequence, keys, t)).collect();
            let seen = match (each.first(), each.last()) {
                (Some(first), Some(last)) if first.start < last.end => first.start..last.end,
                _ => 0..0,
            };
            let rows = end.min(sequence.length + sequence.padding) - start;
            all.push(Tile { rows, queries: each.len(), keys, seen, each });
        }
    }
    all
}

/// Sectors of a head's part of a row.
fn sectors_of_row(problem: &AttentionProblem, channels: usize) -> u64 {
    (channels * problem.dtype().size()).div_ceil(SECTOR) as u64
}

/// Sectors that the blocks read of the lists.
fn lists(tiles: &Tiles, queries: &Sequences, keys: &Sequences) -> u64 {
    let keys = if listed(keys.shape()) || keys.continues() { tiles.groups() } else { 0 };
    crate::cuda::traffic::list(tiles, queries) + keys
}
