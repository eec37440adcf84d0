//! What a dynamic convolution launches: one kernel that generates the taps and convolves, or one for each.

use crate::cuda::dynamic_conv::fused::{self, Fused};
use crate::cuda::dynamic_conv::{banded, multiply_add};
use crate::cuda::light_conv::{Filter, Places};
use crate::cuda::limits::Limits;
use crate::cuda::linear;
use crate::cuda::plan::{DropoutParams, Launch, Place};
use crate::cuda::traffic::{Traffic, sectors};
use crate::problem::{Convolution, DynamicConvProblem, LinearProblem, Taps};
use crate::{DType, Result, Sequences};

/// Where the tensors of a dynamic convolution lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DynamicPlaces {
    pub(crate) tokens: Places,
    /// Logits or W.
    pub(crate) source: Place,
    pub(crate) query: Place,
    pub(crate) scratch: Place,
}

impl DynamicPlaces {
    pub(crate) fn contiguous(problem: &DynamicConvProblem) -> Self {
        let (channels, logits) = (problem.convolution().channels(), problem.logits());
        let [source, query] = match problem.taps() {
            Taps::Given => [logits, channels],
            Taps::Generated { query_channels, .. } => [query_channels; 2],
        };
        DynamicPlaces {
            tokens: Places::contiguous(channels),
            source: Place::contiguous(source),
            query: Place::contiguous(query),
            scratch: Place::contiguous(logits),
        }
    }
}

/// Logits that are given, and where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logits {
    pub(crate) dtype: DType,
    pub(crate) place: Place,
}

impl Logits {
    /// Those that a call brings, of the type of its parameters.
    fn given(conv: &Convolution, place: Place) -> Self {
        Logits { dtype: conv.parameters(), place }
    }

    /// Those that a launch leaves to the next.
    fn scratch(problem: &DynamicConvProblem, place: Place) -> Self {
        Logits { dtype: DType::F32, place: Place { stride: problem.logits(), ..place } }
    }
}

/// The launches of a call.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// There is no token.
    Nothing,
    /// With logits that are given.
    Given(Launch),
    /// The logits stay on the chip.
    Fused(Launch),
    /// They go through scratch memory, from one launch to another.
    Apart(Box<[Launch; 2]>),
}

impl Plan {
    pub(crate) fn launches(&self) -> &[Launch] {
        match self {
            Plan::Nothing => &[],
            Plan::Given(launch) | Plan::Fused(launch) => std::slice::from_ref(launch),
            Plan::Apart(launches) => &launches[..],
        }
    }
}

/// The launches of a call, where `fused` is what the problem is on the device.
pub(crate) fn plan(
    problem: &DynamicConvProblem,
    fused: Option<&Fused>,
    dropout: DropoutParams,
    places: &DynamicPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Plan> {
    let conv = problem.convolution();
    if conv.sequences().tokens() == 0 {
        return Ok(Plan::Nothing);
    }
    let tokens = &places.tokens;
    if problem.taps() == Taps::Given {
        let logits = Logits::given(conv, places.source);
        return plan_given(conv, dropout, tokens, logits, listed, limits).map(Plan::Given);
    }
    if let Some(fused) = fused {
        return fused::plan(fused, problem, dropout, places, listed, limits).map(Plan::Fused);
    }
    let (product, types) = product(problem)?;
    let logits = Logits::scratch(problem, places.scratch);
    let (y, residual) = (logits.place, logits.place);
    let lies = linear::Places { x: places.query, weight: places.source, residual, y };
    let convolve = plan_given(conv, dropout, tokens, logits, listed, limits)?;
    Ok(match linear::plan(&product, &lies, types, limits)? {
        Some(generate) => Plan::Apart(Box::new([generate, convolve])),
        None => Plan::Nothing,
    })
}

/// Numbers of scratch memory.
pub(crate) fn scratch_len(problem: &DynamicConvProblem, fused: Option<&Fused>) -> u64 {
    match problem.taps() {
        Taps::Generated { .. } if fused.is_none() => {
            (problem.convolution().sequences().tokens() as u64).saturating_mul(problem.logits() as u64)
        }
        _ => 0,
    }
}

pub(crate) fn traffic(
    problem: &DynamicConvProblem,
    fused: Option<&Fused>,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    let conv = problem.convolution();
    if conv.sequences().tokens() == 0 {
        return Ok(Traffic::default());
    }
    if problem.taps() == Taps::Given {
        return traffic_given(conv, conv.parameters(), sequences, limits);
    }
    if let Some(fused) = fused {
        return fused::traffic(fused, problem, sequences);
    }
    let (product, types) = product(problem)?;
    let generate = linear::traffic(&product, types, limits);
    let convolve = traffic_given(conv, DType::F32, sequences, limits)?;
    Ok(Traffic {
        read: generate.read + convolve.read,
        written: generate.written + convolve.written,
        parameters: generate.parameters + convolve.parameters,
    })
}

/// The generating product, from the query to logits in f32, and the types of its matrices.
pub(super) fn product(problem: &DynamicConvProblem) -> Result<(LinearProblem, linear::Types)> {
    let conv = problem.convolution();
    let (query_channels, query, weight_bias) = match problem.taps() {
        Taps::Given => (conv.channels(), None, false),
        Taps::Generated { query_channels, query, weight_bias } => (query_channels, query, weight_bias),
    };
    let x = query.unwrap_or(conv.dtype());
    let product = LinearProblem::new(conv.sequences().tokens(), query_channels, problem.logits(), x)?;
    let types = linear::Types { x, parameters: conv.parameters(), y: DType::F32 };
    Ok((product.with_bias(weight_bias), types))
}

/// The convolution with logits that are given.
fn plan_given(
    conv: &Convolution,
    dropout: DropoutParams,
    places: &Places,
    logits: Logits,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    match banded::plan(conv, dropout, places, logits, listed, limits)? {
        Some(launch) => Ok(launch),
        None => {
            let filter = Filter { dropout, ..Filter::default() };
            multiply_add::plan(conv, filter, places, logits, listed, limits)
        }
    }
}

/// What it reads and writes, with logits of type `logits` that lie without gaps.
fn traffic_given(
    conv: &Convolution,
    logits: DType,
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    match banded::traffic(conv, logits, sequences, limits)? {
        Some(traffic) => Ok(traffic),
        None => multiply_add::traffic(conv, Filter::default(), logits, sequences, limits),
    }
}

/// Sectors of the logits of one token and head, 32 at a time, as a warp reads them.
pub(crate) fn logit_sectors(conv: &Convolution, logits: DType, token: usize, head: usize) -> u64 {
    let (width, size) = (conv.window().width(), logits.size());
    let first = (token * conv.heads() + head) * width;
    let runs = (0..width).step_by(32);
    runs.map(|run| sectors((first + run) * size, (width - run).min(32) * size)).sum()
}
