use std::ops::Range;

use crate::cpu::dropout::{check_seed, drop_columns};
use crate::cpu::dynamic_conv::channel_lanes;
use crate::cpu::dynamic_conv::check_taps;
use crate::cpu::dynamic_conv::logit_gradient::LogitGradient;
use crate::cpu::dynamic_conv::plan::{Plan, ReadyTaps, StoredTaps, TapSource, Tile, TileTaps};
use crate::cpu::gradients::{
    BiasGradient, InputGradient, Matrix, WeightGradient, check_parameter, check_wanted,
};
use crate::cpu::phase::Tokens;
use crate::cpu::rows::{Sink, Source};
use crate::cpu::scratch::Division;
use crate::cpu::transpose::transpose;
use crate::cpu::{ElementsMut, Rows, RowsMut, TapArgs};
use crate::problem::{Convolution, DynamicConvBackwardProblem, Taps};
use crate::{DType, Dropout, Normalize, Result, Sequences};

/// The gradients of a dynamic convolution, prepared: see [`DynamicConvBackwardProblem`].
///
/// The taps of all tokens are made again, once, `[tokens, H K]` in f32. dx is made with them; then the gradients of the
/// logits take their place, and go through the products that made the logits.
#[derive(Clone, Debug)]
pub struct DynamicConvBackward {
    problem: DynamicConvBackwardProblem,
    /// The convolution along which dx is made of dy.
    mirrored: Convolution,
    plan: Plan,
    weight: Option<WeightGradient>,
    weight_bias: Option<BiasGradient>,
    /// Of a separate query, or of x as its own.
    query: Option<InputGradient>,
    bias: Option<BiasGradient>,
}

/// What [`DynamicConvBackward::run`] reads and writes. Gradients are given exactly where the problem wants them.
#[derive(Debug)]
pub struct DynamicConvBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a Sequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// Logits, or what generates them.
    pub taps: TapArgs<'a>,
    /// The seed of the forward pass, where the problem drops weights.
    pub seed: Option<u64>,
    /// The gradient of y, `[tokens, C]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten: of both uses of x where it is its own query.
    pub dx: Option<RowsMut<'a>>,
    /// Of given logits, `[tokens, H K]`, overwritten.
    pub dlogits: Option<RowsMut<'a>>,
    /// Of the generator, `[H K, Cq]`, overwritten.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[H K]`, overwritten.
    pub dweight_bias: Option<ElementsMut<'a>>,
    /// Of a separate query, `[tokens, Cq]`, overwritten.
    pub dquery: Option<RowsMut<'a>>,
    /// `[C]`, overwritten.
    pub dbias: Option<ElementsMut<'a>>,
}

impl DynamicConvBackward {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: DynamicConvBackwardProblem) -> Self {
        let (forward, wanted) = (problem.forward(), problem.wanted());
        let (conv, logits) = (forward.convolution(), forward.logits());
        let tokens = conv.sequences().tokens();
        let query_channels = match forward.taps() {
            Taps::Given => 0,
            Taps::Generated { query_channels, .. } => query_channels,
        };
        DynamicConvBackward {
            mirrored: conv.mirrored(),
            plan: Plan::new(forward),
            weight: wanted.weight.then(|| WeightGradient::new(tokens, logits, query_channels)),
            weight_bias: wanted.weight_bias.then(|| BiasGradient::new(tokens, logits)),
            query: (wanted.query || problem.own_query())
                .then(|| InputGradient::new(tokens, logits, query_channels)),
            bias: wanted.bias.then(|| BiasGradient::new(tokens, conv.channels())),
            problem,
        }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &DynamicConvBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    /// What all workers share is the taps, the part of dx that its convolution gives where dx itself cannot hold it, and
    /// what each step needs, one after another.
    fn scratch(&self) -> Division {
        let weight = self.weight.map(|weight| (weight.shared(), weight.per_worker()));
        let weight_bias = self.weight_bias.map(|bias| (bias.shared(), bias.per_worker()));
        let query = self.query.map(|query| (0, query.per_worker()));
        let bias = self.bias.map(|bias| (bias.shared(), bias.per_worker()));
        let taps = self.needs_taps().then(|| {
            let make = self.plan.per_worker().max(self.plan.taps_len().saturating_mul(2));
            let read = self.plan.channel_lanes_len().saturating_add(self.plan.width);
            (self.plan.shared(), make.max(read).max(self.plan.logit_gradient_len()))
        });
        let most = |(a, b): (usize, usize), (c, d)| (a.max(c), b.max(d));
        let steps = [weight, weight_bias, query, bias, taps];
        let (shared, per_worker) = steps.into_iter().flatten().fold((0, 0), most);
        let shared = self.taps_len().saturating_add(self.convolved_len()).saturating_add(shared);
        Division { shared, per_worker }
    }

    fn needs_taps(&self) -> bool {
        self.problem.wanted().x || self.problem.needs_logits()
    }

    fn taps_len(&self) -> usize {
        let forward = self.problem.forward();
        if self.needs_taps() { forward.convolution().sequences().tokens() * forward.logits() } else { 0 }
    }

    /// The part of dx that its convolution gives, where it is to be added to before it is rounded.
    fn convolved_len(&self) -> usize {
        let conv = self.problem.forward().convolution();
        let rounded = self.problem.own_query() && conv.dtype() != DType::F32;
        if rounded { conv.sequences().tokens() * conv.channels() } else { 0 }
    }

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, sequences of another shape, an input or gradient
    /// that is missing or not part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: DynamicConvBackwardArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let DynamicConvBackwardArgs { sequences, x, taps, seed, dy, .. } = args;
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let (conv, parameters) = (forward.convolution(), self.problem.parameters());
        let (tokens, channels, logits) = (conv.sequences().tokens(), conv.channels(), forward.logits());
        let x = Tokens::check(["x", "history"], conv, sequences, x, None)?;
        let source = check_taps(forward, taps, x.x)?;
        let dropout = check_seed(conv, seed)?;
        let dy = dy.check("dy", conv.dtype(), tokens, channels)?;
        let call = Call { sequences, x, source, dropout, dy };
        let (query_channels, query) = match source {
            TapSource::Given(_) => (0, conv.dtype()),
            TapSource::Generated { channels, query, .. } => (channels, query.dtype()),
        };
        let parameter = |name, given, wanted, rows, columns| {
            check_parameter(name, given, wanted, parameters, rows, columns)
        };
        let gradients = Gradients {
            x: check_wanted("dx", args.dx, wanted.x, conv.dtype(), tokens, channels)?,
            logits: check_wanted("dlogits", args.dlogits, wanted.logits, parameters, tokens, logits)?,
            weight: parameter("dweight", args.dweight, wanted.weight, logits, query_channels)?,
            weight_bias: parameter("dweight_bias", args.dweight_bias, wanted.weight_bias, 1, logits)?,
            query: check_wanted("dquery", args.dquery, wanted.query, query, tokens, query_channels)?,
            bias: parameter("dbias", args.dbias, wanted.bias, 1, channels)?,
        };
        self.launch(&call, &gradients, scratch)
    }

    /// Runs a checked call; only the scratch may still be too little.
    pub(in crate::cpu) fn launch(
        &self,
        call: &Call<'_>,
        gradients: &Gradients<'_>,
        scratch: &mut [f32],
    ) -> Result<()> {
        let logits = self.problem.forward().logits();
        let worker_len = self.scratch().worker_len();
        let (shared, worker_parts) = self.scratch().split(scratch)?;
        let workers = &mut (worker_parts, worker_len);
        let (stored, shared) = shared.split_at_mut(self.taps_len());
        let (convolved, shared) = shared.split_at_mut(self.convolved_len());
        if self.needs_taps() {
            let (zeros, generator) = self.plan.split_shared(shared, None);
            let source = call.source.ready(logits, generator);
            self.store_taps(call, &source, &Sink::of(stored, logits), workers);
            if let Some(dx) = &gradients.x {
                let part = Sink::of(convolved, call.x.channels);
                let dx = if self.convolved_len() > 0 { &part } else { dx };
                self.convolve(call, stored, zeros, dx, workers);
            }
        }
        if self.problem.needs_logits() {
            self.logits(call, &Sink::of(stored, logits), gradients.logits.as_ref(), workers);
        }
        let dlogits = Matrix::Rows(Source::of(stored, logits));
        if let TapSource::Generated { weight, query, channels, .. } = call.source {
            if let (Some(plan), Some(dweight)) = (&self.weight, &gradients.weight) {
                let query = Matrix::Tokens(query, call.sequences);
                plan.run(dlogits, query, dweight, shared, (&mut *workers.0, worker_len));
            }
            if let (Some(plan), Some(dbias)) = (&self.weight_bias, &gradients.weight_bias) {
                plan.run(dlogits, dbias, shared, (&mut *workers.0, worker_len));
            }
            if let Some(plan) = &self.query {
                let weight = Matrix::Rows(Source::of_elements(weight, channels));
                plan.run(dlogits, weight, (&mut *workers.0, worker_len), |rows, columns, tile| {
                    store_query(call.sequences, gradients, convolved, channels, (rows, columns), tile);
                });
            }
        }
        if let (Some(plan), Some(dbias)) = (&self.bias, &gradients.bias) {
            plan.run(Matrix::Tokens(call.dy, call.sequences), dbias, shared, (&mut *workers.0, worker_len));
        }
        Ok(())
    }

    /// Makes the taps of all tokens, `[tokens, H K]`. Those that are dropped have their sign bit set after a softmax, which
    /// has none of its own and whose gradient needs them; else they are zero, and the others scaled.
    fn store_taps(
        &self,
        call: &Call<'_>,
        source: &ReadyTaps<'_>,
        stored: &Sink<'_>,
        (worker_parts, worker_len): &mut (&mut [f32], usize),
    ) {
        let (plan, conv) = (&self.plan, self.problem.forward().convolution());
        plan.tiles().for_each(worker_parts, *worker_len, |rows, heads, scratch| {
            let (taps, scratch) = scratch.split_at_mut(plan.taps_len());
            plan.taps(conv, source, call.sequences, (rows.clone(), heads.clone()), taps, scratch);
            match call.dropout {
                None => {}
                Some(dropout) if conv.normalize() == Normalize::None => {
                    plan.drop_taps(dropout, (rows.clone(), heads.clone()), taps);
                }
                Some(dropout) => {
                    let tokens = (rows.start, 1, rows.len());
                    let by_head = taps.chunks_exact_mut(plan.width * plan.tap_stride);
                    for (head, taps) in heads.clone().zip(by_head) {
                        drop_columns(dropout, head, tokens, (taps, plan.tap_stride), |w| w, |w| -w);
                    }
                }
            }
            let width = plan.width;
            let logits = heads.start * width..heads.end * width;
            let by_token = &mut scratch[..rows.len() * logits.len()];
            transpose((taps, plan.tap_stride), (by_token, logits.len()), logits.len(), rows.len());
            for (row, taps) in rows.zip(by_token.chunks_exact(logits.len())) {
                // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                unsafe { stored.store(row, logits.start, taps) };
            }
        });
    }

    /// The convolution of dy along the mirrored window, each token with the taps of those that read it.
    fn convolve(
        &self,
        call: &Call<'_>,
        taps: &[f32],
        zeros: &[f32],
        dx: &Sink<'_>,
        (worker_parts, worker_len): &mut (&mut [f32], usize),
    ) {
        let (conv, r) = (&self.mirrored, self.mirrored.head_channels());
        let signs = conv.normalize() != Normalize::None;
        let scale = call.dropout.filter(|_| signs).map(|dropout| dropout.rate().scale());
        let tokens = Tokens { x: call.dy, history: None, channels: conv.channels() };
        self.plan.tiles().for_each(worker_parts, *worker_len, |rows, heads, scratch| {
            let columns = heads.start * r..heads.end * r;
            let tile = Tile {
                plan: &self.plan,
                conv,
                tokens,
                taps: TileTaps::Read(StoredTaps { taps, scale }),
                bias: zeros,
                rows: rows.clone(),
                heads,
            };
            for piece in call.sequences.pieces(rows) {
                // SAFETY: tiles are disjoint in rows or columns, and the pieces of one tile in rows.
                unsafe { dx.zero(piece.padding.clone(), columns.clone()) };
                channel_lanes::convolve(&tile, &piece, scratch, |row, column, values| {
                    // SAFETY: tiles are disjoint in rows or columns, and so are the rows and blocks of one tile.
                    unsafe { dx.store(row, column, values) };
                });
            }
        });
    }

    /// Puts the gradients of the logits in the place of the taps.
    fn logits(
        &self,
        call: &Call<'_>,
        stored: &Sink<'_>,
        dlogits: Option<&Sink<'_>>,
        (worker_parts, worker_len): &mut (&mut [f32], usize),
    ) {
        let conv = self.problem.forward().convolution();
        let Call { x, dy, dropout, .. } = *call;
        let gradient = LogitGradient { plan: &self.plan, conv, tokens: x, dy, dropout };
        self.plan.tiles().for_each(worker_parts, *worker_len, |rows, heads, scratch| {
            for piece in call.sequences.pieces(rows) {
                // SAFETY: tiles are disjoint in rows or columns, and the pieces of one tile in rows.
                unsafe { gradient.run(&piece, heads.clone(), stored, dlogits, scratch) };
            }
        });
    }
}

/// Writes a tile of the gradient of a query: as it is where the query is separate, else added to what the convolution gave,
/// which is in `convolved` where dx does not hold it.
fn store_query(
    sequences: &Sequences,
    gradients: &Gradients<'_>,
    convolved: &[f32],
    channels: usize,
    (rows, columns): (Range<usize>, Range<usize>),
    tile: &mut [f32],
) {
    for piece in sequences.pieces(rows.clone()) {
        if let Some(dquery) = &gradients.query {
            // SAFETY: tiles are disjoint in rows or columns, and the pieces of one tile in rows.
            unsafe { dquery.zero(piece.padding.clone(), columns.clone()) };
        } else if let (Some(dx), false) = (&gradients.x, convolved.is_empty()) {
            // SAFETY: as above.
            unsafe { dx.zero(piece.padding.clone(), columns.clone()) };
        }
        for row in piece.tokens.clone().map(|t| piece.sequence.first + t) {
            let values = &mut tile[(row - rows.start) * columns.len()..][..columns.len()];
            match (&gradients.query, &gradients.x) {
                // SAFETY: tiles are disjoint in rows or columns, and so are the rows of one tile.
                (Some(dquery), _) => unsafe { dquery.store(row, columns.start, values) },
                (None, Some(dx)) => {
                    let mut part = [0.0; 64];
                    for (at, values) in
                        (columns.start..).step_by(part.len()).zip(values.chunks_mut(part.len()))
                    {
                        let part = &mut part[..values.len()];
                        if convolved.is_empty() {
                            // SAFETY: as above; the convolution wrote them.
                            unsafe { dx.load(row, at, part) };
                        } else {
                            part.copy_from_slice(&convolved[row * channels + at..][..values.len()]);
                        }
                        values.iter_mut().zip(part).for_each(|(value, part)| *value += *part);
                    }
                    // SAFETY: as above.
                    unsafe { dx.store(row, columns.start, values) };
                }
                (None, None) => {}
            }
        }
    }
}

/// A checked call.
pub(in crate::cpu) struct Call<'a> {
    pub(in crate::cpu) sequences: &'a Sequences,
    pub(in crate::cpu) x: Tokens<'a>,
    pub(in crate::cpu) source: TapSource<'a>,
    pub(in crate::cpu) dropout: Option<Dropout>,
    pub(in crate::cpu) dy: Source<'a>,
}

/// Checked gradients, each there exactly where it is wanted.
pub(in crate::cpu) struct Gradients<'a> {
    pub(in crate::cpu) x: Option<Sink<'a>>,
    pub(in crate::cpu) logits: Option<Sink<'a>>,
    pub(in crate::cpu) weight: Option<Sink<'a>>,
    pub(in crate::cpu) weight_bias: Option<Sink<'a>>,
    pub(in crate::cpu) query: Option<Sink<'a>>,
    pub(in crate::cpu) bias: Option<Sink<'a>>,
}
