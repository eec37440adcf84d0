use std::ops::Range;

use crate::cpu::buffer::check_optional;
use crate::cpu::filter::{FilterPlan, TapGradient, Weights};
use crate::cpu::gradients::{
    BiasGradient, InputGradient, Matrix, WeightGradient, check_parameter, check_wanted, each_token,
};
use crate::cpu::phase::Tokens;
use crate::cpu::product::product_of_rows;
use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::tiles::{Tiles, tile_rows};
use crate::cpu::{Elements, ElementsMut, Rows, RowsMut, padded};
use crate::problem::{Convolution, SpanKeyBackwardProblem};
use crate::{DType, Result, Sequences};

/// The gradients of a span-aware key, prepared: see [`SpanKeyBackwardProblem`].
///
/// Of the steps that the convolved tokens d and their gradient dd stand between, each reads what tokens to the left and
/// right of its own have given: d and then dd are written to scratch, `[tokens, C]` in f32, as products would cost more to
/// repeat for every halo than 8 bytes a number cost to move. dk = dz q is made wherever it is read.
#[derive(Clone, Debug)]
pub struct SpanKeyBackward {
    problem: SpanKeyBackwardProblem,
    /// d, for dquery and dpointwise.
    convolved: Option<FilterPlan>,
    pointwise: Option<WeightGradient>,
    key_bias: Option<BiasGradient>,
    /// dd, for dx and ddepthwise.
    dconvolved: Option<InputGradient>,
    /// The convolution along which dx is made of dd.
    mirrored: Convolution,
    x: Option<FilterPlan>,
    depthwise: Option<TapGradient>,
}

/// What [`SpanKeyBackward::run`] reads and writes. Gradients are given exactly where the problem wants them.
#[derive(Debug)]
pub struct SpanKeyBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// q `[tokens, A]`.
    pub query: Rows<'a>,
    /// `[C, K]`.
    pub depthwise: Elements<'a>,
    /// `[A, C]`.
    pub pointwise: Elements<'a>,
    /// `[A]`, where the problem has one.
    pub key_bias: Option<Elements<'a>>,
    /// The gradient of z, `[tokens, A]`.
    pub dz: Rows<'a>,
    /// `[tokens, C]`, overwritten.
    pub dx: Option<RowsMut<'a>>,
    /// `[tokens, A]`, overwritten.
    pub dquery: Option<RowsMut<'a>>,
    /// `[C, K]`, overwritten.
    pub ddepthwise: Option<ElementsMut<'a>>,
    /// `[A, C]`, overwritten.
    pub dpointwise: Option<ElementsMut<'a>>,
    /// `[A]`, overwritten.
    pub dkey_bias: Option<ElementsMut<'a>>,
}

/// Keys of a tile.
const TILE_KEYS: usize = 256;

impl SpanKeyBackward {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: SpanKeyBackwardProblem) -> Self {
        let (forward, wanted) = (problem.forward(), problem.wanted());
        let conv = forward.depthwise();
        let (tokens, channels, outputs) = (conv.sequences().tokens(), conv.channels(), forward.outputs());
        let mirrored = conv.mirrored();
        SpanKeyBackward {
            convolved: (wanted.query || wanted.pointwise).then(|| FilterPlan::new(conv)),
            pointwise: wanted.pointwise.then(|| WeightGradient::new(tokens, outputs, channels)),
            key_bias: wanted.key_bias.then(|| BiasGradient::new(tokens, outputs)),
            dconvolved: problem.needs_convolved().then(|| InputGradient::new(tokens, outputs, channels)),
            x: wanted.x.then(|| FilterPlan::new(&mirrored)),
            depthwise: wanted.depthwise.then(|| TapGradient::new(conv)),
            mirrored,
            problem,
        }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &SpanKeyBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    /// What all steps share, and one step after another, each in all of the rest.
    fn scratch(&self) -> Division {
        let filter = |plan: &FilterPlan| (plan.shared(), plan.per_worker());
        let weights = Weights::len(self.problem.forward().depthwise());
        let steps = [
            self.convolved.as_ref().map(filter),
            self.problem.wanted().query.then(|| (self.problem.forward().outputs(), self.keys_per_worker())),
            self.pointwise.map(|plan| (plan.shared(), plan.per_worker())),
            self.key_bias.map(|plan| (plan.shared(), plan.per_worker())),
            self.dconvolved.map(|plan| (0, plan.per_worker())),
            self.x.as_ref().map(filter),
            self.depthwise.as_ref().map(|plan| (weights.saturating_add(plan.shared()), plan.per_worker())),
        ];
        let most = |(a, b): (usize, usize), (c, d)| (a.max(c), b.max(d));
        let (shared, per_worker) = steps.into_iter().flatten().fold((0, 0), most);
        let common = self.convolved_len().saturating_add(self.pointwise_copy());
        Division { shared: common.saturating_add(shared), per_worker }
    }

    /// Numbers of d or dd.
    fn convolved_len(&self) -> usize {
        let conv = self.problem.forward().depthwise();
        let needed = self.convolved.is_some() || self.dconvolved.is_some();
        if needed { conv.sequences().tokens() * conv.channels() } else { 0 }
    }

    fn reads_pointwise(&self) -> bool {
        self.problem.wanted().query || self.dconvolved.is_some()
    }

    /// The pointwise weight, where it is read and not f32.
    fn pointwise_copy(&self) -> usize {
        let (forward, conv) = (self.problem.forward(), self.problem.forward().depthwise());
        let copied = self.reads_pointwise() && conv.parameters() != DType::F32;
        if copied { forward.outputs() * conv.channels() } else { 0 }
    }

    fn keys_tile(&self) -> (usize, usize) {
        let forward = self.problem.forward();
        (tile_rows(forward.depthwise().sequences().tokens()), forward.outputs().min(TILE_KEYS))
    }

    /// Keys of a tile as columns and as rows, and one dz.
    fn keys_per_worker(&self) -> usize {
        let (rows, keys) = self.keys_tile();
        (padded(rows) + rows + 1) * keys
    }

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input or a
    /// gradient that is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: SpanKeyBackwardArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let SpanKeyBackwardArgs { sequences, x, query, depthwise, pointwise, key_bias, dz, .. } = args;
        let forward = self.problem.forward();
        let inputs = self.check_inputs(sequences, x, query, depthwise, pointwise, key_bias)?;
        let rows = forward.depthwise().sequences().tokens();
        let dz = dz.check("dz", forward.output(), rows, forward.outputs())?;
        let SpanKeyBackwardArgs { dx, dquery, ddepthwise, dpointwise, dkey_bias, .. } = args;
        let gradients = self.check_gradients(dx, dquery, ddepthwise, dpointwise, dkey_bias)?;
        self.launch(&inputs, dz, &gradients, scratch)
    }

    /// The inputs, checked.
    pub(in crate::cpu) fn check_inputs<'a>(
        &self,
        sequences: &'a Sequences,
        x: Rows<'a>,
        query: Rows<'a>,
        depthwise: Elements<'a>,
        pointwise: Elements<'a>,
        key_bias: Option<Elements<'a>>,
    ) -> Result<Inputs<'a>> {
        let forward = self.problem.forward();
        let conv = forward.depthwise();
        let (channels, outputs) = (conv.channels(), forward.outputs());
        let x = Tokens::check(["x", "history"], conv, sequences, x, None)?;
        let query = query.check("query", conv.dtype(), conv.sequences().tokens(), outputs)?;
        depthwise.check("depthwise", conv.parameters(), channels * conv.window().width())?;
        pointwise.check("pointwise", conv.parameters(), outputs * channels)?;
        check_optional("key_bias", key_bias, forward.has_key_bias(), conv.parameters(), outputs)?;
        Ok(Inputs { sequences, x, query, depthwise, pointwise, key_bias })
    }

    /// The gradients, checked: each is given exactly where it is wanted.
    pub(in crate::cpu) fn check_gradients<'a>(
        &self,
        dx: Option<RowsMut<'a>>,
        dquery: Option<RowsMut<'a>>,
        ddepthwise: Option<ElementsMut<'a>>,
        dpointwise: Option<ElementsMut<'a>>,
        dkey_bias: Option<ElementsMut<'a>>,
    ) -> Result<Gradients<'a>> {
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let conv = forward.depthwise();
        let (tokens, channels, outputs) = (conv.sequences().tokens(), conv.channels(), forward.outputs());
        let (width, dtype) = (conv.window().width(), self.problem.parameters());
        Ok(Gradients {
            dx: check_wanted("dx", dx, wanted.x, conv.dtype(), tokens, channels)?,
            dquery: check_wanted("dquery", dquery, wanted.query, conv.dtype(), tokens, outputs)?,
            ddepthwise: check_parameter("ddepthwise", ddepthwise, wanted.depthwise, dtype, channels, width)?,
            dpointwise: check_parameter(
                "dpointwise",
                dpointwise,
                wanted.pointwise,
                dtype,
                outputs,
                channels,
            )?,
            dkey_bias: check_parameter("dkey_bias", dkey_bias, wanted.key_bias, dtype, 1, outputs)?,
        })
    }

    /// Runs a checked call; only the scratch may still be too little.
    pub(in crate::cpu) fn launch(
        &self,
        inputs: &Inputs<'_>,
        dz: Source<'_>,
        gradients: &Gradients<'_>,
        scratch: &mut [f32],
    ) -> Result<()> {
        let conv = self.problem.forward().depthwise();
        let (channels, outputs) = (conv.channels(), self.problem.forward().outputs());
        let Inputs { sequences, x, query, depthwise, pointwise, key_bias } = *inputs;
        let Gradients { dx, dquery, ddepthwise, dpointwise, dkey_bias } = gradients;
        let worker_len = self.scratch().worker_len();
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        let (convolved, shared) = shared.split_at_mut(self.convolved_len());
        let (copy, shared) = shared.split_at_mut(self.pointwise_copy());
        let pointwise = if self.reads_pointwise() { pointwise.as_f32(outputs * channels, copy) } else { &[] };
        let make_dk = |rows: Range<usize>, columns: Range<usize>, out: &mut [f32]| {
            each_token(sequences, rows, columns.len(), out, |row, dk| {
                dz.load(row, columns.start, dk);
                multiply(&query, row, columns.start, dk);
            });
        };
        let dk = Matrix::Made(&make_dk);

        if let Some(plan) = &self.convolved {
            let filter = plan.prepare(conv, depthwise, None, None, shared);
            let d = Sink::of(convolved, channels);
            filter.convolve_all(sequences, x, &d, (&mut *worker_parts, worker_len));
        }
        if let Some(dquery) = dquery {
            let bias = &mut shared[..outputs];
            bias.fill(0.0);
            if let Some(key_bias) = key_bias {
                key_bias.load(0, bias);
            }
            let workers = (&mut *worker_parts, worker_len);
            self.dquery(sequences, convolved, (pointwise, bias), dz, dquery, workers);
        }
        if let (Some(plan), Some(dpointwise)) = (&self.pointwise, dpointwise) {
            let d = Matrix::Rows(Source::of(convolved, channels));
            plan.run(dk, d, dpointwise, shared, (&mut *worker_parts, worker_len));
        }
        if let (Some(plan), Some(dkey_bias)) = (&self.key_bias, dkey_bias) {
            plan.run(dk, dkey_bias, shared, (&mut *worker_parts, worker_len));
        }
        if let Some(plan) = &self.dconvolved {
            let dd = Sink::of(convolved, channels);
            let weight = Matrix::Rows(Source::of(pointwise, channels));
            plan.run(dk, weight, (&mut *worker_parts, worker_len), |rows, columns, tile| {
                for (row, values) in rows.zip(tile.chunks_exact(columns.len())) {
                    // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                    unsafe { dd.store(row, columns.start, values) };
                }
            });
        }
        let dd = Source::of(convolved, channels);
        if let (Some(plan), Some(dx)) = (&self.x, dx) {
            let filter = plan.prepare_mirrored(&self.mirrored, depthwise, None, shared);
            let dd = Tokens { x: dd, history: None, channels };
            filter.convolve_all(sequences, dd, dx, (&mut *worker_parts, worker_len));
        }
        if let (Some(plan), Some(ddepthwise)) = (&self.depthwise, ddepthwise) {
            let (weights, sums) = shared.split_at_mut(Weights::len(conv));
            let weights = Weights::prepare(conv, depthwise, None, weights);
            let sums = &mut sums[..plan.shared()];
            plan.run(conv, sequences, (x, dd), &weights, sums, (&mut *worker_parts, worker_len));
            plan.finish(conv, &weights, sums, ddepthwise, (worker_parts, worker_len));
        }
        Ok(())
    }

    /// dquery = dz k, with the keys made of the convolved tokens d as in the forward pass.
    fn dquery(
        &self,
        sequences: &Sequences,
        d: &[f32],
        (pointwise, bias): (&[f32], &[f32]),
        dz: Source<'_>,
        dquery: &Sink<'_>,
        (worker_parts, worker_len): (&mut [f32], usize),
    ) {
        let conv = self.problem.forward().depthwise();
        let channels = conv.channels();
        let (tile_rows, tile_keys) = self.keys_tile();
        let tiles = Tiles::new(conv.sequences().tokens(), bias.len(), tile_rows, tile_keys);
        tiles.for_each(worker_parts, worker_len, |rows, columns, scratch| {
            let (transposed, scratch) = scratch.split_at_mut(padded(tile_rows) * tile_keys);
            let (keys, dz_row) = scratch.split_at_mut(tile_rows * tile_keys);
            let (count, dz_row) = (columns.len(), &mut dz_row[..columns.len()]);
            let pointwise = &pointwise[columns.start * channels..];
            let d = (&d[rows.start * channels..], channels);
            // Rows of padding hold what was there before: their keys are not read.
            product_of_rows((rows.len(), count, channels), d, pointwise, transposed, keys);
            for piece in sequences.pieces(rows.clone()) {
                // SAFETY: tiles are disjoint in rows or columns, and so are the pieces of one tile.
                unsafe { dquery.zero(piece.padding.clone(), columns.clone()) };
                for row in piece.tokens.map(|t| piece.sequence.first + t) {
                    dz.load(row, columns.start, dz_row);
                    let keys = &mut keys[(row - rows.start) * count..][..count];
                    for ((key, bias), dz) in keys.iter_mut().zip(&bias[columns.clone()]).zip(&*dz_row) {
                        *key = (*key + bias) * dz;
                    }
                    // SAFETY: as above, and each row is written once.
                    unsafe { dquery.store(row, columns.start, keys) };
                }
            }
        });
    }
}

/// Checked inputs, but for dz.
pub(in crate::cpu) struct Inputs<'a> {
    sequences: &'a Sequences,
    x: Tokens<'a>,
    query: Source<'a>,
    depthwise: Elements<'a>,
    pointwise: Elements<'a>,
    key_bias: Option<Elements<'a>>,
}

/// Checked gradients.
pub(in crate::cpu) struct Gradients<'a> {
    dx: Option<Sink<'a>>,
    dquery: Option<Sink<'a>>,
    ddepthwise: Option<Sink<'a>>,
    dpointwise: Option<Sink<'a>>,
    dkey_bias: Option<Sink<'a>>,
}

/// Multiplies `values` by columns of a row, from `column` on.
fn multiply(factors: &Source<'_>, row: usize, column: usize, values: &mut [f32]) {
    let mut part = [0.0; 64];
    for (i, values) in values.chunks_mut(part.len()).enumerate() {
        let factor_part = &mut part[..values.len()];
        factors.load(row, column + i * 64, factor_part);
        for (value, factor) in values.iter_mut().zip(&*factor_part) {
            *value *= factor;
        }
    }
}
