//! What the backward pass of attention launches.

use crate::DType;
use crate::Result;
use crate::gpu::attention::check_lengths;
use crate::problem::{AttentionBackwardProblem, AttentionKind, AttentionProblem};
use crate::wgpu::attention::plan::{
    Contents, Lies, Parts, Planner, QUERIES, SCORES, TilesOf, fused_parts, kernel, score_count,
};
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place};
use crate::wgpu::shader::{File, Kernel, store};

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackwardPlaces {
    pub(crate) q: Place,
    pub(crate) k: Place,
    pub(crate) v: Place,
    pub(crate) y: Place,
    pub(crate) dy: Place,
    pub(crate) dq: Place,
    pub(crate) dk: Place,
    pub(crate) dv: Place,
}

impl BackwardPlaces {
    pub(crate) fn contiguous(problem: &AttentionProblem) -> Self {
        let place = Place::contiguous(problem.channels());
        let (q, k, v, y, dy, dq, dk, dv) = (place, place, place, place, place, place, place, place);
        BackwardPlaces { q, k, v, y, dy, dq, dk, dv }
    }
}

/// A buffer of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Queries,
    Keys,
    Q,
    K,
    V,
    Y,
    Dy,
    Dq,
    Dk,
    Dv,
    Scratch,
}

/// A launch, the buffer that it writes, and those that it reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) launch: Launch,
    pub(crate) output: Name,
    pub(crate) inputs: Vec<Name>,
}

/// Numbers of scratch memory: the scores of naive attention, or three numbers for each query and head.
pub(super) fn scratch_len(problem: &AttentionBackwardProblem, kind: AttentionKind, longest: usize) -> u64 {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    if !(wanted.q || wanted.k || wanted.v) {
        return 0;
    }
    match kind {
        AttentionKind::Naive => score_count(forward, longest),
        AttentionKind::Fused => 3 * score_count(forward, 1),
    }
}

/// The dispatches: of fused attention the statistics of the queries, and one for each gradient; of naive attention the
/// weights, the gradients of scores in their place, and one for each gradient.
pub(crate) fn plan(
    problem: &AttentionBackwardProblem,
    kind: AttentionKind,
    places: &BackwardPlaces,
    contents: Contents,
    limits: &Limits,
) -> Result<Vec<Step>> {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    if !(wanted.q || wanted.k || wanted.v) {
        return Ok(vec![]);
    }
    let planner = Planner { problem: forward, contents, limits };
    check_lengths(forward)?;
    let mut steps = match kind {
        AttentionKind::Fused => plan_fused(problem, places, planner)?,
        AttentionKind::Naive => plan_naive(problem, places, planner)?,
    };
    // Nothing is written where there are no tokens.
    let (queries, keys) = (forward.queries().tokens(), forward.keys().tokens());
    steps.retain(|step| match step.output {
        Name::Dk | Name::Dv => keys > 0,
        Name::Scratch if kind == AttentionKind::Naive => queries > 0 && contents.longest > 0,
        _ => queries > 0,
    });
    Ok(steps)
}

fn plan_fused(
    problem: &AttentionBackwardProblem,
    places: &BackwardPlaces,
    planner: Planner<'_>,
) -> Result<Vec<Step>> {
    use Name::{Dk, Dq, Dv, Dy, K, Keys, Q, Queries, Scratch, V, Y};
    let (wanted, dtype) = (problem.wanted(), problem.forward().dtype());
    let BackwardPlaces { q, k, v, y, dy, .. } = *places;
    let means = wanted.q || wanted.k;
    let statistics = {
        let kernel = statistics_kernel(dtype, planner.paired(&[q, k]), means);
        let lies = Lies { queries: q, keys: k, other_queries: y, other_keys: dy, ..Lies::NONE };
        let launch = planner.launch(kernel, TilesOf::Queries, QUERIES, Parts::ONE, lies)?;
        Step { launch, output: Scratch, inputs: vec![Queries, Keys, Q, K, Y, Dy] }
    };
    let (blocks, parts) = fused_parts(problem.forward().head_channels());
    let gradient = |gradient: Gradient, y: Place| {
        let paired = planner.paired(&[q, k, v, dy]);
        let kernel = fused_kernel(dtype, gradient, paired, planner.paired(&[y]), blocks);
        // What is weighted is dy for dv, or else what the scores are made with.
        let (of, lies) = match gradient {
            Gradient::Queries => {
                let lies = Lies { queries: q, keys: k, values: k, other_queries: dy, other_keys: v, y };
                (TilesOf::Queries, lies)
            }
            Gradient::Keys => {
                let lies = Lies { queries: k, keys: q, values: q, other_queries: v, other_keys: dy, y };
                (TilesOf::Keys, lies)
            }
            Gradient::Values => {
                let lies = Lies { queries: k, keys: q, values: dy, other_queries: v, other_keys: dy, y };
                (TilesOf::Keys, lies)
            }
        };
        planner.launch(kernel, of, QUERIES, parts, lies)
    };
    let mut steps = vec![statistics];
    if wanted.q {
        let launch = gradient(Gradient::Queries, places.dq)?;
        steps.push(Step { launch, output: Dq, inputs: vec![Queries, Keys, Q, K, Dy, V, Scratch] });
    }
    let inputs = vec![Keys, Queries, K, Q, V, Dy, Scratch];
    if wanted.k {
        let launch = gradient(Gradient::Keys, places.dk)?;
        steps.push(Step { launch, output: Dk, inputs: inputs.clone() });
    }
    if wanted.v {
        steps.push(Step { launch: gradient(Gradient::Values, places.dv)?, output: Dv, inputs });
    }
    Ok(steps)
}

fn plan_naive(
    problem: &AttentionBackwardProblem,
    places: &BackwardPlaces,
    planner: Planner<'_>,
) -> Result<Vec<Step>> {
    use Name::{Dk, Dq, Dv, Dy, K, Keys, Q, Queries, Scratch, V, Y};
    planner.check_scores()?;
    let wanted = problem.wanted();
    let BackwardPlaces { q, k, v, y, dy, .. } = *places;
    let step = |launch, output, inputs: &[Name]| Step { launch, output, inputs: inputs.to_vec() };
    let [scores, softmax] = planner.weights(q, k)?;
    let mut steps =
        vec![step(scores, Scratch, &[Queries, Keys, Q, K]), step(softmax, Scratch, &[Queries, Keys])];
    if wanted.v {
        let launch = planner.weighted(TilesOf::Keys, dy, places.dv)?;
        steps.push(step(launch, Dv, &[Keys, Queries, Scratch, Dy]));
    }
    if wanted.q || wanted.k {
        let kernel = scores_kernel(problem.forward().dtype(), planner.paired(&[dy, v]));
        let lies = Lies { queries: dy, keys: v, other_queries: y, ..Lies::NONE };
        let parts = planner.product(TilesOf::Queries, planner.contents.longest.max(1))?;
        let launch = planner.launch(kernel, TilesOf::Queries, QUERIES, parts, lies)?;
        steps.push(step(launch, Scratch, &[Queries, Keys, Dy, V, Y]));
    }
    if wanted.q {
        let launch = planner.weighted(TilesOf::Queries, k, places.dq)?;
        steps.push(step(launch, Dq, &[Queries, Keys, Scratch, K]));
    }
    if wanted.k {
        let launch = planner.weighted(TilesOf::Keys, q, places.dk)?;
        steps.push(step(launch, Dk, &[Keys, Queries, Scratch, Q]));
    }
    Ok(steps)
}

/// Which gradient a fused kernel makes, as it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gradient {
    Queries,
    Keys,
    Values,
}

fn statistics_kernel(dtype: DType, paired: bool, means: bool) -> Kernel {
    let first = [File::StoreWords, File::AttentionOperands, File::AttentionBackwardMean];
    let files = [&first[..], &SCORES, &[File::AttentionBackwardStatistics]].concat();
    let more = [("MEANS", u32::from(means))];
    let kernel = kernel("attention_backward", &files, dtype, DType::F32, paired, &more, 6);
    Kernel { workgroup: 128, ..kernel }
}

fn fused_kernel(dtype: DType, gradient: Gradient, paired: bool, whole_words: bool, blocks: usize) -> Kernel {
    let first = [store(dtype, whole_words), File::AttentionTwoOperands, File::StageValues];
    let files = [&first[..], &SCORES, &[File::AttentionBackwardFused]].concat();
    let more = [
        ("GRADIENT", gradient as u32),
        ("BLOCKS", blocks as u32),
        ("WEIGHTED", 8 * blocks as u32),
        ("VALUE_QUADS", 2),
    ];
    let kernel = kernel("attention_backward", &files, dtype, dtype, paired, &more, 7);
    Kernel { workgroup: 128, ..kernel }
}

fn scores_kernel(dtype: DType, paired: bool) -> Kernel {
    let first = [File::StoreWords, File::AttentionOperands, File::AttentionBackwardMean];
    let files = [&first[..], &SCORES, &[File::AttentionBackwardNaiveScores]].concat();
    kernel("attention_backward", &files, dtype, DType::F32, paired, &[], 5)
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(super) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    for (dtype, bits) in DType::ALL.into_iter().flat_map(|dtype| (0..8).map(move |bits| (dtype, bits))) {
        let (paired, other, blocks) = (bits & 1 == 1, bits & 2 == 2, 1 + (bits >> 2));
        let gradients = [Gradient::Queries, Gradient::Keys, Gradient::Values];
        let fused = gradients.map(|gradient| fused_kernel(dtype, gradient, paired, other, blocks));
        let others = [statistics_kernel(dtype, paired, other), scores_kernel(dtype, paired)];
        for kernel in fused.into_iter().chain(others) {
            if !all.contains(&kernel) {
                all.push(kernel);
            }
        }
    }
    all
}
