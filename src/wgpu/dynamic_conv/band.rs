//! What the backward passes launch on each token's taps: the statistics of their softmax, and the band of dy x^T that the
//! gradient of their logits is made of.

use crate::gpu::{STEPS, Tiles, window};
use crate::problem::Convolution;
use crate::wgpu::dynamic_conv::plan::{Logits, logit_parameters, longest};
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Parameter, Place, Tokens, dropout_parameters, parameters, tile_parameters};
use crate::wgpu::shader::{File, Kernel, MEMORY, WORKGROUP, code, store};
use crate::{DType, Result};

/// Numbers of the statistics of every token's and head's softmax.
pub(crate) fn statistics_len(conv: &Convolution) -> u64 {
    (conv.sequences().tokens() as u64).saturating_mul(2 * conv.heads() as u64)
}

/// The launch that makes the statistics.
pub(crate) fn plan_statistics(
    conv: &Convolution,
    logits: Logits,
    offset: usize,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    let all = conv.window().width().div_ceil(4);
    // As many rows as there is memory for, of whole tokens where it can be.
    let rows = (MEMORY / all).clamp(STEPS, WORKGROUP);
    let heads = (rows / STEPS).min(conv.heads());
    let outputs = (rows / heads / STEPS * STEPS).min(longest(conv));
    let columns = conv.heads().div_ceil(heads);
    let tiles = Tiles::new(conv.sequences(), window(conv), listed, outputs, columns)?;
    let tokens = Tokens::contiguous(conv.channels(), conv.channels());
    let mut all_parameters = tile_parameters(&tiles)?;
    all_parameters.extend(tokens.parameters(conv, false)?);
    all_parameters.extend(dropout_parameters(conv, 0));
    all_parameters.extend(logit_parameters(conv, (logits.offset, logits.stride), heads)?);
    all_parameters.extend(parameters(&[
        ("quads", all.min(MEMORY / (heads * outputs))),
        ("y_offset", offset),
        ("unused_1", 0),
        ("unused_2", 0),
    ])?);
    Launch::new(statistics_kernel(logits.dtype).with_dropout(false), tiles.groups(), all_parameters, limits)
}

fn statistics_kernel(source: DType) -> Kernel {
    let files = [File::Element, File::LaneOne, File::StoreWords, File::Tiles, File::Window, File::Memory];
    let taps = [File::Dropout, File::Taps, File::Logits, File::GivenTaps];
    Kernel {
        name: "softmax_statistics",
        workgroup: WORKGROUP,
        files: files.into_iter().chain(taps).chain([File::DynamicConvBackwardStatistics]).collect(),
        constants: vec![
            ("X", code(DType::F32)),
            ("Y", code(DType::F32)),
            ("S", code(source)),
            ("GENERATED", 0),
        ],
        inputs: 4,
    }
}

/// What the band is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Band<'a> {
    pub(crate) conv: &'a Convolution,
    pub(crate) logits: Logits,
    pub(crate) x: Place,
    pub(crate) dy: Place,
    /// Offset of the statistics of the softmax.
    pub(crate) statistics: usize,
    pub(crate) seed: u64,
    pub(crate) listed: bool,
}

/// How a workgroup divides a tile of the band.
struct BandTile {
    tiles: Tiles,
    heads: usize,
    /// Quads of taps of a pass.
    quads: usize,
    /// Channels of a stage.
    depth: usize,
}

impl Band<'_> {
    /// The tile; `columns` of heads where each has tiles of its own.
    fn tile(&self, own_tiles: bool) -> Result<BandTile> {
        /// Groups of tokens of a tile.
        const GROUPS: usize = 8;
        let conv = self.conv;
        let quads = conv.window().width().div_ceil(4).min(WORKGROUP);
        let outputs = ((WORKGROUP / quads).min(GROUPS) * STEPS).min(longest(conv));
        let tiles = |columns| Tiles::new(conv.sequences(), window(conv), self.listed, outputs, columns);
        let one = tiles(1)?;
        let groups = one.outputs() / STEPS;
        // The quads of a channel in a stage: see `channel_stride` of the kernel.
        let stride = (one.outputs() / 4 + one.phases * (one.steps / 4 + quads)) | 1;
        let heads = (WORKGROUP / (groups * quads)).min(MEMORY / stride).min(conv.heads());
        let depth = (MEMORY / (heads * stride)).min(conv.head_channels());
        let tiles = if own_tiles { tiles(conv.heads().div_ceil(heads))? } else { one };
        Ok(BandTile { tiles, heads, quads, depth })
    }

    fn parameters(&self, tile: &BandTile, y: Place, parts: Parts, offset: usize) -> Result<Vec<Parameter>> {
        let Band { conv, logits, x, dy, statistics, seed, .. } = *self;
        let tokens = Tokens { x, y, history: 0, bias: 0 };
        let mut all = tile_parameters(&tile.tiles)?;
        all.extend(tokens.parameters(conv, false)?);
        all.extend(dropout_parameters(conv, seed));
        all.extend(logit_parameters(conv, (logits.offset, logits.stride), tile.heads)?);
        all.extend(parts.parameters(dy)?);
        all.extend(parameters(&[
            ("quads", tile.quads),
            ("row_groups", tile.tiles.outputs() / STEPS),
            ("depth", tile.depth),
            ("head_columns", conv.heads().div_ceil(tile.heads)),
            ("part_offset", offset),
            ("statistics_offset", statistics),
            ("unused_1", 0),
            ("unused_2", 0),
        ])?);
        Ok(all)
    }

    /// The launch that writes the gradient of the logits, of type `dtype`.
    pub(crate) fn plan_rows(&self, y: Place, dtype: DType, limits: &Limits) -> Result<Launch> {
        let tile = self.tile(true)?;
        let all = self.parameters(&tile, y, Parts { parts: 1, tiles: 1 }, 0)?;
        let whole_words = y.whole_words() && self.conv.window().width().is_multiple_of(2);
        let files = [store(dtype, whole_words), File::StoreQuad, File::DynamicConvBackwardRows];
        let kernel = band_kernel((self.conv.dtype(), self.logits.dtype, dtype), &files);
        Launch::new(kernel.with_dropout(self.conv.dropout().is_some()), tile.tiles.groups(), all, limits)
    }

    /// The parts that the edges of a light convolution are summed in.
    pub(crate) fn parts(&self) -> Result<Parts> {
        /// Tiles of a part: no invocation loops so long that a device gives up on it.
        const MOST: usize = 8;
        let tile = self.tile(false)?;
        let conv = self.conv;
        let numbers = conv.heads() * conv.window().width();
        Ok(Parts::new(tile.tiles.groups, conv.heads().div_ceil(tile.heads), MOST, numbers))
    }

    /// The launch that sums the gradient of the logits at the edges, `[parts, H, K]` from `offset` on.
    pub(crate) fn plan_sums(&self, offset: usize, limits: &Limits) -> Result<Launch> {
        let (tile, parts) = (self.tile(false)?, self.parts()?);
        let all = self.parameters(&tile, Place::contiguous(0), parts, offset)?;
        let files = [File::StoreWords, File::DynamicConvBackwardSums];
        let kernel = band_kernel((self.conv.dtype(), self.logits.dtype, DType::F32), &files);
        let groups = parts.parts as u64 * self.conv.heads().div_ceil(tile.heads) as u64;
        Launch::new(kernel.with_dropout(self.conv.dropout().is_some()), groups, all, limits)
    }
}

/// Types of x and dy, of the logits, and of what is written.
fn band_kernel((dtype, source, y): (DType, DType, DType), rows: &[File]) -> Kernel {
    let files = [File::Element, File::LaneOne, File::Tiles, File::Window, File::Memory];
    let taps = [File::Dropout, File::Taps, File::Logits, File::GivenTaps, File::Gradient];
    let band = [File::DynamicConvBackwardLogits];
    Kernel {
        name: "dynamic_conv_backward",
        workgroup: WORKGROUP,
        files: files.iter().chain(&taps).chain(rows).chain(&band).copied().collect(),
        constants: vec![("X", code(dtype)), ("Y", code(y)), ("S", code(source)), ("GENERATED", 0)],
        inputs: 6,
    }
}

/// How many parts a sum over all tiles is made in, and tiles of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) parts: usize,
    pub(crate) tiles: usize,
}

impl Parts {
    /// For so many tiles, each of which `across` workgroups share, `most` of them in a part at most, and so many numbers of
    /// a part.
    pub(crate) fn new(tiles: usize, across: usize, most: usize, numbers: usize) -> Self {
        /// Workgroups that keep a big GPU busy.
        const BUSY: usize = 512;
        /// Partial sums that there is always room for.
        const PARTIAL: usize = 16 << 20;
        let room = (PARTIAL / numbers.min(PARTIAL)).min(tiles).max(1);
        let parts = (BUSY / across).max(tiles.div_ceil(most)).clamp(1, room);
        let tiles_of_part = tiles.div_ceil(parts).max(1);
        Parts { parts: tiles.div_ceil(tiles_of_part), tiles: tiles_of_part }
    }

    /// The structure `Gradient` of `shaders/shared/gradient.wgsl`.
    pub(crate) fn parameters(self, dy: Place) -> Result<Vec<Parameter>> {
        parameters(&[
            ("dy_offset", dy.offset),
            ("dy_stride", dy.stride),
            ("parts", self.parts),
            ("tiles_of_part", self.tiles),
        ])
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    for (dtype, parameters) in crate::wgpu::shader::types() {
        for source in [parameters, DType::F32] {
            let sums = [File::StoreWords, File::DynamicConvBackwardSums];
            all.push(band_kernel((dtype, source, DType::F32), &sums));
            for (y, whole_words) in [(parameters, false), (parameters, true), (DType::F32, true)] {
                let rows = [store(y, whole_words), File::StoreQuad, File::DynamicConvBackwardRows];
                all.push(band_kernel((dtype, source, y), &rows));
            }
        }
    }
    let mut found: Vec<Kernel> = vec![];
    for kernel in all.into_iter().flat_map(Kernel::both_dropouts) {
        if !found.contains(&kernel) {
            found.push(kernel);
        }
    }
    found.extend(DType::ALL.map(|dtype| statistics_kernel(dtype).with_dropout(false)));
    found
}
