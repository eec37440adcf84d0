//! 10. On an NVIDIA GPU, or on the emulator: the same tensors and operators by CUDA.
//!
//! ```text
//! cargo run --release --features emulator --example 10_cuda
//! ```
//!
//! The kernels are embedded: a driver is all that is needed, no toolkit. Where there is none, `Device::cuda(0)` says what
//! is missing, and this example goes on with the emulator, which runs the same kernels on the processor, checks every
//! access and counts the traffic. It is a tester, and no model of time.
//!
//! Before: 09_wgpu_own_buffers. Next: 11_cuda_own_buffers.

use lightspan::{DType, Device, Error, Result, Tensor, Window, ops};

fn main() -> Result<()> {
    let gpu = match Device::cuda(0) {
        Ok(gpu) => gpu,
        Err(error @ Error::Unavailable { .. }) => {
            println!("{error}\n");
            Device::cuda_emulated()
        }
        Err(error) => return Err(error),
    };
    println!("one call on {gpu} and on {}", Device::cpu());
    if let Some(gpu) = gpu.cuda_gpu() {
        gpu.start_profile();
    }
    let (on_gpu, on_cpu) = (convolve(&gpu)?, convolve(&Device::cpu())?);
    let furthest = on_gpu.iter().zip(&on_cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("the largest of {} outputs' differences: {furthest:e}", on_gpu.len());
    // One rounding to bf16 apart, at most.
    assert!(furthest <= 1.0 / 128.0);

    // What the emulator counted; of a GPU there is nothing to tell.
    for launch in gpu.cuda_gpu().map(|gpu| gpu.take_profile()).unwrap_or_default() {
        println!(
            "\n{} on {} blocks: {} sectors of 32 bytes read, {} written, {} matrix multiply-adds, {} bank conflicts",
            launch.entry,
            launch.grid,
            launch.profile.global_loads.sectors,
            launch.profile.global_stores.sectors,
            launch.profile.matrix_multiply_adds,
            launch.profile.shared_loads.conflicts() + launch.profile.shared_stores.conflicts(),
        );
    }
    Ok(())
}

/// A light convolution of 600 tokens of 64 channels, 4 heads of 7 taps, in bf16.
fn convolve(device: &Device) -> Result<Vec<f32>> {
    let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let x = Tensor::from_f32(&numbers(2 * 300 * 64), &[2, 300, 64], DType::BF16, device)?;
    let weight = Tensor::from_f32(&numbers(4 * 7), &[4, 7], DType::BF16, device)?;
    ops::light_conv(&x, &weight, Window::causal(7)?, &Default::default())?.to_f32()
}
