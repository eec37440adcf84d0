//! What the gradients of a dynamic convolution launch, but for the products with its generator.

use crate::problem::{Convolution, DynamicConvBackwardProblem, DynamicConvProblem, Taps};
use crate::wgpu::dynamic_conv::band::{Band, plan_statistics, statistics_len};
use crate::wgpu::dynamic_conv::{Logits, plan_gathered, plan_generate};
use crate::wgpu::limits::Limits;
use crate::wgpu::linear::products::{Incoming, Products};
use crate::wgpu::plan::{Launch, Place, Tokens};
use crate::{DType, Normalize, Result};

/// Where the tensors of a call lie. What is in scratch memory begins at the beginning of its buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: Place,
    pub(crate) dy: Place,
    pub(crate) dx: Place,
    /// Logits or W.
    pub(crate) source: Place,
    pub(crate) query: Place,
    pub(crate) weight_bias: usize,
    pub(crate) dlogits: Place,
    /// Of the dropout.
    pub(crate) seed: u64,
}

impl Places {
    pub(crate) fn contiguous(problem: &DynamicConvBackwardProblem) -> Self {
        let forward = problem.forward();
        let rows = Place::contiguous(forward.convolution().channels());
        let query = match forward.taps() {
            Taps::Given => rows,
            Taps::Generated { query_channels, .. } => Place::contiguous(query_channels),
        };
        let logits = Place::contiguous(forward.logits());
        Places {
            x: rows,
            dy: rows,
            dx: rows,
            source: logits,
            query,
            weight_bias: 0,
            dlogits: logits,
            seed: 0,
        }
    }
}

/// The launches, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Launches {
    /// The logits again, where they are generated, in f32.
    pub(crate) generate: Option<Launch>,
    /// The statistics of their softmax.
    pub(crate) statistics: Option<Launch>,
    /// Their gradient: in f32 where they are generated.
    pub(crate) logits: Option<Launch>,
    /// dx, but for what x has as its own query: in f32 where it is.
    pub(crate) x: Option<Launch>,
}

impl Launches {
    pub(crate) fn all(self) -> impl Iterator<Item = Launch> {
        [self.generate, self.statistics, self.logits, self.x].into_iter().flatten()
    }
}

fn is_generated(forward: &DynamicConvProblem) -> bool {
    forward.taps() != Taps::Given
}

/// Whether the logits are read: not for their own gradient without a softmax.
fn reads_logits(problem: &DynamicConvBackwardProblem) -> bool {
    let normalize = problem.forward().convolution().normalize();
    problem.wanted().x || problem.needs_logits() && normalize != Normalize::None
}

fn has_statistics(conv: &Convolution, problem: &DynamicConvBackwardProblem) -> bool {
    conv.normalize() != Normalize::None && reads_logits(problem)
}

/// Numbers of scratch memory, in four buffers: the logits, and later partial sums; the statistics of their softmax; their
/// gradient; and what dx has besides that of its query.
pub(crate) fn scratch_len(problem: &DynamicConvBackwardProblem) -> [u64; 4] {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    let conv = forward.convolution();
    let tokens = conv.sequences().tokens() as u64;
    let when = |wanted: bool, numbers: u64| if wanted { numbers } else { 0 };
    let logits = tokens.saturating_mul(forward.logits() as u64);
    let generated = is_generated(forward);
    let products = generator_products(problem);
    let sums = [
        when(wanted.weight, products.weight_scratch()),
        when(wanted.weight_bias, products.bias_scratch()),
        when(wanted.bias, bias_products(problem).bias_scratch()),
    ];
    [
        sums.into_iter().fold(when(generated && reads_logits(problem), logits), u64::max),
        when(has_statistics(conv, problem), statistics_len(conv)),
        when(generated && problem.needs_logits(), logits),
        when(problem.own_query(), tokens.saturating_mul(conv.channels() as u64)),
    ]
}

/// The gradients of the generator and of its query, from that of the logits.
pub(crate) fn generator_products(problem: &DynamicConvBackwardProblem) -> Products {
    let forward = problem.forward();
    let sequences = forward.convolution().sequences();
    let query_channels = match forward.taps() {
        Taps::Given => 1,
        Taps::Generated { query_channels, .. } => query_channels,
    };
    let sizes = [sequences.tokens(), forward.logits(), query_channels];
    Products::new(sizes, Incoming::plain(DType::F32), Some(sequences))
}

/// The column sums of dy.
pub(crate) fn bias_products(problem: &DynamicConvBackwardProblem) -> Products {
    let conv = problem.forward().convolution();
    let sizes = [conv.sequences().tokens(), conv.channels(), conv.channels()];
    Products::new(sizes, Incoming::plain(conv.dtype()), Some(conv.sequences()))
}

/// The launches.
pub(crate) fn plan(
    problem: &DynamicConvBackwardProblem,
    places: &Places,
    listed: bool,
    limits: &Limits,
) -> Result<Launches> {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    let conv = forward.convolution();
    let Places { x, dy, dx, source, query, weight_bias, dlogits, seed } = *places;
    let mut launches = Launches::default();
    if conv.sequences().tokens() == 0 {
        return Ok(launches);
    }
    let generated = is_generated(forward);
    let logits = if generated {
        Logits { dtype: DType::F32, offset: 0, stride: forward.logits() }
    } else {
        Logits { dtype: conv.parameters(), offset: source.offset, stride: source.stride }
    };
    if generated && reads_logits(problem) {
        launches.generate = plan_generate(forward, query, (source.offset, weight_bias), limits)?;
    }
    if has_statistics(conv, problem) {
        launches.statistics = Some(plan_statistics(conv, logits, 0, listed, limits)?);
    }
    if problem.needs_logits() {
        let band = Band { conv, logits, x, dy, statistics: 0, seed, listed };
        let dtype = if generated { DType::F32 } else { problem.parameters() };
        launches.logits = Some(band.plan_rows(dlogits, dtype, limits)?);
    }
    if wanted.x {
        let dtype = if problem.own_query() { DType::F32 } else { conv.dtype() };
        let tokens = Tokens { x: dy, y: dx, history: 0, bias: 0 };
        let on = (listed, limits);
        launches.x = Some(plan_gathered(&conv.mirrored(), &tokens, ((logits, seed), 0), dtype, on)?);
    }
    Ok(launches)
}
