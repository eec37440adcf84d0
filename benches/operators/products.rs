//! Plain products on a CUDA device, by this crate's kernels and by cuBLASLt where that library is found.

use criterion::Criterion;
use lightspan::cuda::{Linear, LinearArgs, Products};
use lightspan::problem::LinearProblem;
use lightspan::{DType, Device, Result, Tensor};

use crate::cuda::{elements, measure, rows, rows_mut};
use crate::support::{Group, Line, MANY_TOKENS, TOKENS, left_out, measure_copy, tensor};

/// A linear layer from as many channels as a model has to as many, and to four times as many: for a handful of tokens, for some
/// thousands, and for what fills any GPU.
pub(crate) fn products(criterion: &mut Criterion, device: &Device) -> Result<()> {
    const CHANNELS: usize = 1024;
    let mut group = Group::new(criterion, "products", device);
    for dtype in [DType::F32, DType::BF16] {
        for tokens in [64, TOKENS, MANY_TOKENS] {
            measure_copy(&mut group, format!("{tokens} {dtype}"), tokens * CHANNELS * dtype.size());
            for outputs in [CHANNELS, 4 * CHANNELS] {
                let problem = LinearProblem::new(tokens, CHANNELS, outputs, dtype)?.with_bias(true);
                measure_both(&mut group, problem)?;
            }
        }
    }
    group.finish();
    Ok(())
}

fn measure_both(group: &mut Group<'_>, problem: LinearProblem) -> Result<()> {
    let (device, dtype) = (group.device().clone(), problem.dtype());
    let Some(gpu) = device.cuda_gpu() else {
        return Ok(());
    };
    let sizes = [problem.rows(), problem.inputs(), problem.outputs()];
    let weight = tensor(&[sizes[2], sizes[1]], dtype, &device)?;
    let bias = tensor(&[sizes[2]], dtype, &device)?;
    let make = || -> Result<[Tensor; 2]> {
        Ok([
            tensor(&[sizes[0], sizes[1]], dtype, &device)?,
            Tensor::zeros(&[sizes[0], sizes[2]], dtype, &device)?,
        ])
    };
    for (what, products) in [("linear", Products::Own), ("linear by cuBLASLt", Products::CublasLt)] {
        let line = Line::new(what, format!("{} to {} of {} {dtype}", sizes[1], sizes[2], sizes[0]));
        let operator = Linear::new(&gpu.clone().with_products(products), problem);
        match &operator {
            Ok(operator) if operator.by() != products => {
                match gpu.cublaslt() {
                    Ok(version) => left_out(&line, format!("cuBLASLt {version:?} does not make it")),
                    Err(error) => left_out(&line, error),
                }
                continue;
            }
            _ => {}
        }
        measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y]| {
            operator.launch(LinearArgs {
                x: rows(x),
                weight: elements(&weight),
                bias: Some(elements(&bias)),
                residual: None,
                y: rows_mut(y),
            })
        })?;
    }
    Ok(())
}
