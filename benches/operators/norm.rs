use criterion::Criterion;
use lightspan::ops::{self, NormOptions, Residual};
use lightspan::problem::{NormKind, NormProblem, NormResidual};
use lightspan::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::support::{CHANNELS, Group, LENGTHS, Line, Size, measure, measure_copy, noise, tensor};
use crate::unfused::assert_close;

/// What a pre-norm layer asks for: the norm of x + residual, and that sum. It knows nothing of sequences, so here the
/// lengths are rows in all.
const PRE_NORM: NormResidual = NormResidual::Before { sum: true };

pub(crate) fn by_rows(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "norm_by_rows", device);
    for rows in LENGTHS {
        measure_copy(&mut group, rows, rows * CHANNELS * DType::F32.size());
        for (what, kind) in [("layer", NormKind::Layer), ("rms", NormKind::Rms)] {
            let problem = NormProblem::new(kind, rows, CHANNELS, DType::F32)?.with_residual(PRE_NORM);
            measure_fused(&mut group, Line::new(what, rows), problem)?;
        }
        measure_unfused(&mut group, rows)?;
    }
    group.finish();
    Ok(())
}

/// As many tokens as fill any GPU, of as many channels as a model has.
pub(crate) fn large(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "norm_large", device);
    let size = Size::large(4096);
    measure_copy(&mut group, "bf16", size.bytes(DType::BF16));
    let residuals = [("alone", NormResidual::None), ("pre-norm", PRE_NORM), ("after", NormResidual::After)];
    for (form, residual) in residuals {
        for (what, kind) in [("layer", NormKind::Layer), ("rms", NormKind::Rms)] {
            let problem = NormProblem::new(kind, size.all(), size.channels, DType::BF16)?;
            measure_fused(
                &mut group,
                Line::new(format!("{what} {form}"), "bf16"),
                problem.with_residual(residual),
            )?;
        }
    }
    group.finish();
    Ok(())
}

/// x, the residual, y and the sum: each call has all of them, and takes those that it wants.
type Tensors = [Tensor; 4];

fn measure_fused(group: &mut Group<'_>, line: Line, problem: NormProblem) -> Result<()> {
    let device = group.device().clone();
    let (shape, dtype) = ([problem.tokens(), problem.channels()], problem.dtype());
    let weight = tensor(&shape[1..], dtype, &device)?;
    let make = || -> Result<Tensors> {
        let [x, residual] = [tensor(&shape, dtype, &device)?, tensor(&shape, dtype, &device)?];
        let [y, sum] = [Tensor::zeros(&shape, dtype, &device)?, Tensor::zeros(&shape, dtype, &device)?];
        Ok([x, residual, y, sum])
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use lightspan::wgpu::{Norm, NormArgs};
        let operator = Norm::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, tensors, _| {
            let [x, residual, y, sum] = tensors;
            operator.bind(NormArgs {
                x: rows(x),
                residual: problem.has_residual().then(|| rows(residual)),
                weight: elements(&weight),
                bias: None,
                y: rows(y),
                sum: problem.has_sum().then(|| rows(sum)),
            })
        });
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{elements, measure, rows, rows_mut};
        use lightspan::cuda::{Norm, NormArgs};
        let operator = Norm::new(gpu, problem);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, tensors| {
            let [x, residual, y, sum] = tensors;
            operator.launch(NormArgs {
                x: rows(x),
                residual: problem.has_residual().then(|| rows(residual)),
                weight: elements(&weight),
                bias: None,
                y: rows_mut(y),
                sum: problem.has_sum().then(|| rows_mut(sum)),
            })
        });
    }
    measure(group, line, problem.bytes(), make, |[x, residual, y, sum]| {
        let residual = match problem.residual() {
            NormResidual::None => Residual::None,
            NormResidual::Before { .. } => Residual::Before(residual),
            NormResidual::After => Residual::After(residual),
        };
        let options = NormOptions { residual, ..Default::default() };
        let sum = problem.has_sum().then_some(sum);
        match problem.kind() {
            NormKind::Layer => ops::layer_norm_into(y, sum, x, &weight, &options),
            NormKind::Rms => ops::rms_norm_into(y, sum, x, &weight, &options),
        }
    });
    Ok(())
}

/// The sum as a pass of its own, then the layer norm.
fn unfused(x: &[f32], residual: &[f32], weight: &[f32], sum: &mut [f32], y: &mut [f32]) {
    let width = weight.len();
    let rows = sum.par_chunks_mut(width).zip(x.par_chunks(width)).zip(residual.par_chunks(width));
    rows.for_each(|((sum, x), residual)| {
        sum.iter_mut().zip(x).zip(residual).for_each(|((sum, x), residual)| *sum = x + residual);
    });
    y.par_chunks_mut(width).zip(sum.par_chunks(width)).for_each(|(y, x)| {
        let mean = x.iter().sum::<f32>() / width as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        y.iter_mut().zip(x).zip(weight).for_each(|((y, x), weight)| *y = (x - mean) * scale * weight);
    });
}

fn measure_unfused(group: &mut Group<'_>, rows: usize) -> Result<()> {
    if !group.has_unfused() {
        return Ok(());
    }
    let weight = noise(CHANNELS);
    let problem = NormProblem::new(NormKind::Layer, rows, CHANNELS, DType::F32)?.with_residual(PRE_NORM);
    let make = || Ok([(); 4].map(|()| noise(rows * CHANNELS)));
    measure(group, Line::new("layer unfused", rows), problem.bytes(), make, |[x, residual, y, sum]| {
        unfused(x, residual, &weight, sum, y);
        Ok(())
    });
    Ok(())
}

/// Panics unless the composition computes what the operator does.
pub(crate) fn check_against_operator() -> Result<()> {
    let (device, shape) = (Device::cpu(), [7, 40]);
    let (x, weight) = (noise(280), noise(40));
    let residual: Vec<f32> = x.iter().map(|x| x * x).collect();
    let (mut sum, mut y) = (vec![0.0; 280], vec![0.0; 280]);
    unfused(&x, &residual, &weight, &mut sum, &mut y);
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &device);
    let residual = tensor(&residual, &shape)?;
    let options = NormOptions { residual: Residual::Before(&residual), ..Default::default() };
    let (expected, expected_sum) =
        ops::layer_norm_with_sum(&tensor(&x, &shape)?, &tensor(&weight, &[40])?, &options)?;
    assert_close(&sum, &expected_sum)?;
    assert_close(&y, &expected)
}
