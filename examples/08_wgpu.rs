//! 8. On a GPU: the same tensors and operators, on any device with a driver for Vulkan, Metal or DX12.
//!
//! ```text
//! cargo run --release --features wgpu --example 08_wgpu
//! ```
//!
//! `Device::wgpu()` opens the best real GPU. A software adapter is opened only by its name, since `Device::cpu()` is
//! faster; this example does so where there is nothing else, so that it runs everywhere.
//!
//! Before: 07_verify. Next: 09_wgpu_own_buffers.

use lightspan::wgpu::wgpu as driver;
use lightspan::{DType, Device, Result, Tensor, Window, ops};

fn main() -> Result<()> {
    let gpu = Device::wgpu().or_else(|error| {
        println!("{error}\n");
        Device::wgpu_named("llvmpipe")
    })?;
    println!("one call on {gpu} and on {}", Device::cpu());
    let (on_gpu, on_cpu) = (convolve(&gpu)?, convolve(&Device::cpu())?);
    let furthest = on_gpu.iter().zip(&on_cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("the largest of {} outputs' differences: {furthest:e}\n", on_gpu.len());
    assert!(furthest < 1e-5);

    // A device that is yours, with its own limits and features, beside whatever else you do with it.
    let name = gpu.gpu().map_or("", |gpu| gpu.name());
    let (device, queue) = pollster::block_on(your_own(name)).expect("the adapter that was opened above");
    let yours = Device::from_wgpu(device, queue)?;
    println!("the same on a device of your own: {yours}");
    assert_eq!(convolve(&yours)?, on_gpu);

    // Tensors of two devices do not meet by accident.
    let x = Tensor::zeros(&[1, 4, 8], DType::F32, &gpu)?;
    let weight = Tensor::zeros(&[2, 3], DType::F32, &Device::cpu())?;
    let error = ops::light_conv(&x, &weight, Window::causal(3)?, &Default::default());
    println!("tensors of two devices: {}", error.expect_err("they are on two devices"));
    Ok(())
}

/// A light convolution of 100 tokens of 64 channels, 4 heads of 7 taps.
fn convolve(device: &Device) -> Result<Vec<f32>> {
    let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let x = Tensor::from_f32(&numbers(2 * 50 * 64), &[2, 50, 64], DType::F32, device)?;
    let weight = Tensor::from_f32(&numbers(4 * 7), &[4, 7], DType::F32, device)?;
    // The call is queued; reading its output waits for it. In a browser, where nothing may wait, there is `to_f32_async`.
    ops::light_conv(&x, &weight, Window::same(7)?, &Default::default())?.to_f32()
}

/// A device as you make it, with the limits that every WebGPU device has.
async fn your_own(name: &str) -> Option<(driver::Device, driver::Queue)> {
    let instance = driver::Instance::new(driver::InstanceDescriptor::new_without_display_handle());
    let adapters = instance.enumerate_adapters(driver::Backends::PRIMARY).await;
    let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name == name)?;
    adapter.request_device(&driver::DeviceDescriptor::default()).await.ok()
}
