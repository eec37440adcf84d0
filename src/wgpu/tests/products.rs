use crate::gpu::listed;
use crate::problem::{
    Activation, AppendProblem, AttentionKind, AttentionProblem, LinearProblem, Mask, NormKind, NormProblem,
    NormResidual,
};
use crate::wgpu::plan::{Launch, Place};
use crate::wgpu::shader::{DEPTH, MEMORY, WORKGROUP};
use crate::wgpu::tests::plans::{big, check, parameter, sequences};
use crate::wgpu::{Limits, append, attention, linear, norm};
use crate::{DType, Error, Result, Sequences};

pub(super) fn product(problem: &LinearProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let places = linear::Places::contiguous(problem);
    let types = linear::Types { x: problem.dtype(), parameters: problem.parameters(), y: problem.dtype() };
    Ok(linear::plan(problem, &places, types, limits)?.into_iter().collect())
}

pub(super) fn normed(problem: &NormProblem, limits: &Limits) -> Result<Vec<Launch>> {
    norm::plan(problem, &norm::Places::contiguous(problem), limits)
}

pub(super) fn attend(
    problem: &AttentionProblem,
    kind: AttentionKind,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let places = attention::AttentionPlaces::contiguous(problem);
    let listed = [listed(problem.queries()), listed(problem.keys())];
    let contents = attention::Contents { listed, longest: problem.keys().longest() };
    attention::plan(problem, kind, &places, contents, limits)
}

/// Operands of a product: as many blocks as invocations, and one stage of both fits.
pub(super) fn assert_stage_fits(row_quads: usize, rows: usize, columns: usize, workgroup: usize) {
    assert!(rows > 0 && columns > 0 && rows * columns <= workgroup, "{rows} x {columns} blocks");
    assert!(DEPTH * (row_quads * rows + 1 + columns + 1) <= MEMORY, "{rows} x {columns} blocks");
}

#[test]
fn products_fit_the_smallest_device() {
    for rows in [0, 1, 3, 8, 9, 64, 100, 4096, 1 << 20] {
        for outputs in [1, 3, 64, 65, 500, 4096] {
            let plain = LinearProblem::new(rows, 512, outputs, DType::F16).unwrap();
            let glu = plain.with_activation(Activation::Glu).unwrap();
            // Each group has tiles of its own.
            let grouped = LinearProblem::new(rows, 512, 8 * outputs, DType::F16);
            let grouped = grouped.and_then(|problem| problem.with_groups(8)).unwrap();
            let launches = [(plain, 1), (glu, 1), (grouped, 8)].into_iter().flat_map(|(problem, groups)| {
                let launches = check(&problem, |limits| product(&problem, limits));
                launches.into_iter().map(move |launch| (problem, groups, launch))
            });
            for (problem, groups, launch) in launches {
                let (row_groups, columns) =
                    (parameter(&launch, "row_groups"), parameter(&launch, "column_groups"));
                let quads = launch.kernel.constants.iter().find(|(name, _)| *name == "ROW_QUADS").unwrap().1;
                assert_stage_fits(quads as usize, row_groups, columns, WORKGROUP);
                let tile = 4 * quads as usize * row_groups;
                let across = parameter(&launch, "columns");
                assert_eq!(across, groups * parameter(&launch, "group_columns"));
                assert!(across * 4 * columns >= problem.weight_rows());
                assert_eq!(parameter(&launch, "groups"), rows.div_ceil(tile) * across);
            }
        }
    }
}

#[test]
fn norms_fit_the_smallest_device() {
    for tokens in [0, 1, 31, 33, 4096, 1 << 20] {
        for channels in [1, 2, 63, 64, 65, 512, 1000, 2048, 100_000] {
            for residual in [NormResidual::None, NormResidual::Before { sum: true }] {
                let problem = NormProblem::new(NormKind::Layer, tokens, channels, DType::F32).unwrap();
                let problem = problem.with_residual(residual);
                if tokens * channels > 1 << 31 {
                    continue;
                }
                let launches = check(&problem, |limits| normed(&problem, limits));
                let expected = if tokens == 0 { 0 } else { 1 + usize::from(problem.has_sum()) };
                assert_eq!(launches.len(), expected, "{problem:?}");
                for launch in launches {
                    let lanes = parameter(&launch, "lanes");
                    assert!(lanes.is_power_of_two() && lanes <= WORKGROUP);
                    assert_eq!(parameter(&launch, "groups"), tokens.div_ceil(WORKGROUP / lanes));
                    // Half the invocations of a row and more have something to do, where a row is no shorter than these.
                    assert!(lanes == 8 || 4 * lanes < channels, "{lanes} invocations for {channels}");
                }
            }
        }
    }
}

#[test]
fn attention_fits_the_smallest_device() {
    for sequences in sequences() {
        for (heads, d) in [(1, 1), (8, 64), (4, 65), (2, 128), (3, 256), (1, 300)] {
            let shape = sequences.shape();
            let problem = AttentionProblem::new(shape, shape, heads, d, DType::BF16).unwrap();
            let problem = problem.with_mask(Mask::local(Some(usize::MAX), Some(3)));
            let fused = check(&problem, |limits| attend(&problem, AttentionKind::Fused, limits));
            assert_eq!(fused.len(), usize::from(shape.tokens() > 0));
            for launch in &fused {
                let blocks = launch.kernel.constants.iter().find(|(name, _)| *name == "BLOCKS").unwrap().1;
                assert!(parameter(launch, "parts") * 64 * blocks as usize >= d);
                assert_eq!(parameter(launch, "columns"), heads * parameter(launch, "parts"));
                assert_eq!(parameter(launch, "left"), 1 << 30);
            }
            let scores = (shape.tokens() as u64).saturating_mul(shape.longest() as u64) * heads as u64;
            if scores > u64::from(u32::MAX) {
                let error = attend(&problem, AttentionKind::Naive, &big());
                assert!(matches!(error, Err(Error::Limit { what: "scores of", .. })), "{error:?}");
                continue;
            }
            let naive = check(&problem, |limits| attend(&problem, AttentionKind::Naive, limits));
            assert_eq!(naive.len(), 3 * usize::from(shape.tokens() > 0));
            for launch in naive.iter().step_by(2) {
                assert_stage_fits(
                    1,
                    parameter(launch, "row_groups"),
                    parameter(launch, "column_groups"),
                    WORKGROUP,
                );
            }
        }
    }
}

#[test]
fn appends_fit_the_smallest_device() {
    let some = [
        Sequences::batch(64, 1).unwrap(),
        Sequences::batch(3, 0).unwrap(),
        Sequences::padded(37, &[37, 0, 5]).unwrap(),
        Sequences::packed(&[0, 0, 9, 10, 60]).unwrap(),
        Sequences::packed(&[0, 70_000]).unwrap(),
    ];
    for shape in some.map(|sequences| sequences.shape()) {
        for (channels, dtype) in [1, 3, 64].into_iter().flat_map(|c| DType::ALL.map(|dtype| (c, dtype))) {
            let problem = AppendProblem::new(shape, channels, 100, dtype).unwrap();
            // Rows of 16-bit numbers that begin on whole words, and one that does not.
            for offset in [0, 1] {
                let x = Place { offset, ..Place::contiguous(channels) };
                let places = append::Places { x, cache: Place::contiguous(channels) };
                let launches = check(&problem, |limits| {
                    Ok(append::plan(&problem, places, true, limits)?.into_iter().collect())
                });
                assert_eq!(launches.len(), usize::from(shape.tokens() > 0));
                for launch in &launches {
                    let halves = dtype != DType::F32 && (channels % 2 == 1 || offset == 1);
                    assert_eq!(launch.kernel.constants[1], ("HALVES", u32::from(halves)));
                    let words = if dtype == DType::F32 || halves { channels } else { channels / 2 };
                    assert_eq!(parameter(launch, "width"), words);
                    let sequences = shape.sequences();
                    let step = parameter(launch, "step");
                    // What a search can reach is the last of them.
                    let reach: usize = std::iter::successors(Some(step), |step| Some(step / 2))
                        .take_while(|&step| step > 0)
                        .sum();
                    assert!(parameter(launch, "time") > 0 || step < sequences && reach + 1 >= sequences);
                }
            }
        }
    }
}
