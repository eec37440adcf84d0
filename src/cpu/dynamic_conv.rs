use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::cpu::buffer::{Source, check_optional};
use crate::cpu::light_conv::{check_tokens, zero_padding};
use crate::cpu::phase::Phase;
use crate::cpu::product::{Strides, product};
use crate::cpu::softmax::normalize_columns;
use crate::cpu::taps::OwnTaps;
use crate::cpu::tiles::{Tiles, workers};
use crate::cpu::{Elements, Rows, RowsMut, padded, scratch};
use crate::problem::{Convolution, DynamicConvProblem, Taps};
use crate::{DType, Error, Normalize, Result, Sequences};

/// Dynamic convolution, prepared: see [`DynamicConvProblem`].
#[derive(Clone, Debug)]
pub struct DynamicConv {
    problem: DynamicConvProblem,
    plan: Plan,
}

/// Where the taps come from, as the problem's [`Taps`] say.
#[derive(Clone, Copy, Debug)]
pub enum TapArgs<'a> {
    /// Logits.
    Given {
        /// `[tokens, H K]`.
        logits: Rows<'a>,
    },
    /// A generator.
    Generated {
        /// W `[H K, Cq]`.
        weight: Elements<'a>,
        /// `[H K]`, where the problem has one.
        weight_bias: Option<Elements<'a>>,
        /// `[tokens, Cq]`, where the problem has a query of its own.
        query: Option<Rows<'a>>,
    },
}

/// What [`DynamicConv::run`] reads and writes.
#[derive(Debug)]
pub struct DynamicConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// Logits, or what generates them.
    pub taps: TapArgs<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

impl DynamicConv {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: DynamicConvProblem) -> Self {
        DynamicConv { problem, plan: Plan::new(&problem) }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.plan.shared + workers() * self.plan.per_worker()
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input that
    /// is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: DynamicConvArgs<'_>, scratch_memory: &mut [f32]) -> Result<()> {
        let conv = self.problem.convolution();
        let DynamicConvArgs { sequences, x, taps, bias, history, y } = args;
        let tokens = check_tokens(conv, sequences, x, history)?;
        let source = self.check_taps(taps, tokens.x)?;
        check_optional("bias", bias, conv.has_bias(), conv.parameter_dtype(), conv.channels())?;
        let y = y.check("y", conv.dtype(), conv.sequences().tokens(), conv.channels())?;
        let memory = scratch(scratch_memory, self.scratch_len())?;

        let (shared, per_worker) = memory.split_at_mut(self.plan.shared);
        let (expanded_bias, generator) = shared.split_at_mut(padded(conv.channels()) + 16);
        expanded_bias.fill(0.0);
        if let Some(bias) = bias {
            bias.load(0, &mut expanded_bias[..conv.channels()]);
        }
        let source = source.with_generator(generator);
        let shared_bias = &*expanded_bias;
        self.plan.tiles().for_each(per_worker, self.plan.per_worker(), |rows, heads, scratch| {
            let (taps, scratch) = scratch.split_at_mut(self.plan.taps_len());
            self.plan.taps(conv, &source, sequences, rows.clone(), heads.clone(), taps, scratch);
            let r = conv.head_channels();
            let columns = heads.start * r..heads.end * r;
            for piece in sequences.pieces(rows.clone()) {
                zero_padding(&y, &piece, columns.clone());
                for phase in Phase::all(conv, &piece) {
                    for block in self.plan.blocks(columns.clone()) {
                        let (staged, out) = scratch.split_at_mut(self.plan.rows * self.plan.stride);
                        phase.stage(tokens, block.clone(), self.plan.stride, staged);
                        let convolved = PhaseTaps {
                            phase: &phase,
                            taps,
                            tap_stride: self.plan.tap_stride,
                            first_row: rows.start,
                            first_head: heads.start,
                            width: conv.window().width(),
                            head_channels: r,
                            columns: block.clone(),
                            rows: staged,
                            row_stride: self.plan.stride,
                            bias: shared_bias,
                            out,
                            sink: |row, values: &[f32]| {
                                // SAFETY: tiles are disjoint in rows or columns, and so are the rows and blocks of
                                // one tile.
                                unsafe { y.store(row, block.start, values) };
                            },
                        };
                        Arch::new().dispatch(convolved);
                    }
                }
            }
        });
        Ok(())
    }

    fn check_taps<'a>(&self, taps: TapArgs<'a>, x: Source<'a>) -> Result<TapSource<'a>> {
        let conv = self.problem.convolution();
        let (tokens, logits) = (conv.sequences().tokens(), self.problem.logits());
        let dtype = conv.parameter_dtype();
        match (self.problem.taps(), taps) {
            (Taps::Given, TapArgs::Given { logits: given }) => {
                Ok(TapSource::Given(given.check("logits", dtype, tokens, logits)?))
            }
            (
                Taps::Generated { query_channels, query: query_dtype, weight_bias: has_bias },
                TapArgs::Generated { weight, weight_bias, query },
            ) => {
                weight.check("weight", dtype, logits * query_channels)?;
                check_optional("weight_bias", weight_bias, has_bias, dtype, logits)?;
                let query = match (query_dtype, query) {
                    (Some(dtype), Some(query)) => query.check("query", dtype, tokens, query_channels)?,
                    (None, None) => x,
                    (Some(_), None) => return Err(Error::Missing { tensor: "query" }),
                    (None, Some(_)) => return Err(Error::Surplus { tensor: "query" }),
                };
                Ok(TapSource::Generated { weight, weight_bias, query, channels: query_channels })
            }
            (Taps::Given, TapArgs::Generated { .. }) => Err(Error::Missing { tensor: "logits" }),
            (Taps::Generated { .. }, TapArgs::Given { .. }) => Err(Error::Surplus { tensor: "logits" }),
        }
    }
}

/// Checked logits, or what generates them.
#[derive(Clone, Copy)]
enum TapSource<'a> {
    Given(Source<'a>),
    Generated { weight: Elements<'a>, weight_bias: Option<Elements<'a>>, query: Source<'a>, channels: usize },
}

impl<'a> TapSource<'a> {
    /// The generator as f32: as it is, or copied to `copy`.
    fn with_generator(self, copy: &'a mut [f32]) -> Self {
        match self {
            TapSource::Generated { weight, weight_bias, query, channels } if weight.dtype() != DType::F32 => {
                let copy = &mut copy[..weight.len()];
                weight.load(0, copy);
                TapSource::Generated { weight: Elements::F32(copy), weight_bias, query, channels }
            }
            source => source,
        }
    }
}

/// How a dynamic convolution is cut up: into tiles of tokens by heads.
#[derive(Clone, Debug)]
struct Plan {
    tokens: usize,
    heads: usize,
    tile_tokens: usize,
    tile_heads: usize,
    /// Taps of one head.
    width: usize,
    /// From one tap to the next in the taps of a tile, which are `[heads, K, tokens]`.
    tap_stride: usize,
    head_channels: usize,
    /// Channels that are staged together: whole heads, or part of one.
    block: usize,
    /// From one staged row to the next: a block, and room for the last vector to run over.
    stride: usize,
    /// Most rows that one phase of a tile reads.
    rows: usize,
    /// Numbers of a tile's query, or of one token's given logits, as f32.
    query: usize,
    /// Numbers of scratch that all workers share.
    shared: usize,
}

impl Plan {
    fn new(problem: &DynamicConvProblem) -> Self {
        let conv = problem.convolution();
        let (width, r) = (conv.window().width(), conv.head_channels());
        // The taps of a tile should stay in the second cache, and the product that makes them be worth its packing.
        let tile_heads = (512 / width).clamp(1, conv.heads());
        let tile_tokens = (65_536 / (tile_heads * width)).next_multiple_of(16).clamp(32, 256);
        let tile_tokens = tile_tokens.min(padded(conv.sequences().tokens().max(1)));
        let block = if r >= 128 { 128 } else { r * (128 / r).min(tile_heads) };
        let (query, generator) = match problem.taps() {
            Taps::Given => (tile_heads * width, 0),
            Taps::Generated { query_channels, query, .. } => {
                let query = if query.unwrap_or(conv.dtype()) == DType::F32 { 0 } else { query_channels };
                let generator = if conv.parameter_dtype() == DType::F32 { 0 } else { query_channels };
                (query * tile_tokens, generator * problem.logits())
            }
        };
        Plan {
            tokens: conv.sequences().tokens(),
            heads: conv.heads(),
            tile_tokens,
            tile_heads,
            width,
            // Not a power of two, so that the taps of a token fall on different cache sets.
            tap_stride: tile_tokens + 16,
            head_channels: r,
            block,
            stride: padded(block) + 16,
            rows: Phase::max_rows(conv, tile_tokens, conv.sequences().longest()),
            query,
            shared: padded(conv.channels()) + 16 + generator,
        }
    }

    fn taps_len(&self) -> usize {
        self.tile_heads * self.width * self.tap_stride
    }

    /// Numbers of scratch for each worker: the taps of a tile, and then either the query that makes them or the rows
    /// of a phase and one output row.
    fn per_worker(&self) -> usize {
        self.taps_len() + self.query.max((self.rows + 1) * self.stride)
    }

    fn tiles(&self) -> Tiles {
        Tiles::new(self.tokens, self.heads, self.tile_tokens, self.tile_heads)
    }

    /// Channels in blocks that are staged together; a block never holds parts of two heads.
    fn blocks(&self, columns: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (block, r) = (self.block, self.head_channels);
        let step = if r >= 128 { r } else { block };
        columns.clone().step_by(step).flat_map(move |start| {
            let end = (start + step).min(columns.end);
            (start..end).step_by(block).map(move |start| start..(start + block).min(end))
        })
    }

    /// The normalised taps `[heads, K, tokens]` of a tile.
    #[allow(clippy::too_many_arguments)]
    fn taps(
        &self,
        conv: &Convolution,
        source: &TapSource<'_>,
        sequences: &Sequences,
        rows: Range<usize>,
        heads: Range<usize>,
        taps: &mut [f32],
        scratch: &mut [f32],
    ) {
        let logits = heads.start * self.width..heads.end * self.width;
        let taps = &mut taps[..logits.len() * self.tap_stride];
        match *source {
            TapSource::Given(given) => {
                let token = &mut scratch[..logits.len()];
                for (t, row) in rows.clone().enumerate() {
                    given.load(row, logits.start, token);
                    for (l, &logit) in token.iter().enumerate() {
                        taps[l * self.tap_stride + t] = logit;
                    }
                }
            }
            TapSource::Generated { weight, weight_bias, query, channels } => {
                let (query, stride) = query.stage(rows.clone(), 0, channels, scratch);
                let Elements::F32(weight) = weight else { unreachable!("with_generator made it f32") };
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
        if conv.normalization() == Normalize::SoftmaxInRange {
            self.leave_out_of_range(conv, sequences, rows, taps);
        }
        for head in taps.chunks_exact_mut(self.width * self.tap_stride) {
            normalize_columns(head, self.width, self.tap_stride, conv.normalization());
        }
    }

    /// Gives taps out of range no weight in the softmax.
    fn leave_out_of_range(
        &self,
        conv: &Convolution,
        sequences: &Sequences,
        rows: Range<usize>,
        taps: &mut [f32],
    ) {
        for piece in sequences.pieces(rows.clone()) {
            for phase in Phase::all(conv, &piece) {
                for i in 0..phase.count() {
                    let (in_range, t) = (phase.taps(i), phase.token_row(i) - rows.start);
                    if in_range.len() < self.width {
                        for (l, taps) in taps.chunks_exact_mut(self.tap_stride).enumerate() {
                            if !in_range.contains(&(l % self.width)) {
                                taps[t] = f32::NEG_INFINITY;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The convolution of the tokens of one phase, each with its own taps, for a block of channels.
struct PhaseTaps<'a, F> {
    phase: &'a Phase,
    /// `[heads, K, tokens]`, normalised.
    taps: &'a [f32],
    tap_stride: usize,
    /// Row of the first token, and head, of `taps`.
    first_row: usize,
    first_head: usize,
    width: usize,
    head_channels: usize,
    /// The channels of the block.
    columns: Range<usize>,
    rows: &'a [f32],
    row_stride: usize,
    bias: &'a [f32],
    /// One output row of the block.
    out: &'a mut [f32],
    sink: F,
}

impl<F: FnMut(usize, &[f32])> WithSimd for PhaseTaps<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let block = self.columns.len();
        // Channels of one head in this block: all of them, or what a block holds of a large head.
        let width = self.head_channels.min(block);
        for i in 0..self.phase.count() {
            let (row, taps) = (self.phase.token_row(i), self.phase.taps(i));
            for start in (0..block).step_by(width) {
                let column = self.columns.start + start;
                // The last vector runs over into the next head, which is written after this one.
                let out = &mut self.out[start..start + padded(width)];
                out.copy_from_slice(&self.bias[column..column + padded(width)]);
                if taps.is_empty() {
                    continue;
                }
                let head = column / self.head_channels - self.first_head;
                OwnTaps {
                    out,
                    rows: &self.rows[self.phase.row(i, taps.start) * self.row_stride + start..],
                    row_stride: self.row_stride,
                    weights: &self.taps
                        [(head * self.width + taps.start) * self.tap_stride + row - self.first_row..],
                    weight_stride: self.tap_stride,
                    taps: taps.len(),
                    width: padded(width),
                }
                .run(simd);
            }
            (self.sink)(row, &self.out[..block]);
        }
    }
}
