//! How a dynamic convolution is cut up, and the taps of a tile.

use std::ops::Range;

use crate::cpu::dropout::drop_columns;
use crate::cpu::phase::{Phase, Staged, Tokens, tile_tokens};
use crate::cpu::product::{Strides, product};
use crate::cpu::rows::Source;
use crate::cpu::softmax::normalize_columns;
use crate::cpu::tiles::Tiles;
use crate::cpu::transpose::transpose;
use crate::cpu::{Elements, padded};
use crate::problem::{Convolution, DynamicConvProblem, Taps};
use crate::sequences::Piece;
use crate::{DType, Dropout, Normalize, Sequences};

/// Checked logits, or what generates them.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum TapSource<'a> {
    Given(Source<'a>),
    Generated { weight: Elements<'a>, weight_bias: Option<Elements<'a>>, query: Source<'a>, channels: usize },
}

/// The same, with the generator as f32.
pub(super) enum ReadyTaps<'a> {
    Given(Source<'a>),
    Generated { weight: &'a [f32], weight_bias: Option<Elements<'a>>, query: Source<'a>, channels: usize },
}

impl<'a> TapSource<'a> {
    /// With the generator of `logits` rows as f32: where it lies, or in `copy`.
    pub(super) fn ready(self, logits: usize, copy: &'a mut [f32]) -> ReadyTaps<'a> {
        match self {
            TapSource::Given(logits) => ReadyTaps::Given(logits),
            TapSource::Generated { weight, weight_bias, query, channels } => {
                let weight = weight.as_f32(logits * channels, copy);
                ReadyTaps::Generated { weight, weight_bias, query, channels }
            }
        }
    }
}

/// How a dynamic convolution is cut up: into tiles of tokens by heads.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    tokens: usize,
    channels: usize,
    heads: usize,
    pub(super) tile_tokens: usize,
    pub(super) tile_heads: usize,
    /// Taps of one head.
    pub(super) width: usize,
    /// From one tap to the next in the taps of a tile, which are `[heads, K, tokens]`.
    pub(super) tap_stride: usize,
    head_channels: usize,
    /// Channels that are staged together: whole blocks of them.
    group: usize,
    /// How rows are staged where lanes are channels. A block is whole heads, or part of one.
    pub(super) staged: Staged,
    /// Numbers of a tile's query, or of its given logits, as f32, where they are not.
    query: usize,
    /// Numbers of the generator as f32, where it is not.
    generator: usize,
    /// Tokens from the first tap to the last, where lanes may be tokens.
    token_lanes: Option<usize>,
}

/// Channels that are convolved together where lanes are channels: a block, with its halo, fits in the first cache.
const BLOCK: usize = 64;
/// Channels that are staged together: rows long enough that memory streams.
const GROUP: usize = 512;
/// Most taps of a tile, 4 MiB of them, unless those of 16 tokens and one head are more.
const MAX_TAPS: usize = 1 << 20;
/// A head of fewer channels would leave most lanes of a vector empty.
const MIN_LANE_CHANNELS: usize = 16;
/// Fewer tokens would too.
const MIN_LANE_TOKENS: usize = 16;
/// A longer reach would stage more tokens than it computes.
const MAX_LANE_REACH: usize = 1024;

impl Plan {
    pub(super) fn new(problem: &DynamicConvProblem) -> Self {
        let conv = problem.convolution();
        let (width, r) = (conv.window().width(), conv.head_channels());
        // The taps of a tile should stay in the second cache.
        let tile_heads = (512 / width).clamp(1, conv.heads());
        let most_tokens = (MAX_TAPS / tile_heads.saturating_mul(width)).next_multiple_of(16).max(16);
        let tile_tokens = tile_tokens(conv).min(most_tokens);
        let (query, generator) = match problem.taps() {
            Taps::Given => (if conv.parameters() == DType::F32 { 0 } else { tile_heads * width }, 0),
            Taps::Generated { query_channels, query, .. } => {
                let copy = |dtype| if dtype == DType::F32 { 0 } else { query_channels };
                let query = copy(query.unwrap_or(conv.dtype()));
                (query, copy(conv.parameters()) * problem.logits())
            }
        };
        let (reach, r_is_blocks) = (conv.window().reach(), r.is_multiple_of(BLOCK));
        let block = if r >= BLOCK { BLOCK } else { r * (BLOCK / r).min(tile_heads) };
        let group = if r >= BLOCK && !r_is_blocks { r.min(GROUP) } else { block * (GROUP / block) };
        Plan {
            tokens: conv.sequences().tokens(),
            channels: conv.channels(),
            heads: conv.heads(),
            tile_tokens,
            tile_heads,
            width,
            // Not a power of two, so that the taps of a token fall on different cache sets; and room for a vector of
            // tokens to run over.
            tap_stride: tile_tokens + 16,
            head_channels: r,
            group: group.min(tile_heads * r),
            staged: Staged {
                block,
                // Room for the last vector of a head to run over.
                stride: padded(block) + 16,
                rows: Phase::max_rows(conv, tile_tokens, conv.sequences().longest()),
            },
            query: query * tile_tokens,
            generator,
            token_lanes: (r < MIN_LANE_CHANNELS && reach <= MAX_LANE_REACH).then_some(reach),
        }
    }

    /// Whether vectors should hold tokens, and not channels.
    pub(super) fn lanes_are_tokens(&self, piece: &Piece) -> bool {
        self.token_lanes.is_some() && piece.tokens.len() >= MIN_LANE_TOKENS
    }

    /// Numbers of scratch that all workers share: a bias for each channel, and the generator.
    pub(super) fn shared(&self) -> usize {
        self.bias_len() + self.generator
    }

    /// Room for the last vector of a head to run over.
    fn bias_len(&self) -> usize {
        padded(self.channels) + 16
    }

    /// The bias of each channel, zero where there is none, and room for the generator.
    pub(super) fn split_shared<'a>(
        &self,
        shared: &'a mut [f32],
        bias: Option<Elements<'_>>,
    ) -> (&'a [f32], &'a mut [f32]) {
        let (expanded, generator) = shared.split_at_mut(self.bias_len());
        expanded.fill(0.0);
        if let Some(bias) = bias {
            bias.load(0, &mut expanded[..self.channels]);
        }
        (expanded, generator)
    }

    pub(super) fn taps_len(&self) -> usize {
        // A window so wide that this overflows has logits that no memory holds, and a run refuses them.
        (self.tile_heads * self.width).saturating_mul(self.tap_stride)
    }

    /// From one output row to the next, where lanes are channels: a group, and room for a vector to run over.
    pub(super) fn out_stride(&self) -> usize {
        padded(self.group) + 16
    }

    /// From one staged channel to the next, where lanes are tokens: a tile, its reach, and room for a vector to run
    /// over.
    pub(super) fn channel_stride(&self) -> usize {
        self.token_lanes.map_or(0, |reach| self.tile_tokens + reach + 16)
    }

    /// Numbers of scratch that lanes of channels need: staged rows and outputs of a group.
    pub(super) fn channel_lanes_len(&self) -> usize {
        self.staged.len(self.group).saturating_add(self.tile_tokens * self.out_stride())
    }

    /// Numbers of scratch for each worker: the taps of a tile, and then one of: the query that makes them; staged rows
    /// and outputs of a group; a block of tokens and of outputs, each as rows and as columns.
    pub(super) fn per_worker(&self) -> usize {
        let by_channel = self.channel_lanes_len();
        let by_token = 2 * self.staged.block * (self.channel_stride() + self.tap_stride);
        let by_token = self.token_lanes.map_or(0, |_| by_token);
        self.taps_len().saturating_add(self.query.max(by_channel).max(by_token))
    }

    pub(super) fn tiles(&self) -> Tiles {
        Tiles::new(self.tokens, self.heads, self.tile_tokens, self.tile_heads)
    }

    /// The normalised taps `[heads, K, tokens]` of a tile.
    pub(super) fn taps(
        &self,
        conv: &Convolution,
        source: &ReadyTaps<'_>,
        sequences: &Sequences,
        (rows, heads): (Range<usize>, Range<usize>),
        taps: &mut [f32],
        scratch: &mut [f32],
    ) {
        let logits = heads.start * self.width..heads.end * self.width;
        let taps = &mut taps[..logits.len() * self.tap_stride];
        match *source {
            ReadyTaps::Given(given) => {
                let (given, stride) = given.stage(rows.clone(), logits.start, logits.len(), scratch);
                transpose((given, stride), (taps, self.tap_stride), rows.len(), logits.len());
            }
            ReadyTaps::Generated { weight, weight_bias, query, channels } => {
                let (query, stride) = query.stage(rows.clone(), 0, channels, scratch);
                product(
                    (logits.len(), rows.len(), channels),
                    (taps, Strides::row_major(self.tap_stride)),
                    false,
                    (&weight[logits.start * channels..], Strides::row_major(channels)),
                    (query, Strides::column_major(stride)),
                );
                if let Some(bias) = weight_bias {
                    for (l, taps) in logits.zip(taps.chunks_exact_mut(self.tap_stride)) {
                        let bias = bias.at(l);
                        taps.iter_mut().for_each(|tap| *tap += bias);
                    }
                }
            }
        }
        let in_range_only = conv.normalize() == Normalize::SoftmaxInRange;
        if in_range_only {
            self.fill_out_of_range(conv, sequences, rows.clone(), taps, f32::NEG_INFINITY);
        }
        for head in taps.chunks_exact_mut(self.width * self.tap_stride) {
            normalize_columns(head, self.width, self.tap_stride, conv.normalize());
        }
    }

    /// Makes the taps of a tile ready for lanes of tokens, where there are any: those have no range of taps of their own, so
    /// what is out of range has no weight.
    pub(super) fn clear_out_of_range(
        &self,
        conv: &Convolution,
        sequences: &Sequences,
        rows: Range<usize>,
        taps: &mut [f32],
    ) {
        if self.token_lanes.is_some() {
            self.fill_out_of_range(conv, sequences, rows, taps, 0.0);
        }
    }

    /// Drops taps of a tile, and scales the others.
    pub(super) fn drop_taps(
        &self,
        dropout: Dropout,
        (rows, heads): (Range<usize>, Range<usize>),
        taps: &mut [f32],
    ) {
        let scale = dropout.rate().scale();
        for (head, taps) in heads.zip(taps.chunks_exact_mut(self.width * self.tap_stride)) {
            let tokens = (rows.start, 1, rows.len());
            drop_columns(dropout, head, tokens, (taps, self.tap_stride), |tap| tap * scale, |_| 0.0);
        }
    }

    /// The channels of heads in groups that are staged together.
    pub(super) fn groups(&self, heads: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (group, r) = (self.group, self.head_channels);
        let (start, end) = (heads.start * r, heads.end * r);
        // A block never holds parts of two heads, nor does a group whose blocks do not end where heads do.
        let step = if group < r { r } else { group };
        (start..end).step_by(step).flat_map(move |start| {
            let end = (start + step).min(end);
            (start..end).step_by(group).map(move |start| start..(start + group).min(end))
        })
    }

    /// The channels of a group in blocks.
    pub(super) fn blocks(&self, group: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let block = self.staged.block;
        group.clone().step_by(block).map(move |start| start..(start + block).min(group.end))
    }

    /// Gives every tap that is out of range a value.
    fn fill_out_of_range(
        &self,
        conv: &Convolution,
        sequences: &Sequences,
        rows: Range<usize>,
        taps: &mut [f32],
        value: f32,
    ) {
        for piece in sequences.pieces(rows.clone()) {
            for t in piece.tokens.clone() {
                let column = piece.sequence.first + t - rows.start;
                let past = conv.past(piece.sequence);
                let in_range = conv.window().taps_in_range(t, piece.sequence.length, past);
                for head in taps.chunks_exact_mut(self.width * self.tap_stride) {
                    for j in (0..in_range.start).chain(in_range.end..self.width) {
                        head[j * self.tap_stride + column] = value;
                    }
                }
            }
        }
    }
}

/// The taps that a tile is convolved with.
pub(super) enum TileTaps<'a> {
    /// Those of its own tokens, `[heads, K, tokens]`, normalised.
    Own(&'a [f32]),
    /// Along the mirrored window, those of the tokens that are read, the last tap first.
    Read(StoredTaps<'a>),
}

/// The taps of all tokens, `[tokens, H K]`, normalised.
#[derive(Clone, Copy)]
pub(super) struct StoredTaps<'a> {
    pub(super) taps: &'a [f32],
    /// What those that are kept are multiplied by, where those that are dropped have their sign bit set.
    pub(super) scale: Option<f32>,
}

/// A tile whose taps are made.
pub(super) struct Tile<'a> {
    pub(super) plan: &'a Plan,
    pub(super) conv: &'a Convolution,
    pub(super) tokens: Tokens<'a>,
    pub(super) taps: TileTaps<'a>,
    /// `[C]`, and room for a vector to run over.
    pub(super) bias: &'a [f32],
    pub(super) rows: Range<usize>,
    pub(super) heads: Range<usize>,
}

impl<'a> Tile<'a> {
    /// The taps of a channel's head, from tap `tap` and the token in row `row` on, of the tile's own tokens.
    #[inline(always)]
    pub(super) fn taps_from(&self, own: &'a [f32], channel: usize, tap: usize, row: usize) -> &'a [f32] {
        let head = channel / self.plan.head_channels - self.heads.start;
        &own[(head * self.plan.width + tap) * self.plan.tap_stride + row - self.rows.start..]
    }

    /// Numbers of memory that [`Tile::weights`] needs.
    pub(super) fn weights_len(&self) -> usize {
        match self.taps {
            TileTaps::Read(StoredTaps { scale: Some(_), .. }) => self.plan.width,
            _ => 0,
        }
    }

    /// The weights of taps in range for the i-th token of a phase, in a channel's head, and their distance.
    #[inline(always)]
    pub(super) fn weights<'m>(
        &self,
        (phase, i): (&Phase, usize),
        taps: Range<usize>,
        channel: usize,
        memory: &'m mut [f32],
    ) -> (&'m [f32], usize)
    where
        'a: 'm,
    {
        if taps.is_empty() {
            return (&[], 0);
        }
        let StoredTaps { taps: stored, scale } = match self.taps {
            TileTaps::Own(own) => {
                return (self.taps_from(own, channel, taps.start, phase.token_row(i)), self.plan.tap_stride);
            }
            TileTaps::Read(stored) => stored,
        };
        let (width, logits) = (self.plan.width, self.plan.heads * self.plan.width);
        let first = phase.read_row(i, taps.start) * logits + channel / self.plan.head_channels * width;
        let stored = &stored[first + width - 1 - taps.start..];
        // Each tap reads a token that is r rows further, by a tap of that token's that is one before. Where that is past all
        // memory, there is but one tap.
        let stride = self.conv.window().dilation().saturating_mul(logits) - 1;
        let Some(scale) = scale else { return (stored, stride) };
        for (at, weight) in (0..taps.len()).zip(&mut *memory) {
            let stored = stored[at * stride];
            *weight = if stored.is_sign_negative() { 0.0 } else { stored * scale };
        }
        (memory, 1)
    }

    /// The channels in groups that are staged together.
    pub(super) fn groups(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        self.plan.groups(&self.heads)
    }

    /// The channels of a group in blocks.
    pub(super) fn blocks(&self, group: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        self.plan.blocks(group)
    }
}
