//! Plans of backward passes need no device either.

use std::collections::BTreeSet;

use super::{DEVICES, assert_there, sequences, types};
use crate::cuda::linear::plan_backward as linear_backward;
use crate::cuda::span_key::plan_backward as span_key_backward;
use crate::cuda::{attention, limits::Limits};
use crate::problem::{
    Activation, AttentionBackwardProblem, AttentionKind, AttentionProblem, AttentionWanted,
    LinearBackwardProblem, LinearProblem, LinearWanted, Mask, SpanKeyBackwardProblem, SpanKeyProblem,
    SpanKeyWanted,
};
use crate::{DType, Error, Window};

#[test]
fn every_linear_layer_backward_has_a_plan() {
    let mut entries = BTreeSet::new();
    for [rows, inputs, outputs] in
        [[0, 3, 5], [1, 1, 1], [7, 130, 4099], [300, 64, 64], [40_000, 1024, 1024], [1 << 20, 256, 130]]
    {
        for (dtype, parameters) in types() {
            for gradients in [None, Some(DType::F32)] {
                let wanted = LinearWanted { parameters: gradients, ..LinearWanted::ALL };
                let forward = LinearProblem::new(rows, inputs, outputs, dtype)
                    .and_then(|problem| {
                        problem.with_parameters(parameters)?.with_activation(Activation::Relu)
                    })
                    .unwrap()
                    .with_bias(true);
                let problem = LinearBackwardProblem::new(forward, wanted).unwrap();
                for limits in &DEVICES {
                    let launches = linear_backward(&problem, limits).unwrap();
                    // Without rows, gradients of parameters are zero all the same.
                    assert!(launches.len() >= if rows == 0 { 2 } else { 3 });
                    for launch in &launches {
                        assert_there(launch);
                        entries.insert(launch.entry);
                    }
                }
            }
        }
    }
    let expected =
        ["add_chunks", "column_sums", "product", "product_small", "transposed", "transposed_small"];
    assert_eq!(entries, expected.into());
}

#[test]
fn every_span_key_backward_has_a_plan() {
    let mut entries = BTreeSet::new();
    for (width, dilation) in [(1, 1), (9, 1), (31, 3), (65, 1), (700, 7), (100_000, 1000)] {
        let window = Window::causal(width).unwrap().dilated(dilation).unwrap();
        for [channels, outputs] in [[1, 1], [3, 130], [768, 384], [4099, 7]] {
            for sequences in sequences() {
                for (dtype, parameters) in types() {
                    for output in [dtype, DType::F32] {
                        let forward =
                            SpanKeyProblem::new(sequences.shape(), channels, outputs, window, dtype)
                                .and_then(|problem| problem.with_parameters(parameters)?.with_output(output))
                                .unwrap()
                                .with_key_bias(true);
                        let problem = SpanKeyBackwardProblem::new(forward, SpanKeyWanted::ALL).unwrap();
                        for limits in &DEVICES {
                            let launches = span_key_backward(&problem, true, limits).unwrap();
                            // Without tokens, gradients of parameters are zero all the same.
                            let tokens = sequences.shape().tokens();
                            assert!(launches.len() >= if tokens == 0 { 3 } else { 7 });
                            for launch in &launches {
                                assert_there(launch);
                                entries.insert(launch.entry);
                            }
                        }
                    }
                }
            }
        }
    }
    let ours = ["depthwise", "filters", "by_rows", "product", "transposed", "column_sums", "add_chunks"];
    assert!(ours.iter().all(|entry| entries.contains(entry)), "{entries:?}");
}

#[test]
fn every_attention_backward_has_a_plan() {
    let mut entries = BTreeSet::new();
    let plan = |problem: &AttentionBackwardProblem, kind, longest, limits: &Limits| {
        let places = attention::BackwardPlaces::contiguous(problem.forward());
        let contents = attention::Contents { listed: [true; 2], longest };
        attention::plan_backward(problem, kind, &places, contents, limits)
    };
    for head_channels in [1, 64, 65, 128, 200, 256, 1000] {
        for queries in sequences() {
            for dtype in DType::ALL {
                for mask in [Mask::FULL, Mask::CAUSAL, Mask::local(Some(5), None)] {
                    let shape = queries.shape();
                    let forward =
                        AttentionProblem::new(shape, shape, 3, head_channels, dtype).unwrap().with_mask(mask);
                    for kind in [AttentionKind::Naive, AttentionKind::Fused] {
                        for (wanted, count) in [
                            (AttentionWanted::NONE, 0),
                            (AttentionWanted { v: true, ..AttentionWanted::NONE }, 1),
                            (AttentionWanted::ALL, 3),
                        ] {
                            let problem = AttentionBackwardProblem::new(forward, wanted);
                            for limits in &DEVICES {
                                let longest = shape.longest().min(5000);
                                let plan = plan(&problem, kind, longest, limits);
                                if kind == AttentionKind::Fused && head_channels > 256 {
                                    assert!(matches!(plan, Err(Error::Limit { limit: 256, .. })), "{plan:?}");
                                    continue;
                                }
                                let plan = plan.unwrap();
                                let some = shape.tokens() > 0;
                                let before = match kind {
                                    _ if count == 0 => 0,
                                    AttentionKind::Naive if count == 1 => 2,
                                    AttentionKind::Naive => 4,
                                    _ => 1,
                                };
                                let expected = if some { before + count } else { 0 };
                                assert_eq!(plan.launches().count(), expected, "{problem:?}");
                                for launch in plan.launches() {
                                    assert_there(launch);
                                    entries.insert(launch.entry);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    let ours = ["statistics", "gradient_64", "gradient_128", "gradient_256", "score_gradients", "weighted"];
    assert!(ours.iter().all(|entry| entries.contains(entry)), "{entries:?}");
}
