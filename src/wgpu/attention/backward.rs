use ::wgpu::Buffer;

use crate::gpu::attention::check_past;
use crate::problem::{AttentionBackwardProblem, AttentionKind};
use crate::wgpu::attention::Contents;
use crate::wgpu::attention::gradients::{self, BackwardPlaces, Name};
use crate::wgpu::call::{Binder, Bound, Call, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::sequences::DeviceSequences;
use crate::{Result, SequenceShape};

/// The gradients of attention, prepared: see [`AttentionBackwardProblem`].
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    gpu: Gpu,
    problem: AttentionBackwardProblem,
    kind: AttentionKind,
}

/// What [`AttentionBackward::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
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
    /// `[queries, H D]`, the output of the forward pass.
    pub y: Rows<'a>,
    /// `[queries, H D]`.
    pub dy: Rows<'a>,
    /// `[queries, H D]`, overwritten; where it is wanted, as all that follow.
    pub dq: Option<Rows<'a>>,
    /// `[keys, H D]`, overwritten.
    pub dk: Option<Rows<'a>>,
    /// `[keys, H D]`, overwritten.
    pub dv: Option<Rows<'a>>,
}

impl AttentionBackward {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: AttentionBackwardProblem, kind: AttentionKind) -> Result<Self> {
        let forward = problem.forward();
        let (channels, dtype) = (forward.channels(), forward.dtype());
        gpu.limits().check_tensors(&[
            ("q", &[forward.queries().tokens(), channels], dtype),
            ("k", &[forward.keys().tokens(), channels], dtype),
        ])?;
        let places = BackwardPlaces::contiguous(forward);
        let contents = Contents::expected(forward);
        for step in gradients::plan(&problem, kind, &places, contents, gpu.limits())? {
            gpu.pipeline(&step.launch.kernel)?;
        }
        Ok(AttentionBackward { gpu: gpu.clone(), problem, kind })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionBackwardProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call with these keys needs: all scores of naive attention,
    /// `[H, queries, longest sequence of keys]`, and three for each query and head of fused.
    pub fn scratch_len(&self, keys: &DeviceSequences) -> u64 {
        gradients::scratch_len(&self.problem, self.kind, keys.longest())
    }

    /// A call on these buffers, with `scratch` of at least [`AttentionBackward::scratch_len`] numbers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input, an
    /// output that is missing or not part of the problem, sequences of another shape, too little scratch, and errors of
    /// the driver.
    pub fn bind(&self, args: AttentionBackwardArgs<'_>, scratch: Option<&Buffer>) -> Result<Call> {
        let AttentionBackwardArgs { queries, keys, q, k, v, y, dy, dq, dk, dv } = args;
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        queries.check(&self.gpu, forward.queries())?;
        keys.check(&self.gpu, forward.keys())?;
        check_past(forward, queries.furthest())?;
        let binder = Binder { gpu: &self.gpu };
        let (dtype, channels) = (forward.dtype(), forward.channels());
        let (of_queries, of_keys) = (forward.queries(), forward.keys());
        let rows = |name, rows, sequences: SequenceShape| {
            binder.rows(name, rows, dtype, sequences.tokens(), channels)
        };
        let gradient = |name, rows, wanted, sequences: SequenceShape| {
            binder.optional_rows(name, rows, wanted, dtype, sequences.tokens(), channels)
        };
        let scratch_len = self.scratch_len(keys);
        self.gpu.limits().check_binding("scratch", scratch_len.saturating_mul(4))?;
        let scratch = binder.scratch(scratch, scratch_len)?;
        let (q, y, dy) = (rows("q", q, of_queries)?, rows("y", y, of_queries)?, rows("dy", dy, of_queries)?);
        let (k, v) = (rows("k", k, of_keys)?, rows("v", v, of_keys)?);
        let dq = gradient("dq", dq, wanted.q, of_queries)?;
        let dk = gradient("dk", dk, wanted.k, of_keys)?;
        let dv = gradient("dv", dv, wanted.v, of_keys)?;
        let places = BackwardPlaces {
            q: q.place,
            k: k.place,
            v: v.place,
            y: y.place,
            dy: dy.place,
            dq: dq.place,
            dk: dk.place,
            dv: dv.place,
        };
        let contents = Contents { listed: [queries.listed(), keys.listed()], longest: keys.longest() };
        let [queries, keys] = [queries, keys].map(|list| binder.whole("sequences", list.list()));
        let bound = |name: Name| -> Bound<'_> {
            match name {
                Name::Queries => queries,
                Name::Keys => keys,
                Name::Q => q,
                Name::K => k,
                Name::V => v,
                Name::Y => y,
                Name::Dy => dy,
                Name::Dq => dq,
                Name::Dk => dk,
                Name::Dv => dv,
                Name::Scratch => scratch,
            }
        };
        let mut call = Call::empty();
        for step in gradients::plan(&self.problem, self.kind, &places, contents, self.gpu.limits())? {
            let inputs: Vec<_> = step.inputs.iter().map(|&name| bound(name)).collect();
            call.push(&self.gpu, &step.launch, bound(step.output), &inputs)?;
        }
        Ok(call)
    }
}
