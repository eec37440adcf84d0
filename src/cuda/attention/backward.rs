mod plan;
mod traffic;

use plan::statistics_len;
pub(crate) use plan::{BackwardPlaces, plan};

use crate::cuda::attention::{Attention, Contents, naive};
use crate::cuda::call::{Binder, Bound, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::plan::Launch;
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::attention::check_past;
use crate::problem::{AttentionBackwardProblem, AttentionKind};
use crate::{Result, SequenceShape, Sequences};

/// The gradients of attention, prepared: see [`AttentionBackwardProblem`].
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    gpu: Gpu,
    problem: AttentionBackwardProblem,
    kind: AttentionKind,
}

/// What [`AttentionBackward::launch`] reads and writes. Each gradient is given where it is wanted, and no other.
#[derive(Debug)]
pub struct AttentionBackwardArgs<'a> {
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
    /// The output of the forward pass, `[queries, H D]`.
    pub y: Rows<'a>,
    /// `[queries, H D]`.
    pub dy: Rows<'a>,
    /// `[queries, H D]`, overwritten; zero in the padding.
    pub dq: Option<RowsMut<'a>>,
    /// `[keys, H D]`, overwritten; zero in the padding.
    pub dk: Option<RowsMut<'a>>,
    /// `[keys, H D]`, overwritten; zero in the padding.
    pub dv: Option<RowsMut<'a>>,
}

impl AttentionBackward {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and for more than 256
    /// channels of a head in the fused form, which has no more registers; and errors of the driver.
    pub fn new(gpu: &Gpu, problem: AttentionBackwardProblem, kind: AttentionKind) -> Result<Self> {
        let forward = problem.forward();
        let places = BackwardPlaces::contiguous(forward);
        for launch in plan(&problem, kind, &places, Attention::contents(forward), gpu.limits())?.launches() {
            gpu.kernel(launch)?;
        }
        Ok(AttentionBackward { gpu: gpu.clone(), problem, kind })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionBackwardProblem {
        &self.problem
    }

    /// Numbers of f32 that a call with these keys needs as scratch memory: three for each head and query, and all scores of
    /// naive attention, `[H, queries, longest sequence of keys, up to a multiple of 8]`.
    pub fn scratch_len(&self, keys: &DeviceSequences) -> u64 {
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let scores = match self.kind {
            _ if !(wanted.q || wanted.k || wanted.v) => return 0,
            AttentionKind::Naive => naive::scratch_len(forward, keys.longest()),
            AttentionKind::Fused => 0,
        };
        scores.saturating_add(statistics_len(forward))
    }

    /// What a call reads and writes, as its plan predicts it: rows that lie without gaps, and heads that begin on a sector
    /// and are whole ones. Scores and statistics in scratch memory count as tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, queries: &Sequences, keys: &Sequences) -> Result<Traffic> {
        queries.check(self.problem.forward().queries())?;
        keys.check(self.problem.forward().keys())?;
        traffic::traffic(&self.problem, self.kind, queries, keys)
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`AttentionBackward::scratch_len`] numbers.
    /// Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, a tensor that is
    /// missing or not part of the problem, too little scratch, and errors of the driver.
    pub fn launch(&self, args: AttentionBackwardArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let AttentionBackwardArgs { queries, keys, q, k, v, y, dy, dq, dk, dv } = args;
        forward.queries().check(queries.shape())?;
        forward.keys().check(keys.shape())?;
        check_past(forward, queries.furthest())?;
        let binder = Binder { gpu: &self.gpu };
        let [query_list, key_list] = [binder.list(queries)?, binder.list(keys)?];
        let (dtype, channels) = (forward.dtype(), forward.channels());
        let [query_rows, key_rows] =
            [forward.queries(), forward.keys()].map(|shape: SequenceShape| [shape.tokens(), channels]);
        let q = binder.rows("q", q, dtype, query_rows)?;
        let k = binder.rows("k", k, dtype, key_rows)?;
        let v = binder.rows("v", v, dtype, key_rows)?;
        let y = binder.rows("y", y, dtype, query_rows)?;
        let dy = binder.rows("dy", dy, dtype, query_rows)?;
        let dq = binder.wanted_rows("dq", dq, wanted.q, dtype, query_rows)?;
        let dk = binder.wanted_rows("dk", dk, wanted.k, dtype, key_rows)?;
        let dv = binder.wanted_rows("dv", dv, wanted.v, dtype, key_rows)?;
        let scratch = binder.scratch(scratch, self.scratch_len(keys))?;
        let known = &scratch.part(0, 0);
        let scores = &scratch.part(statistics_len(forward), naive::score_stride(keys.longest()));
        let places = BackwardPlaces {
            q: q.place,
            k: k.place,
            v: v.place,
            y: y.place,
            dy: dy.place,
            dq: dq.place,
            dk: dk.place,
            dv: dv.place,
            scores: scores.place,
        };
        let contents = Contents { listed: [queries.is_listed(), keys.is_listed()], longest: keys.longest() };
        let plan = plan(&self.problem, self.kind, &places, contents, self.gpu.limits())?;
        let (by_query, by_key) = ([&query_list, &key_list], [&key_list, &query_list]);
        let [weigh, normalize] = &plan.weights;
        if let Some(launch) = weigh {
            binder.launch(launch, [&q, &k, by_query[0], by_query[1], scores])?;
        }
        if let Some(launch) = normalize {
            binder.launch(launch, [by_query[0], by_query[1], scores])?;
        }
        if let Some(launch) = &plan.statistics {
            binder.launch(launch, [&q, &k, &dy, &y, by_query[0], by_query[1], known])?;
        }
        let gradient = |launch: &Option<Launch>, of: Sum<'_, '_>| -> Result<()> {
            let Some(launch) = launch else {
                return Ok(());
            };
            let Sum {
                rows,
                columns,
                row_gradients,
                column_gradients,
                values,
                lists: [of_rows, of_columns],
                to,
            } = of;
            match self.kind {
                AttentionKind::Naive => binder.launch(launch, [scores, values, of_rows, of_columns, to]),
                AttentionKind::Fused => {
                    let gradients = [row_gradients, column_gradients];
                    let all =
                        [rows, columns, gradients[0], gradients[1], values, known, of_rows, of_columns, to];
                    binder.launch(launch, all)
                }
            }
        };
        let keyed = |values, to| Sum {
            rows: &k,
            columns: &q,
            row_gradients: &v,
            column_gradients: &dy,
            values,
            lists: by_key,
            to,
        };
        gradient(&plan.v, keyed(&dy, &dv))?;
        if let Some(launch) = &plan.score_gradients {
            binder.launch(launch, [&dy, &v, known, by_query[0], by_query[1], scores])?;
        }
        gradient(&plan.k, keyed(&q, &dk))?;
        let queried = Sum {
            rows: &q,
            columns: &k,
            row_gradients: &dy,
            column_gradients: &v,
            values: &k,
            lists: by_query,
            to: &dq,
        };
        gradient(&plan.q, queried)
    }
}

/// What a gradient is made of.
struct Sum<'a, 'b> {
    rows: &'b Bound<'a>,
    columns: &'b Bound<'a>,
    row_gradients: &'b Bound<'a>,
    column_gradients: &'b Bound<'a>,
    values: &'b Bound<'a>,
    /// Of the sequences of rows and of columns.
    lists: [&'b Bound<'a>; 2],
    to: &'b Bound<'a>,
}
