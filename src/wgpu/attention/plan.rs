//! What attention launches.

use crate::gpu::attention::{check_lengths, reach};
use crate::gpu::{STEPS, Tiles, listed, within};
use crate::problem::{AttentionKind, AttentionProblem};
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Parameter, Place, parameters, tile_parameters};
use crate::wgpu::product::Blocks;
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};
use crate::{DType, Layout, Result, SequenceShape, Window};

/// Scores of all heads: numbers of scratch memory of naive attention.
pub(super) fn score_count(problem: &AttentionProblem, longest: usize) -> u64 {
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

impl Contents {
    /// Of sequences of a shape, as far as it says.
    pub(crate) fn expected(problem: &AttentionProblem) -> Self {
        Contents {
            listed: [listed(problem.queries()), listed(problem.keys())],
            // Of packed keys it is not known before a call how long the longest are.
            longest: match problem.keys().layout() {
                Layout::Packed => problem.keys().mean_room().ceil() as usize,
                _ => problem.keys().longest(),
            },
        }
    }
}

/// Which tokens the tiles of a kernel are of. It calls them queries, and those that they meet keys: where the tiles are of
/// keys, as for the gradients of k and v, a key sees the queries that see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TilesOf {
    Queries,
    Keys,
}

/// Where the tensors of a launch lie, as its kernel names them: the operands of the first product, those of the weighted sum,
/// those of the second product, and the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lies {
    pub(super) queries: Place,
    pub(super) keys: Place,
    pub(super) values: Place,
    pub(super) other_queries: Place,
    pub(super) other_keys: Place,
    pub(super) y: Place,
}

impl Lies {
    /// Nothing anywhere.
    pub(super) const NONE: Lies = {
        let place = Place { offset: 0, stride: 0 };
        Lies { queries: place, keys: place, values: place, other_queries: place, other_keys: place, y: place }
    };
}

/// Parts that a head is divided into, and the blocks of a product in its tiles, where those are not always the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) parts: usize,
    pub(super) blocks: Option<Blocks>,
}

impl Parts {
    pub(super) const ONE: Parts = Parts { parts: 1, blocks: None };

    /// Parts of so many channels.
    pub(super) fn of(parts: usize) -> Self {
        Parts { parts, blocks: None }
    }
}

/// Queries of a tile of the fused kernels.
pub(super) const QUERIES: usize = 64;
/// Channels of a block of the fused kernels; a workgroup has one or two.
pub(super) const CHANNELS: usize = 64;

/// The launches of a call, as far as its kernels do not tell them apart.
#[derive(Clone, Copy)]
pub(super) struct Planner<'a> {
    pub(super) problem: &'a AttentionProblem,
    pub(super) contents: Contents,
    pub(super) limits: &'a Limits,
}

impl Planner<'_> {
    /// An error where the scores of naive attention could not be counted.
    pub(super) fn check_scores(&self) -> Result<()> {
        let scores = score_count(self.problem, self.contents.longest.max(1));
        within("scores of", "naive attention", scores, u32::MAX.into())
    }

    fn sides(&self, of: TilesOf) -> [(SequenceShape, bool); 2] {
        let (problem, [queries, keys]) = (self.problem, self.contents.listed);
        let mut sides = [(problem.queries(), queries), (problem.keys(), keys)];
        if of == TilesOf::Keys {
            sides.reverse();
        }
        sides
    }

    /// Tiles of at most `outputs` tokens: those of a convolution of one tap.
    fn tiles(&self, of: TilesOf, outputs: usize, columns: usize) -> Result<Tiles> {
        let [(shape, listed), _] = self.sides(of);
        Tiles::new(shape, Window::causal(1)?, listed, outputs, columns)
    }

    /// The blocks of a product of a tile and so many columns, and the parts that these are divided into.
    pub(super) fn product(&self, of: TilesOf, columns: usize) -> Result<Parts> {
        let blocks = Blocks::new(1, self.tiles(of, QUERIES, 1)?.outputs(), columns);
        Ok(Parts { parts: columns.div_ceil(blocks.tile_columns()), blocks: Some(blocks) })
    }

    /// One launch, whose tiles have at most `outputs` tokens.
    pub(super) fn launch(
        &self,
        kernel: Kernel,
        of: TilesOf,
        outputs: usize,
        parts: Parts,
        lies: Lies,
    ) -> Result<Launch> {
        let (problem, mask) = (self.problem, self.problem.mask());
        let tiles = self.tiles(of, outputs, problem.heads() * parts.parts)?;
        let (mut left, mut right) = (reach(mask.left()), reach(mask.right()));
        if of == TilesOf::Keys {
            std::mem::swap(&mut left, &mut right);
        }
        let [_, (others, others_listed)] = self.sides(of);
        let time = match others.layout() {
            Layout::Batch { time } | Layout::Padded { time } => time,
            Layout::Packed => 0,
        };
        let (rows, columns) = parts.blocks.map_or((0, 0), |blocks| (blocks.rows, blocks.columns));
        let mut all: Vec<Parameter> = tile_parameters(&tiles)?;
        all.extend(parameters(&[
            ("keys_time", time),
            ("keys_listed", usize::from(others_listed)),
            ("head_channels", problem.head_channels()),
            ("scale", problem.scale().to_bits() as usize),
            ("left", left),
            ("right", right),
            ("parts", parts.parts),
            ("queries_offset", lies.queries.offset),
            ("queries_stride", lies.queries.stride),
            ("keys_offset", lies.keys.offset),
            ("keys_stride", lies.keys.stride),
            ("values_offset", lies.values.offset),
            ("values_stride", lies.values.stride),
            ("y_offset", lies.y.offset),
            ("y_stride", lies.y.stride),
            ("score_stride", self.contents.longest.max(1)),
            ("score_rows", problem.queries().tokens()),
            ("row_groups", rows),
            ("column_groups", columns),
            ("other_queries_offset", lies.other_queries.offset),
            ("other_queries_stride", lies.other_queries.stride),
            ("other_keys_offset", lies.other_keys.offset),
            ("other_keys_stride", lies.other_keys.stride),
            ("alignment", problem.alignment_number(of == TilesOf::Keys) as usize),
        ])?);
        Launch::new(kernel, tiles.groups(), all, self.limits)
    }

    /// Whether pairs of channels of all these tensors fill whole words.
    pub(super) fn paired(&self, places: &[Place]) -> bool {
        self.problem.head_channels().is_multiple_of(2) && places.iter().all(|place| place.whole_words())
    }

    /// The first two dispatches of naive attention: scores, and weights in their place.
    pub(super) fn weights(&self, q: Place, k: Place) -> Result<[Launch; 2]> {
        let of = TilesOf::Queries;
        let scores = scores_kernel(self.problem.dtype(), self.paired(&[q, k]));
        let parts = self.product(of, self.contents.longest.max(1))?;
        let lies = Lies { queries: q, keys: k, ..Lies::NONE };
        Ok([
            self.launch(scores, of, QUERIES, parts, lies)?,
            self.launch(softmax_kernel(), of, STEPS, Parts::ONE, Lies::NONE)?,
        ])
    }

    /// The last dispatch of naive attention, or one like it: y, of the tiles' tokens, from `values`, those of the others,
    /// by the weights in scratch memory.
    pub(super) fn weighted(&self, of: TilesOf, values: Place, y: Place) -> Result<Launch> {
        let kernel = values_kernel(self.problem.dtype(), self.paired(&[values]), self.paired(&[y]), of);
        let parts = self.product(of, self.problem.head_channels())?;
        self.launch(kernel, of, QUERIES, parts, Lies { values, y, ..Lies::NONE })
    }
}

/// Blocks of channels of a workgroup of the fused kernels, and parts of a head.
pub(super) fn fused_parts(head_channels: usize) -> (usize, Parts) {
    let blocks = if head_channels <= CHANNELS { 1 } else { 2 };
    (blocks, Parts::of(head_channels.div_ceil(blocks * CHANNELS)))
}

/// The dispatches: one of fused attention, three of naive, none where there is no query.
pub(crate) fn plan(
    problem: &AttentionProblem,
    kind: AttentionKind,
    places: &AttentionPlaces,
    contents: Contents,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let AttentionPlaces { q, k, v, y } = *places;
    if problem.queries().tokens() == 0 {
        return Ok(vec![]);
    }
    let planner = Planner { problem, contents, limits };
    check_lengths(problem)?;
    match kind {
        AttentionKind::Fused => {
            let (blocks, parts) = fused_parts(problem.head_channels());
            let (paired, whole_words) = (planner.paired(&[q, k, v]), planner.paired(&[y]));
            let kernel = fused_kernel(problem.dtype(), paired, whole_words, blocks);
            let lies = Lies { queries: q, keys: k, values: v, y, ..Lies::NONE };
            Ok(vec![planner.launch(kernel, TilesOf::Queries, QUERIES, parts, lies)?])
        }
        AttentionKind::Naive => {
            planner.check_scores()?;
            let mut launches = planner.weights(q, k)?.to_vec();
            launches.push(planner.weighted(TilesOf::Queries, v, y)?);
            Ok(launches)
        }
    }
}

pub(super) fn kernel(
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

/// What makes scores, besides where their operands lie.
pub(super) const SCORES: [File; 7] = [
    File::StoreQuad,
    File::Memory,
    File::Blocks,
    File::Product,
    File::StageRows,
    File::StageColumns,
    File::StageScores,
];

fn fused_kernel(dtype: DType, paired: bool, whole_words: bool, blocks: usize) -> Kernel {
    let files = [
        &[store(dtype, whole_words), File::AttentionOperands, File::StageValues][..],
        &SCORES,
        &[File::AttentionFused],
    ]
    .concat();
    let more = [("BLOCKS", blocks as u32), ("WEIGHTED", 8 * blocks as u32), ("VALUE_QUADS", 2)];
    Kernel { workgroup: 128, ..kernel("attention", &files, dtype, dtype, paired, &more, 5) }
}

fn scores_kernel(dtype: DType, paired: bool) -> Kernel {
    let files =
        [&[File::StoreWords, File::AttentionOperands][..], &SCORES, &[File::AttentionNaiveScores]].concat();
    kernel("attention", &files, dtype, DType::F32, paired, &[], 4)
}

fn softmax_kernel() -> Kernel {
    let files = [File::StoreWords, File::AttentionNaiveSoftmax];
    kernel("attention", &files, DType::F32, DType::F32, false, &[], 2)
}

fn values_kernel(dtype: DType, paired: bool, whole_words: bool, of: TilesOf) -> Kernel {
    let product = [File::StoreQuad, File::Memory, File::Blocks, File::StageRows, File::StageValues];
    let files = [&[store(dtype, whole_words)][..], &product, &[File::AttentionNaiveValues]].concat();
    let transposed = u32::from(of == TilesOf::Keys);
    let more = [("WEIGHTED", 4), ("VALUE_QUADS", 1), ("TRANSPOSED", transposed)];
    kernel("attention", &files, dtype, dtype, paired, &more, 4)
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = super::gradients::kernels();
    all.push(softmax_kernel());
    for dtype in DType::ALL {
        for bits in 0..8 {
            let (paired, whole_words, blocks) = (bits & 1 == 1, bits & 2 == 2, 1 + (bits >> 2));
            let kernels = [
                fused_kernel(dtype, paired, whole_words, blocks),
                scores_kernel(dtype, paired),
                values_kernel(dtype, paired, whole_words, TilesOf::Queries),
                values_kernel(dtype, paired, whole_words, TilesOf::Keys),
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
