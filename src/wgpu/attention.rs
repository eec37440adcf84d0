mod backward;
mod gradients;
mod plan;

pub use backward::{AttentionBackward, AttentionBackwardArgs};
#[cfg(test)]
pub(crate) use gradients::{BackwardPlaces, plan as backward_plan};
#[cfg(test)]
pub(crate) use plan::kernels;
pub(crate) use plan::{AttentionPlaces, Contents, plan};

use ::wgpu::Buffer;

use crate::gpu::attention::check_past;
use crate::problem::{AttentionKind, AttentionProblem};
use crate::wgpu::call::{Binder, Call, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::sequences::DeviceSequences;
use crate::{Result, SequenceShape};

/// Attention, prepared: see [`AttentionProblem`].
#[derive(Clone, Debug)]
pub struct Attention {
    gpu: Gpu,
    problem: AttentionProblem,
    kind: AttentionKind,
}

/// What [`Attention::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
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
    /// `[queries, H D]`, overwritten.
    pub y: Rows<'a>,
}

impl Attention {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: AttentionProblem, kind: AttentionKind) -> Result<Self> {
        let (channels, dtype) = (problem.channels(), problem.dtype());
        gpu.limits().check_tensors(&[
            ("q", &[problem.queries().tokens(), channels], dtype),
            ("k", &[problem.keys().tokens(), channels], dtype),
        ])?;
        let places = AttentionPlaces::contiguous(&problem);
        let contents = Contents::expected(&problem);
        for launch in plan(&problem, kind, &places, contents, gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(Attention { gpu: gpu.clone(), problem, kind })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &AttentionProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call with these keys needs: all scores of naive attention,
    /// `[H, queries, longest sequence of keys]`, and none of fused.
    pub fn scratch_len(&self, keys: &DeviceSequences) -> u64 {
        match self.kind {
            AttentionKind::Naive => plan::score_count(&self.problem, keys.longest()),
            AttentionKind::Fused => 0,
        }
    }

    /// A call on these buffers, with `scratch` of at least [`Attention::scratch_len`] numbers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, too little scratch, and errors of the driver.
    pub fn bind(&self, args: AttentionArgs<'_>, scratch: Option<&Buffer>) -> Result<Call> {
        let problem = &self.problem;
        let AttentionArgs { queries, keys, q, k, v, y } = args;
        queries.check(&self.gpu, problem.queries())?;
        keys.check(&self.gpu, problem.keys())?;
        check_past(problem, queries.furthest())?;
        let binder = Binder { gpu: &self.gpu };
        let (dtype, channels) = (problem.dtype(), problem.channels());
        let rows = |name, rows, sequences: SequenceShape| {
            binder.rows(name, rows, dtype, sequences.tokens(), channels)
        };
        let scratch_len = self.scratch_len(keys);
        self.gpu.limits().check_binding("scratch", scratch_len.saturating_mul(4))?;
        let scratch = binder.scratch(scratch, scratch_len)?;
        let (q, y) = (rows("q", q, problem.queries())?, rows("y", y, problem.queries())?);
        let (k, v) = (rows("k", k, problem.keys())?, rows("v", v, problem.keys())?);
        let places = AttentionPlaces { q: q.place, k: k.place, v: v.place, y: y.place };
        let contents = Contents { listed: [queries.listed(), keys.listed()], longest: keys.longest() };
        let [queries, keys] = [queries, keys].map(|list| binder.whole("sequences", list.list()));
        let mut call = Call::empty();
        match plan(problem, self.kind, &places, contents, self.gpu.limits())?.as_slice() {
            [] => {}
            [fused] => call.push(&self.gpu, fused, y, &[queries, keys, q, k, v])?,
            [scores, softmax @ .., values] => {
                // Where there is no key there are no scores.
                if scratch_len > 0 {
                    call.push(&self.gpu, scores, scratch, &[queries, keys, q, k])?;
                    for softmax in softmax {
                        call.push(&self.gpu, softmax, scratch, &[queries, keys])?;
                    }
                }
                call.push(&self.gpu, values, y, &[queries, keys, scratch, v])?;
            }
        }
        Ok(call)
    }
}
