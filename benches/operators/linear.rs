use criterion::Criterion;
use lightspan::problem::{Activation, LinearProblem};
use lightspan::{DType, Device, Result, Tensor, ops};
use rayon::prelude::*;

use crate::support::{CHANNELS, Group, LENGTHS, Line, measure, measure_copy, noise, tensor};
use crate::unfused::product;

/// A linear layer from C to C channels. It knows nothing of sequences, so here the lengths are rows in all.
pub(crate) fn by_rows(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "linear_by_rows", device);
    for rows in LENGTHS {
        measure_copy(&mut group, rows, rows * CHANNELS * DType::F32.size());
        measure_fused(&mut group, rows)?;
        measure_unfused(&mut group, rows)?;
    }
    group.finish();
    Ok(())
}

fn problem(rows: usize) -> Result<LinearProblem> {
    let problem = LinearProblem::new(rows, CHANNELS, CHANNELS, DType::F32)?;
    Ok(problem.with_activation(Activation::Relu)?.with_bias(true))
}

fn measure_fused(group: &mut Group<'_>, rows: usize) -> Result<()> {
    let device = group.device().clone();
    let weight = tensor(&[CHANNELS, CHANNELS], DType::F32, &device)?;
    let bias = tensor(&[CHANNELS], DType::F32, &device)?;
    let options =
        ops::LinearOptions { bias: Some(&bias), activation: Activation::Relu, ..Default::default() };
    let shape = [rows, CHANNELS];
    let make = || -> Result<[Tensor; 2]> {
        Ok([tensor(&shape, DType::F32, &device)?, Tensor::zeros(&shape, DType::F32, &device)?])
    };
    let (line, problem) = (Line::new("f32", rows), problem(rows)?);
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        return measure_gpu(group, gpu, line, problem, &weight, Some(&bias), make);
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        return measure_cuda(group, gpu, line, problem, &weight, Some(&bias), make);
    }
    measure(group, line, problem.bytes(), make, |[x, y]| ops::linear_into(y, x, &weight, &options));
    Ok(())
}

/// A product on a wgpu device, with a weight and perhaps a bias.
#[cfg(feature = "wgpu")]
pub(crate) fn measure_gpu(
    group: &mut Group<'_>,
    gpu: &lightspan::wgpu::Gpu,
    line: Line,
    problem: LinearProblem,
    weight: &Tensor,
    bias: Option<&Tensor>,
    make: impl Fn() -> Result<[Tensor; 2]>,
) -> Result<()> {
    use crate::gpu::{elements, measure, rows};
    use lightspan::wgpu::{Linear, LinearArgs};
    let operator = Linear::new(gpu, problem).map(|operator| (operator, [0, 0]));
    measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y], _| {
        let (weight, bias) = (elements(weight), bias.map(elements));
        operator.bind(LinearArgs { x: rows(x), weight, bias, residual: None, y: rows(y) })
    })
}

/// The same on a CUDA device.
#[cfg(feature = "cuda")]
pub(crate) fn measure_cuda(
    group: &mut Group<'_>,
    gpu: &lightspan::cuda::Gpu,
    line: Line,
    problem: LinearProblem,
    weight: &Tensor,
    bias: Option<&Tensor>,
    make: impl Fn() -> Result<[Tensor; 2]>,
) -> Result<()> {
    use crate::cuda::{elements, measure, rows, rows_mut};
    use lightspan::cuda::{Linear, LinearArgs};
    let operator = Linear::new(gpu, problem);
    measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y]| {
        let (weight, bias) = (elements(weight), bias.map(elements));
        operator.launch(LinearArgs { x: rows(x), weight, bias, residual: None, y: rows_mut(y) })
    })
}

/// The same product, then the bias, then the activation, each as a pass of its own.
fn measure_unfused(group: &mut Group<'_>, rows: usize) -> Result<()> {
    if !group.has_unfused() {
        return Ok(());
    }
    let weight = noise(CHANNELS * CHANNELS);
    let bias = noise(CHANNELS);
    let mut scratch = Vec::new();
    let make = || Ok([noise(rows * CHANNELS), noise(rows * CHANNELS)]);
    measure(group, Line::new("f32 unfused", rows), problem(rows)?.bytes(), make, |[x, y]| {
        product(x, &weight, CHANNELS, y, &mut scratch)?;
        let rows = y.par_chunks_mut(CHANNELS);
        rows.for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias));
        y.par_chunks_mut(CHANNELS).for_each(|y| y.iter_mut().for_each(|y| *y = y.max(0.0)));
        Ok(())
    });
    Ok(())
}
