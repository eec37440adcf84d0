//! What a CUDA device can do at most, by its own clock.

use lightspan::cuda::{Elements, Gpu, Linear, LinearArgs, Rows, RowsMut};
use lightspan::problem::LinearProblem;
use lightspan::{Result, Tensor};

use crate::events::{Copy, Stopwatch};
use crate::timing::Timer;

/// Bytes copied: more than the caches of a GPU.
const BYTES: usize = 256 << 20;

/// Bytes read and written a second by a copy from one part of the memory to another.
pub(crate) fn bandwidth(gpu: &Gpu, timer: &Timer) -> Result<f64> {
    let mut stopwatch = Stopwatch::new(gpu)?;
    let mut copy = Copy::new(gpu, BYTES)?;
    let timing = timer.sample(|| stopwatch.time(1, || copy.run()))?;
    Ok(2.0 * BYTES as f64 / timing.best())
}

/// Seconds of a product, x times the transpose of the weight.
pub(crate) fn product(
    gpu: &Gpu,
    problem: LinearProblem,
    [x, weight]: [&Tensor; 2],
    y: &mut Tensor,
    timer: &Timer,
) -> Result<f64> {
    let operator = Linear::new(gpu, problem)?;
    let mut stopwatch = Stopwatch::new(gpu)?;
    let mut call = || {
        operator.launch(LinearArgs {
            x: Rows::contiguous(elements(x)),
            weight: elements(weight),
            bias: None,
            residual: None,
            y: RowsMut::contiguous(y.cuda_mut().unwrap_or_else(|| unreachable!("{ON_CUDA}"))),
        })
    };
    Ok(timer.sample(|| stopwatch.time(1, &mut call))?.best())
}

fn elements(tensor: &Tensor) -> Elements<'_> {
    tensor.cuda().unwrap_or_else(|| unreachable!("{ON_CUDA}"))
}

const ON_CUDA: &str = "a tensor of a CUDA device has its numbers there";

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_timed_on_the_emulator() {
        let refusal = |result: Result<()>| result.unwrap_err().to_string();
        let gpu = Gpu::emulated();
        for result in [Stopwatch::new(&gpu).map(drop), Copy::new(&gpu, 1).map(drop)] {
            assert!(refusal(result).ends_with("the emulator is no model of time"));
        }
    }
}
