use ::wgpu::Buffer;

use crate::gpu::{STEPS, Tiles, listed, within};
use crate::problem::{AttentionKind, AttentionProblem};
use crate::wgpu::call::{Binder, Call, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, parameters, tile_parameters};
use crate::wgpu::product::Blocks;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};
use crate::{DType, Layout, Result, SequenceShape, Window};

/// Attention, prepared: see [`AttentionProblem`].
#[derive(Clone, Debug)]
pub struct Attention {
    gpu: Gpu,
    problem: AttentionProblem,
    kind: AttentionKind,
}

/// What [`Attention::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
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
    pub y: Rows<'a>,
}

impl Attention {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: AttentionProblem, kind: AttentionKind) -> Result<Self> {
        let (channels, dtype) = (problem.channels(), problem.dtype());
        gpu.limits().check_tensors(&[
            ("q", &[problem.queries().tokens(), channels], dtype),
            ("k", &[problem.keys().tokens(), channels], dtype),
        ])?;
        let places = AttentionPlaces::contiguous(&problem);
        let contents = Contents {
            listed: [listed(problem.queries()), listed(problem.keys())],
            // Of packed keys it is not known before a call how long the longest are.
            longest: match problem.keys().layout() {
                Layout::Packed => problem.keys().mean_room().ceil() as usize,
                _ => problem.keys().longest(),
            },
        };
        for launch in plan(&problem, kind, &places, contents, gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(Attention { gpu: gpu.clone(), problem, kind })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call with these keys needs: all scores of naive attention,
    /// `[H, queries, longest sequence of keys]`, and none of fused.
    pub fn scratch_len(&self, keys: &DeviceSequences) -> u64 {
        match self.kind {
            AttentionKind::Naive => score_count(&self.problem, keys.longest()),
            AttentionKind::Fused => 0,
        }
    }

    /// A call on these buffers, with `scratch` of at least [`Attention::scratch_len`] numbers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, too little scratch, and errors of the driver.
    pub fn bind(&self, args: AttentionArgs<'_>, scratch: Option<&Buffer>) -> Result<Call> {
        let problem = &self.problem;
        let AttentionArgs { queries, keys, q, k, v, y } = args;
        queries.check(&self.gpu, problem.queries())?;
        keys.check(&self.gpu, problem.keys())?;
        let binder = Binder { gpu: &self.gpu };
        let (dtype, channels) = (problem.dtype(), problem.channels());
        let rows = |name, rows, sequences: SequenceShape| {
            binder.rows(name, rows, dtype, sequences.tokens(), channels)
        };
        let scratch_len = self.scratch_len(keys);
        self.gpu.limits().check_binding("scratch", scratch_len.saturating_mul(4))?;
        let scratch = binder.scratch(scratch, scratch_len)?;
        let (q, y) = (rows("q", q, problem.queries())?, rows("y", y, problem.queries())?);
        let (k, v) = (rows("k", k, problem.keys())?, rows("v", v, problem.keys())?);
        let places = AttentionPlaces { q: q.place, k: k.place, v: v.place, y: y.place };
        let contents = Contents { listed: [queries.listed(), keys.listed()], longest: keys.longest() };
        let [queries, keys] = [queries, keys].map(|list| binder.whole("sequences", list.list()));
        let mut call = Call::empty();
        match plan(problem, self.kind, &places, contents, self.gpu.limits())?.as_slice() {
            [] => {}
            [fused] => call.push(&self.gpu, fused, y, &[queries, keys, q, k, v])?,
            [scores, softmax, values, ..] => {
                // Where there is no key there are no scores.
                if scratch_len > 0 {
                    call.push(&self.gpu, scores, scratch, &[queries, keys, q, k])?;
                    call.push(&self.gpu, softmax, scratch, &[queries, keys])?;
                }
                call.push(&self.gpu, values, y, &[queries, keys, scratch, v])?;
            }
            [_, _] => unreachable!("attention is one dispatch or three"),
        }
        Ok(call)
    }
}

fn score_count(problem: &AttentionProblem, longest: usize) -> u64 {
    let sizes = [problem.heads(), problem.queries().tokens(), longest];
    sizes.into_iter().fold(1, |product: u64, size| product.saturating_mul(size as u64))
}

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionPlaces {
    pub(crate) q: Place,
    pub(crate) k: Place,
    pub(crate) v: Place,
    pub(crate) y: Place,
}

impl AttentionPlaces {
    pub(crate) fn contiguous(problem: &AttentionProblem) -> Self {
        let place = Place::contiguous(problem.channels());
        AttentionPlaces { q: place, k: place, v: place, y: place }
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

/// Queries of a tile of the fused kernel.
const QUERIES: usize = 64;
/// Channels of a block of the fused kernel; a workgroup has one or two.
const CHANNELS: usize = 64;

/// The dispatches: one of fused attention, three of naive, none where there is no query.
pub(crate) fn plan(
    problem: &AttentionProblem,
    kind: AttentionKind,
    places: &AttentionPlaces,
    contents: Contents,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let (heads, d) = (problem.heads(), problem.head_channels());
    let AttentionPlaces { q, k, v, y } = *places;
    if problem.queries().tokens() == 0 {
        return Ok(vec![]);
    }
    for (what, shape) in
        [("queries of a sequence of", problem.queries()), ("keys of a sequence of", problem.keys())]
    {
        within(what, "the call", shape.longest() as u64, FAR as u64 - 1)?;
    }
    // A tile of queries is that of a convolution of one tap.
    let tiles = |outputs, columns| {
        Tiles::new(problem.queries(), Window::causal(1)?, contents.listed[0], outputs, columns)
    };
    let all = |tiles: &Tiles, q: (usize, usize), y: (usize, usize), parts, blocks: Blocks| {
        let mut all = tile_parameters(tiles)?;
        let mask = problem.mask();
        let far = |side: Option<usize>| side.map_or(FAR, |tokens| tokens.min(FAR));
        let keys_time = match problem.keys().layout() {
            Layout::Batch { time } | Layout::Padded { time } => time,
            Layout::Packed => 0,
        };
        all.extend(parameters(&[
            ("keys_time", keys_time),
            ("keys_listed", usize::from(contents.listed[1])),
            ("head_channels", d),
            ("scale", problem.scale().to_bits() as usize),
            ("left", far(mask.left())),
            ("right", far(mask.right())),
            ("parts", parts),
            ("queries_offset", q.0),
            ("queries_stride", q.1),
            ("keys_offset", k.offset),
            ("keys_stride", k.stride),
            ("values_offset", v.offset),
            ("values_stride", v.stride),
            ("y_offset", y.0),
            ("y_stride", y.1),
            ("score_stride", contents.longest.max(1)),
            ("score_rows", problem.queries().tokens()),
            ("row_groups", blocks.rows),
            ("column_groups", blocks.columns),
            ("unused", 0),
        ])?);
        Ok::<_, crate::Error>(all)
    };
    let lies = |place: Place| (place.offset, place.stride);
    let scores_paired = d.is_multiple_of(2) && q.whole_words() && k.whole_words();
    let values_paired = d.is_multiple_of(2) && v.whole_words();
    let whole_words = d.is_multiple_of(2) && y.whole_words();
    match kind {
        AttentionKind::Fused => {
            let blocks = if d <= CHANNELS { 1 } else { 2 };
            let parts = d.div_ceil(blocks * CHANNELS);
            let tiles = tiles(QUERIES, heads * parts)?;
            let none = Blocks { row_quads: 1, rows: 0, columns: 0 };
            let kernel = fused_kernel(problem.dtype(), scores_paired && values_paired, whole_words, blocks);
            Ok(vec![Launch::new(
                kernel,
                tiles.groups(),
                all(&tiles, lies(q), lies(y), parts, none)?,
                limits,
            )?])
        }
        AttentionKind::Naive => {
            let longest = contents.longest.max(1);
            within("scores of", "naive attention", score_count(problem, longest), u32::MAX.into())?;
            let product = |columns: usize| {
                let blocks = Blocks::new(1, tiles(QUERIES, 1)?.outputs(), columns);
                let parts = columns.div_ceil(blocks.tile_columns());
                Ok::<_, crate::Error>((blocks, parts, tiles(QUERIES, heads * parts)?))
            };
            let scores = {
                let (blocks, parts, tiles) = product(longest)?;
                let all = all(&tiles, lies(q), (0, 0), parts, blocks)?;
                Launch::new(scores_kernel(problem.dtype(), scores_paired), tiles.groups(), all, limits)?
            };
            let softmax = {
                let tiles = tiles(STEPS, heads)?;
                let none = Blocks { row_quads: 1, rows: 0, columns: 0 };
                Launch::new(softmax_kernel(), tiles.groups(), all(&tiles, (0, 0), (0, 0), 1, none)?, limits)?
            };
            let values = {
                let (blocks, parts, tiles) = product(d)?;
                let all = all(&tiles, (0, 0), lies(y), parts, blocks)?;
                Launch::new(
                    values_kernel(problem.dtype(), values_paired, whole_words),
                    tiles.groups(),
                    all,
                    limits,
                )?
            };
            Ok(vec![scores, softmax, values])
        }
    }
}

/// As far as any sequence goes.
const FAR: usize = 1 << 30;

fn kernel(
    name: &'static str,
    files: &[File],
    dtype: DType,
    y: DType,
    paired: bool,
    more: &[(&'static str, u32)],
    inputs: u32,
) -> Kernel {
    let first = [File::Element, File::Tiles, File::Attention];
    let constants = [
        ("X", code(dtype)),
        ("Y", code(y)),
        ("PAIRED", u32::from(paired && dtype != DType::F32)),
        ("ROW_QUADS", 1),
        ("COLUMN_QUADS", 1),
    ];
    Kernel {
        name,
        workgroup: WORKGROUP,
        files: first.iter().chain(files).copied().collect(),
        constants: constants.iter().chain(more).copied().collect(),
        inputs,
    }
}

/// What makes scores.
const SCORES: [File; 7] = [
    File::StoreQuad,
    File::Memory,
    File::Blocks,
    File::Product,
    File::StageRows,
    File::StageColumns,
    File::StageScores,
];

fn fused_kernel(dtype: DType, paired: bool, whole_words: bool, blocks: usize) -> Kernel {
    let files =
        [&[store(dtype, whole_words), File::StageValues][..], &SCORES, &[File::AttentionFused]].concat();
    let more = [("BLOCKS", blocks as u32), ("WEIGHTED", 8 * blocks as u32), ("VALUE_QUADS", 2)];
    Kernel { workgroup: 128, ..kernel("attention", &files, dtype, dtype, paired, &more, 5) }
}

fn scores_kernel(dtype: DType, paired: bool) -> Kernel {
    let files = [&[File::StoreWords][..], &SCORES, &[File::AttentionNaiveScores]].concat();
    kernel("attention", &files, dtype, DType::F32, paired, &[], 4)
}

fn softmax_kernel() -> Kernel {
    let files = [File::StoreWords, File::AttentionNaiveSoftmax];
    kernel("attention", &files, DType::F32, DType::F32, false, &[], 2)
}

fn values_kernel(dtype: DType, paired: bool, whole_words: bool) -> Kernel {
    let product = [File::StoreQuad, File::Memory, File::Blocks, File::StageRows, File::StageValues];
    let files = [&[store(dtype, whole_words)][..], &product, &[File::AttentionNaiveValues]].concat();
    kernel("attention", &files, dtype, dtype, paired, &[("WEIGHTED", 4), ("VALUE_QUADS", 1)], 4)
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![softmax_kernel()];
    for dtype in DType::ALL {
        for bits in 0..8 {
            let (paired, whole_words, blocks) = (bits & 1 == 1, bits & 2 == 2, 1 + (bits >> 2));
            let kernels = [
                fused_kernel(dtype, paired, whole_words, blocks),
                scores_kernel(dtype, paired),
                values_kernel(dtype, paired, whole_words),
            ];
            for kernel in kernels {
                if !all.contains(&kernel) {
                    all.push(kernel);
                }
            }
        }
    }
    all
}
