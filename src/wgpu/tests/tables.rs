//! Plans of embeddings and of the largest numbers of rows.

use crate::gpu::listed;
use crate::problem::{EmbeddingProblem, TopKProblem};
use crate::wgpu::plan::Launch;
use crate::wgpu::shader::WORKGROUP;
use crate::wgpu::tests::plans::{check, parameter, sequences};
use crate::wgpu::{Limits, embedding, top_k};
use crate::{DType, Error, Result};

pub(super) fn embed(problem: &EmbeddingProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let places = embedding::Places::contiguous(problem);
    let listed = problem.sequences().is_some_and(listed);
    Ok(embedding::plan(problem, places, listed, limits)?.into_iter().collect())
}

pub(super) fn rank(problem: &TopKProblem, limits: &Limits) -> Result<Vec<Launch>> {
    top_k::plan(problem, top_k::Places::contiguous(problem), limits)
}

/// Parts cover a row, and groups all rows; an invocation has few channels, and most of them have some.
#[test]
fn embeddings_fit_the_smallest_device() {
    for sequences in sequences() {
        for channels in [1, 2, 7, 9, 64, 1000, 4095, 4096, 4097, 100_000, 1_000_003] {
            let shape = sequences.shape();
            if shape.tokens() * channels > 1 << 31 {
                continue;
            }
            let problem = EmbeddingProblem::of_sequences(shape, 30, channels, DType::F16)
                .and_then(|problem| problem.with_positions(500, 1)?.with_types(2))
                .unwrap();
            let launches = check(&problem, |limits| embed(&problem, limits));
            assert_eq!(launches.len(), usize::from(shape.tokens() > 0), "{problem:?}");
            for launch in launches {
                let [lanes, part, parts] = ["lanes", "part", "parts"].map(|name| parameter(&launch, name));
                assert!(lanes.is_power_of_two() && lanes <= WORKGROUP && part % 2 == 0);
                assert!(part * parts >= channels && part * (parts - 1) < channels, "{parts} of {channels}");
                assert!(part.min(channels).div_ceil(2 * lanes) <= 8, "{lanes} invocations for {channels}");
                assert!(lanes == 1 || 4 * lanes < channels, "{lanes} invocations for {channels}");
                let rows = WORKGROUP / lanes;
                assert_eq!(parameter(&launch, "groups"), shape.tokens().div_ceil(rows) * parts);
            }
        }
    }
}

#[test]
fn largest_numbers_fit_the_smallest_device() {
    for rows in [0, 1, 9, 70_000] {
        for (vocabulary, k) in [(1, 1), (7, 7), (20_000, 5)] {
            let problem = TopKProblem::new(rows, vocabulary, k, DType::BF16).unwrap();
            for (values, expected) in [(true, 2), (false, 1)] {
                let problem = problem.with_values(values);
                let launches = check(&problem, |limits| rank(&problem, limits));
                assert_eq!(launches.len(), if rows == 0 { 0 } else { expected }, "{problem:?}");
            }
        }
    }
}

/// A device with fewer storage buffers than an embedding reads says so.
#[test]
fn too_few_buffers() {
    let problem = EmbeddingProblem::new(3, 4, 5, DType::F32).unwrap();
    let limits = Limits { storage_buffers: 6, ..Limits::default() };
    let error = Error::Limit { what: "storage buffers of", of: "embedding", needed: 7, limit: 6 };
    assert_eq!(embed(&problem, &limits), Err(error));
}
