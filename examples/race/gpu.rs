//! What a wgpu device can do at most, by its own clock where it has one.

use lightspan::problem::LinearProblem;
use lightspan::wgpu::wgpu::Buffer;
use lightspan::wgpu::{Gpu, Linear, LinearArgs, Rows};
use lightspan::{DType, Device, Result, Tensor};

use crate::stopwatch::{Stopwatch, Work};
use crate::timing::Timer;

/// Bytes copied, in one buffer: more than the caches of a GPU. Less where no buffer may be so large.
const BYTES: u64 = 256 << 20;

/// Bytes read and written a second by a copy from one buffer into another.
pub(crate) fn bandwidth(device: &Device, gpu: &Gpu, timer: &Timer) -> Result<f64> {
    let bytes = BYTES.min(gpu.limits().buffer) / 4 * 4;
    let zeros = || Tensor::zeros(&[bytes as usize / DType::F32.size()], DType::F32, device);
    let (from, to) = (zeros()?, zeros()?);
    let copy = Work::Copy { from: buffer(&from), to: buffer(&to) };
    let stopwatch = Stopwatch::new(gpu);
    let timing = timer.sample(|| stopwatch.time([copy]))?;
    Ok(2.0 * bytes as f64 / timing.best())
}

/// Seconds of a product, x times the transpose of the weight.
pub(crate) fn product(
    gpu: &Gpu,
    problem: LinearProblem,
    [x, weight, y]: [&Tensor; 3],
    timer: &Timer,
) -> Result<f64> {
    let call = Linear::new(gpu, problem)?.bind(LinearArgs {
        x: Rows::contiguous(buffer(x)),
        weight: buffer(weight).into(),
        bias: None,
        residual: None,
        y: Rows::contiguous(buffer(y)),
    })?;
    let stopwatch = Stopwatch::new(gpu);
    Ok(timer.sample(|| stopwatch.time([Work::Call(&call)]))?.best())
}

fn buffer(tensor: &Tensor) -> &Buffer {
    tensor.wgpu_buffer().unwrap_or_else(|| unreachable!("a tensor of a wgpu device has a buffer there"))
}
