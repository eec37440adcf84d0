use criterion::{BenchmarkId, Criterion};
use lightspan::problem::{Activation, LinearProblem};
use lightspan::{DType, Device, Result, Tensor, ops};
use rayon::prelude::*;

use crate::support::{CHANNELS, Group, LENGTHS, measure, measure_copy, noise, tensor};
use crate::unfused::product;

/// A linear layer from C to C channels. It knows nothing of sequences, so here the lengths are rows in all.
pub(crate) fn by_rows(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("linear_by_rows");
    for rows in LENGTHS {
        measure_copy(&mut group, rows, rows);
        measure_fused(&mut group, rows)?;
        measure_unfused(&mut group, rows)?;
    }
    group.finish();
    Ok(())
}

fn problem(rows: usize) -> Result<LinearProblem> {
    Ok(LinearProblem::new(rows, CHANNELS, CHANNELS, DType::F32)?
        .with_bias(true)
        .with_activation(Activation::Relu))
}

fn measure_fused(group: &mut Group<'_>, rows: usize) -> Result<()> {
    let weight = tensor(&[CHANNELS, CHANNELS], DType::F32)?;
    let bias = tensor(&[CHANNELS], DType::F32)?;
    let options = ops::LinearOptions { bias: Some(&bias), activation: Activation::Relu };
    let shape = [rows, CHANNELS];
    let make = || -> Result<[Tensor; 2]> {
        Ok([tensor(&shape, DType::F32)?, Tensor::zeros(&shape, DType::F32, &Device::cpu())?])
    };
    measure(group, BenchmarkId::new("fused", rows), problem(rows)?.bytes(), make, |[x, y]| {
        ops::linear_into(y, x, &weight, &options)
    });
    Ok(())
}

/// The same product, then the bias, then the activation, each as a pass of its own.
fn measure_unfused(group: &mut Group<'_>, rows: usize) -> Result<()> {
    let weight = noise(CHANNELS * CHANNELS);
    let bias = noise(CHANNELS);
    let mut scratch = Vec::new();
    let make = || Ok([noise(rows * CHANNELS), noise(rows * CHANNELS)]);
    measure(group, BenchmarkId::new("unfused", rows), problem(rows)?.bytes(), make, |[x, y]| {
        product(x, &weight, CHANNELS, y, &mut scratch)?;
        let rows = y.par_chunks_mut(CHANNELS);
        rows.for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias));
        y.par_chunks_mut(CHANNELS).for_each(|y| y.iter_mut().for_each(|y| *y = y.max(0.0)));
        Ok(())
    });
    Ok(())
}
