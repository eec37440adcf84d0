//! Plans of backward passes: as `plans` for the forward ones.

use crate::gpu::{STEPS, listed};
use crate::problem::{
    Activation, AttentionBackwardProblem, AttentionKind, AttentionProblem, AttentionWanted,
    LinearBackwardProblem, LinearProblem, LinearWanted, Mask, SpanKeyBackwardProblem, SpanKeyProblem,
    SpanKeyWanted,
};
use crate::wgpu::plan::Launch;
use crate::wgpu::shader::WORKGROUP;
use crate::wgpu::tests::plans::{check, has, parameter, sequences, windows};
use crate::wgpu::tests::products::assert_stage_fits;
use crate::wgpu::{Limits, attention, linear, span_key};
use crate::{DType, Error, Result};

pub(super) fn layer_backward(problem: &LinearBackwardProblem, limits: &Limits) -> Result<Vec<Launch>> {
    linear::backward_plan(problem, limits)
}

pub(super) fn key_backward(problem: &SpanKeyBackwardProblem, limits: &Limits) -> Result<Vec<Launch>> {
    span_key::backward_plan(problem, listed(problem.forward().depthwise().sequences()), limits)
}

pub(super) fn attend_backward(
    problem: &AttentionBackwardProblem,
    kind: AttentionKind,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let places = attention::BackwardPlaces::contiguous(problem.forward());
    let contents = attention::Contents::expected(problem.forward());
    let steps = attention::backward_plan(problem, kind, &places, contents, limits)?;
    Ok(steps.into_iter().map(|step| step.launch).collect())
}

/// dx, dW and dbias: products whose tiles and chunks cover what they are over, and sums of chunks.
#[test]
fn gradients_of_products_fit_the_smallest_device() {
    for rows in [0, 1, 9, 255, 257, 4096, 1 << 20] {
        for (inputs, outputs) in [(1, 1), (3, 500), (64, 65), (512, 1024), (5000, 5000)] {
            let forward = LinearProblem::new(rows, inputs, outputs, DType::F16).unwrap().with_bias(true);
            let forward = forward.with_activation(Activation::Relu).unwrap();
            let problem = LinearBackwardProblem::new(forward, LinearWanted::ALL).unwrap();
            let launches = check(&problem, |limits| layer_backward(&problem, limits));
            let mut scratch = 0;
            for launch in &launches {
                if launch.kernel.name == "reduce" {
                    let (count, parts) = (parameter(launch, "count"), parameter(launch, "parts"));
                    assert!(parts > 1 && (count == inputs * outputs || count == outputs));
                    assert!(parameter(launch, "groups") * 2 * WORKGROUP >= count);
                    scratch = scratch.max(parts * count);
                    continue;
                }
                let (chunk, chunks) = (parameter(launch, "chunk"), parameter(launch, "chunks"));
                assert!(chunks > 0 && chunk * chunks >= rows && chunk * (chunks - 1) <= rows);
                assert_eq!(parameter(launch, "groups"), parameter(launch, "tiles") * chunks);
                let count = |over_tokens| if over_tokens { inputs * outputs } else { outputs };
                let fills_memory = |over_tokens| 2 * chunks * count(over_tokens) > 16 << 20;
                let constant = |name| launch.kernel.constants.iter().find(|(other, _)| *other == name);
                let Some(&(_, over_tokens)) = constant("OVER_TOKENS") else {
                    assert!(parameter(launch, "tiles") * 64 >= outputs);
                    assert!(chunk <= 8192 || fills_memory(false), "{chunk} tokens of a chunk");
                    continue;
                };
                let (row_groups, columns) =
                    (parameter(launch, "row_groups"), parameter(launch, "column_groups"));
                let quads = constant("ROW_QUADS").unwrap().1 as usize;
                assert_stage_fits(quads, row_groups, columns, WORKGROUP);
                let across = parameter(launch, "columns");
                assert!(across * 4 * columns >= inputs);
                assert!(over_tokens == 0 || chunk <= 8192 || fills_memory(true), "{chunk} tokens of a chunk");
                let down = if over_tokens == 1 { outputs } else { rows };
                assert_eq!(parameter(launch, "tiles"), down.div_ceil(4 * quads * row_groups) * across);
            }
            assert_eq!(linear::backward_scratch_len(&problem), scratch as u64);
            assert!(scratch <= 32 << 20, "{scratch} numbers of scratch memory");
            // Without rows the gradients of parameters are written all the same.
            assert_eq!(launches.len(), if rows == 0 { 2 } else { 3 } + reduces(&launches));
        }
    }
}

fn reduces(launches: &[Launch]) -> usize {
    launches.iter().filter(|launch| launch.kernel.name == "reduce").count()
}

#[test]
fn gradients_of_span_keys_fit_the_smallest_device() {
    for sequences in sequences() {
        for window in windows() {
            for (channels, outputs) in [(1, 1), (33, 30), (512, 384)] {
                let key = SpanKeyProblem::new(sequences.shape(), channels, outputs, window, DType::BF16);
                let key = key.unwrap().with_key_bias(true);
                let problem = SpanKeyBackwardProblem::new(key, SpanKeyWanted::ALL).unwrap();
                let launches = check(&problem, |limits| key_backward(&problem, limits));
                let mut partial = 0;
                for launch in &launches {
                    let get = |name| parameter(launch, name);
                    if launch.kernel.name == "reduce" {
                        partial = partial.max(get("parts") * get("count"));
                    } else if has(launch, "all_groups") {
                        // Every tile is in a chunk, every channel and tap in a part; the sums of invocations fit.
                        let chunks = get("all_groups") / (get("channel_parts") * get("tap_parts"));
                        assert!(get("chunk") * chunks >= get("groups"), "{problem:?}");
                        assert!(get("lanes") * get("time_groups") <= WORKGROUP);
                        assert!(get("lanes") * get("channel_parts") >= channels);
                        assert!(get("tap_parts") * 8 >= window.width());
                        assert!(chunks == 1 || chunks * channels * window.width() <= 32 << 20);
                    } else if has(launch, "reversed") {
                        assert!(get("lanes") * get("time_groups") <= WORKGROUP);
                        assert!(get("lanes") * get("columns") >= channels);
                        assert_eq!(get("time_groups") * STEPS, get("phases") * get("steps"));
                    }
                }
                let tokens = sequences.shape().tokens();
                let scratch = span_key::backward_scratch_len(&problem).unwrap();
                assert_eq!(scratch, [(tokens * channels) as u64, partial as u64]);
                // Without tokens the gradients of the three parameters are written all the same.
                let others = launches.len() - reduces(&launches);
                assert_eq!(others, if tokens == 0 { 3 } else { 7 }, "{problem:?}");
            }
        }
    }
}

#[test]
fn gradients_of_attention_fit_the_smallest_device() {
    for sequences in sequences() {
        for (heads, d) in [(1, 1), (8, 64), (4, 65), (3, 256), (1, 300)] {
            let shape = sequences.shape();
            let forward = AttentionProblem::new(shape, shape, heads, d, DType::BF16).unwrap();
            let forward = forward.with_mask(Mask::local(Some(7), None));
            let problem = AttentionBackwardProblem::new(forward, AttentionWanted::ALL);
            let some = usize::from(shape.tokens() > 0);
            let fused = check(&problem, |limits| attend_backward(&problem, AttentionKind::Fused, limits));
            assert_eq!(fused.len(), 4 * some);
            for launch in fused.iter().skip(1) {
                let blocks = launch.kernel.constants.iter().find(|(name, _)| *name == "BLOCKS").unwrap().1;
                assert!(parameter(launch, "parts") * 64 * blocks as usize >= d);
                assert_eq!(parameter(launch, "columns"), heads * parameter(launch, "parts"));
            }
            // Keys see the queries that see them: as far to the right as those see to the left.
            for (i, launch) in fused.iter().enumerate() {
                let [left, right] = ["left", "right"].map(|side| parameter(launch, side));
                assert_eq!([left, right], if i < 2 { [7, 1 << 30] } else { [1 << 30, 7] });
            }
            let scores = (shape.tokens() as u64).saturating_mul(shape.longest() as u64) * heads as u64;
            if scores > u64::from(u32::MAX) {
                let error = attend_backward(&problem, AttentionKind::Naive, &Limits::default());
                assert!(matches!(error, Err(Error::Limit { what: "scores of", .. })), "{error:?}");
                continue;
            }
            let naive = check(&problem, |limits| attend_backward(&problem, AttentionKind::Naive, limits));
            assert_eq!(naive.len(), 6 * some);
            for launch in naive.iter().filter(|launch| parameter(launch, "row_groups") > 0) {
                let (rows, columns) = (parameter(launch, "row_groups"), parameter(launch, "column_groups"));
                assert_stage_fits(1, rows, columns, WORKGROUP);
                assert!(4 * rows <= WORKGROUP / 4, "the means of a tile's rows have invocations");
            }
        }
    }
    for wanted in [AttentionWanted::NONE, AttentionWanted { v: true, ..AttentionWanted::NONE }] {
        let shape = sequences()[1].shape();
        let forward = AttentionProblem::new(shape, shape, 8, 64, DType::F16).unwrap();
        let problem = AttentionBackwardProblem::new(forward, wanted);
        for (kind, launches) in [(AttentionKind::Fused, 2), (AttentionKind::Naive, 3)] {
            let found = attend_backward(&problem, kind, &Limits::default()).unwrap();
            assert_eq!(found.len(), if wanted.v { launches } else { 0 });
        }
    }
}
