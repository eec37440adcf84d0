//! The plan of `kernels/attention_backward.cu`.

use crate::Result;
use crate::cuda::attention::{Contents, Params, Places, fused, naive, tiles};
use crate::cuda::limits::Limits;
use crate::cuda::linear::product::type_number;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, unit};
use crate::gpu::within;
use crate::problem::{AttentionBackwardProblem, AttentionKind, AttentionProblem};
use bytemuck::{Pod, Zeroable};

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackwardPlaces {
    pub(super) q: Place,
    pub(super) k: Place,
    pub(super) v: Place,
    pub(super) y: Place,
    pub(super) dy: Place,
    pub(super) dq: Place,
    pub(super) dk: Place,
    pub(super) dv: Place,
    pub(super) scores: Place,
}

impl BackwardPlaces {
    pub(crate) fn contiguous(problem: &AttentionProblem) -> Self {
        let p = Place::contiguous(problem.channels());
        BackwardPlaces { q: p, k: p, v: p, y: p, dy: p, dq: p, dk: p, dv: p, scores: Place::contiguous(8) }
    }
}

/// The launches, in the order in which they are here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Scores of naive attention, and their softmax.
    pub(super) weights: [Option<Launch>; 2],
    pub(super) statistics: Option<Launch>,
    pub(super) v: Option<Launch>,
    /// Of naive attention.
    pub(super) score_gradients: Option<Launch>,
    pub(super) k: Option<Launch>,
    pub(super) q: Option<Launch>,
}

impl Plan {
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        let Plan { weights, statistics, v, score_gradients, k, q } = self;
        weights.iter().chain([statistics, v, score_gradients, k, q]).flatten()
    }
}

/// Rows and columns of a tile, and threads of a block; channels of a tile of naive attention.
pub(super) const TILE: usize = 64;
pub(super) const THREADS: u32 = 256;

/// The structure `Params` of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct BackwardParams {
    attention: Params,
    row_gradient_stride: u64,
    column_gradient_stride: u64,
    score_stride: u64,
    score_rows: u64,
    /// Bits of an f32.
    factor: u32,
    dtype: u32,
    has_scores: u32,
    has_gradients: u32,
    by_key: u32,
    wide: u32,
}

/// Numbers of scratch memory for what is known of each head and query, up to a whole sector.
pub(super) fn statistics_len(problem: &AttentionProblem) -> u64 {
    let sizes = [3, problem.heads(), problem.queries().tokens()];
    let len = sizes.into_iter().fold(1, |product: u64, size| product.saturating_mul(size as u64));
    len.checked_next_multiple_of(8).unwrap_or(len)
}

/// The kernel that makes a gradient, and the parts that a head is divided into.
pub(super) fn gradient_kernel(problem: &AttentionProblem, kind: AttentionKind) -> (&'static str, usize) {
    match (kind, problem.head_channels()) {
        (AttentionKind::Naive, d) => ("weighted", d.div_ceil(TILE)),
        (AttentionKind::Fused, ..=64) => ("gradient_64", 1),
        (AttentionKind::Fused, ..=128) => ("gradient_128", 1),
        (AttentionKind::Fused, _) => ("gradient_256", 1),
    }
}

/// What the launches of a call have in common.
struct Planner<'a> {
    problem: &'a AttentionProblem,
    contents: Contents,
    limits: &'a Limits,
}

/// What a kernel is told beside what any attention is.
struct Given<'a> {
    entry: &'static str,
    parts: usize,
    places: Places,
    gradients: [Place; 2],
    /// All that is read and written by quads.
    wide: &'a [Place],
    factor: f32,
    has_scores: bool,
    has_gradients: bool,
    by_key: bool,
}

impl Planner<'_> {
    fn launch(&self, given: &Given<'_>) -> Result<Launch> {
        let swapped = self.problem.mirrored();
        let problem = if given.by_key { &swapped } else { self.problem };
        let Contents { listed: [queries, keys], longest } = self.contents;
        let listed = if given.by_key { [keys, queries] } else { [queries, keys] };
        let tiles = tiles(problem, listed[0], TILE, given.parts)?;
        let (dtype, d) = (problem.dtype(), problem.head_channels());
        let is_wide = unit(dtype, d, given.wide) as usize >= 4 * dtype.size();
        let contents = Contents { listed, longest };
        let [row_gradients, column_gradients] = given.gradients;
        let params = BackwardParams {
            attention: Params::new(problem, &given.places, contents, &tiles, given.parts)?,
            row_gradient_stride: row_gradients.stride as u64,
            column_gradient_stride: column_gradients.stride as u64,
            score_stride: given.places.scores.stride as u64,
            score_rows: self.problem.queries().tokens() as u64,
            factor: given.factor.to_bits(),
            dtype: type_number(dtype),
            has_scores: given.has_scores.into(),
            has_gradients: given.has_gradients.into(),
            by_key: given.by_key.into(),
            wide: is_wide.into(),
        };
        Launch::new((modules::ATTENTION_BACKWARD, given.entry), tiles.groups(), THREADS, &params, self.limits)
    }
}

/// The launches: none for a gradient that is not wanted, or has no rows.
pub(crate) fn plan(
    problem: &AttentionBackwardProblem,
    kind: AttentionKind,
    at: &BackwardPlaces,
    contents: Contents,
    limits: &Limits,
) -> Result<Plan> {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    let naive = kind == AttentionKind::Naive;
    if !naive {
        let most = fused::MOST_CHANNELS as u64;
        within("channels of a head of", "fused attention", forward.head_channels() as u64, most)?;
    }
    let mut plan = Plan::default();
    if !(wanted.q || wanted.k || wanted.v) {
        return Ok(plan);
    }
    let planner = Planner { problem: forward, contents, limits };
    let [has_queries, has_keys] = [forward.queries(), forward.keys()].map(|shape| shape.tokens() > 0);
    let has_gradients = wanted.q || wanted.k;
    let places = |q, k, v, y| Places { q, k, v, y, scores: at.scores };
    let (entry, parts) = gradient_kernel(forward, kind);
    if has_queries && naive && contents.longest > 0 {
        let scored = naive::plan(forward, &places(at.q, at.k, at.v, at.y), contents, limits)?;
        let mut scored = scored.into_iter();
        plan.weights = [scored.next(), scored.next()];
    }
    if has_queries && (has_gradients || !naive) {
        plan.statistics = Some(planner.launch(&Given {
            entry: "statistics",
            parts: 1,
            places: places(at.q, at.k, at.v, at.y),
            gradients: [at.dy, at.v],
            wide: &[at.q, at.k],
            factor: 1.0,
            has_scores: !naive,
            has_gradients,
            by_key: false,
        })?);
    }
    if naive && has_gradients && has_queries && contents.longest > 0 {
        plan.score_gradients = Some(planner.launch(&Given {
            entry: "score_gradients",
            parts: contents.longest.div_ceil(TILE),
            places: places(at.dy, at.v, at.v, at.y),
            gradients: [at.dy, at.v],
            wide: &[at.dy, at.v],
            factor: 1.0,
            has_scores: false,
            has_gradients,
            by_key: false,
        })?);
    }
    let by_key = |values, to: Place, has_gradients| {
        planner.launch(&Given {
            entry,
            parts,
            places: places(at.k, at.q, values, to),
            gradients: [at.v, at.dy],
            wide: &[at.k, at.q, at.v, at.dy, to],
            factor: if has_gradients { forward.scale() } else { 1.0 },
            has_scores: true,
            has_gradients,
            by_key: true,
        })
    };
    if wanted.v && has_keys {
        plan.v = Some(by_key(at.dy, at.dv, false)?);
    }
    if wanted.k && has_keys {
        plan.k = Some(by_key(at.q, at.dk, true)?);
    }
    if wanted.q && has_queries {
        plan.q = Some(planner.launch(&Given {
            entry,
            parts,
            places: places(at.q, at.k, at.k, at.dq),
            gradients: [at.dy, at.v],
            wide: &[at.q, at.k, at.v, at.dy, at.dq],
            factor: forward.scale(),
            has_scores: true,
            has_gradients: true,
            by_key: false,
        })?);
    }
    Ok(plan)
}
