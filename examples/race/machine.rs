//! What the machine can do at most, measured in the same run: the floor that operators are held against.

use std::collections::BTreeSet;
use std::{fmt, fs, thread};

use lightspan::ops::{self, LinearOptions};
use lightspan::problem::LinearProblem;
use lightspan::{Backend, DType, Device, Result, Tensor};

use crate::timing::Timer;
use crate::{format, is_software};

/// Bytes copied on a processor; with their copies, more than the largest cache of today.
const PROCESSOR_BYTES: u64 = 512 << 20;
/// Rows, inputs and outputs of products that keep a processor busy. Short ones, so that many runs fit the time and the
/// best of them is the machine's own even where it has other things to do.
const PROCESSOR_PRODUCTS: &[usize] = &[512, 1024];
/// The same for a device, which takes more work to fill.
const DEVICE_PRODUCTS: &[usize] = &[4096];

/// Memory where the system does not say how much there is.
const USUAL_MEMORY: u64 = 16 << 30;

pub(crate) struct Machine {
    /// Read and written.
    bytes_per_second: f64,
    flops_per_second: f64,
}

impl Machine {
    pub(crate) fn measure(device: &Device, dtype: DType, timer: &Timer) -> Result<Self> {
        let bytes_per_second = bandwidth(device, timer)?;
        let processor = device.backend() == Backend::Cpu || is_software(device);
        let sizes = if processor { PROCESSOR_PRODUCTS } else { DEVICE_PRODUCTS };
        let mut flops_per_second: f64 = 0.0;
        for &size in sizes {
            // Some devices multiply 16-bit numbers faster; the floor is the fastest seen.
            for dtype in BTreeSet::from([DType::F32, dtype]) {
                flops_per_second = flops_per_second.max(product_rate(device, size, dtype, timer)?);
            }
        }
        Ok(Machine { bytes_per_second, flops_per_second })
    }

    /// Seconds that work must take at least.
    pub(crate) fn floor(&self, flops: u64, bytes: u64) -> f64 {
        (bytes as f64 / self.bytes_per_second).max(flops as f64 / self.flops_per_second)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = format::scaled(self.bytes_per_second, "B/s");
        let flops = format::scaled(self.flops_per_second, "FLOP/s");
        write!(f, "memory {bytes} (copy, bytes read and written), arithmetic {flops} (matrix product)")
    }
}

/// A copy by all threads.
fn processor_bandwidth(timer: &Timer) -> Result<f64> {
    let bytes = PROCESSOR_BYTES.min(physical_memory() / 8) as usize;
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
    let part = bytes.div_ceil(threads).max(1);
    let from = vec![1u8; bytes];
    let mut to = vec![0u8; bytes];
    let timing = timer.time(|| {
        thread::scope(|scope| {
            for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
        Ok(())
    })?;
    Ok(2.0 * bytes as f64 / timing.best())
}

/// A copy where the device has its memory.
fn bandwidth(device: &Device, timer: &Timer) -> Result<f64> {
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        return crate::gpu::bandwidth(device, gpu, timer);
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        return crate::cuda::bandwidth(gpu, timer);
    }
    #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
    let _ = device;
    processor_bandwidth(timer)
}

/// The best rate of a matrix product.
fn product_rate(device: &Device, size: usize, dtype: DType, timer: &Timer) -> Result<f64> {
    let numbers = vec![0.5; size * size];
    let x = Tensor::from_f32(&numbers, &[size, size], dtype, device)?;
    let weight = Tensor::from_f32(&numbers, &[size, size], dtype, device)?;
    let mut y = Tensor::zeros(&[size, size], dtype, device)?;
    let problem = LinearProblem::new(size, size, size, dtype)?;
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        let seconds = crate::gpu::product(gpu, problem, [&x, &weight, &y], timer)?;
        return Ok(problem.flops() as f64 / seconds);
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        let seconds = crate::cuda::product(gpu, problem, [&x, &weight], &mut y, timer)?;
        return Ok(problem.flops() as f64 / seconds);
    }
    let timing = timer.time(|| ops::linear_into(&mut y, &x, &weight, &LinearOptions::default()))?;
    Ok(problem.flops() as f64 / timing.best())
}

/// Bytes of memory.
pub(crate) fn physical_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    meminfo.as_deref().and_then(total_memory).unwrap_or(USUAL_MEMORY)
}

/// The line `MemTotal: 16318412 kB` of `/proc/meminfo`, in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(total_memory("MemTotal:       16318412 kB\nMemFree: 1 kB\n"), Some(16_318_412 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        assert_eq!(total_memory("MemTotal: much\n"), None);
    }

    #[test]
    fn the_floor_is_the_larger_of_memory_and_arithmetic() {
        let machine = Machine { bytes_per_second: 10.0, flops_per_second: 100.0 };
        assert_eq!(machine.floor(100, 50), 5.0);
        assert_eq!(machine.floor(1000, 50), 10.0);
    }
}
