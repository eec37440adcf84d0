//! What a device does not allow is known before anything is launched, with how much is needed and how much there is.

use ::wgpu::Limits;
use lightspan::ops::{self, AttentionKind, AttentionOptions, ConvOptions, DynamicConvOptions};
use lightspan::{DType, Device, Error, Result, Tensor, Window};

use crate::support::gpu::{default_device, device_with};

const MIB: u64 = 1 << 20;

fn limit(what: &'static str, of: &'static str, needed: u64, limit: u64) -> Error {
    Error::Limit { what, of, needed, limit }
}

fn zeros(shape: &[usize], device: &Device) -> Tensor {
    Tensor::zeros(shape, DType::F32, device).unwrap()
}

fn light_conv(tokens: usize, channels: usize, device: &Device) -> Result<Tensor> {
    let x = Tensor::from_f32(&vec![1.0; tokens * channels], &[1, tokens, channels], DType::F32, device)?;
    ops::light_conv(&x, &zeros(&[1, 2], device), Window::causal(2)?, &ConvOptions::default())
}

#[test]
fn a_binding_holds_so_much() {
    let limits = Limits { max_storage_buffer_binding_size: MIB, ..Limits::default() };
    let Some(device) = device_with(limits) else { return };
    let ones = |tensor: Tensor| tensor.to_f32().unwrap()[2..].iter().all(|&y| y == 1.0);
    // Softmax of two zeros are halves: inside the sequence, what is convolved is as it was.
    assert!(ones(light_conv(1 << 17, 2, &device).unwrap()));
    assert_eq!(light_conv((1 << 17) + 1, 2, &device).unwrap_err(), limit("bytes of", "x", MIB + 8, MIB));
    // The second of two tensors is too large, or the output.
    let linear = |rows, inputs, outputs| {
        ops::linear(
            &zeros(&[rows, inputs], &device),
            &zeros(&[outputs, inputs], &device),
            &Default::default(),
        )
    };
    assert_eq!(linear(1, 1 << 10, 1 << 8).unwrap().len(), 1 << 8);
    assert_eq!(linear(1, 1 << 10, 257).unwrap_err(), limit("bytes of", "weight", MIB + 4096, MIB));
    assert_eq!(linear(1 << 10, 1, 257).unwrap_err(), limit("bytes of", "y", MIB + 4096, MIB));
    // It works on.
    assert!(ones(light_conv(3, 2, &device).unwrap()));
}

#[test]
fn scratch_is_bound_too() {
    let limits = Limits { max_storage_buffer_binding_size: MIB, ..Limits::default() };
    let Some(device) = device_with(limits) else { return };
    // H K = 3072 logits, which do not stay on the chip, for each of 100 tokens.
    let (x, weight) = (zeros(&[1, 100, 12], &device), zeros(&[3072, 12], &device));
    let window = Window::causal(256).unwrap();
    assert_eq!(
        ops::dynamic_conv(&x, &weight, 12, window, &DynamicConvOptions::default()).unwrap_err(),
        limit("bytes of", "scratch", 4 * 3072 * 100, MIB)
    );
    let x = zeros(&[1, 1000, 2], &device);
    let attend = |kind| ops::attention(&x, &x, &x, 1, &AttentionOptions { kind, ..Default::default() });
    assert_eq!(attend(AttentionKind::Naive).unwrap_err(), limit("bytes of", "scratch", 4 * 1000 * 1000, MIB));
    assert_eq!(attend(AttentionKind::Fused).unwrap().to_f32().unwrap(), vec![0.0; 2000]);
}

/// 128 MiB in a binding and 256 MiB in a buffer are what every device has.
#[test]
fn default_limits_in_bytes() {
    let Some(device) = default_device() else { return };
    let numbers = (32 * MIB + 1) as usize;
    let (x, weight) = (zeros(&[1, numbers], &device), zeros(&[1, numbers], &device));
    let mut y = Tensor::from_f32(&[7.0], &[1, 1], DType::F32, &device).unwrap();
    assert_eq!(
        ops::linear_into(&mut y, &x, &weight, &Default::default()),
        Err(limit("bytes of", "x", 128 * MIB + 4, 128 * MIB))
    );
    assert_eq!(y.to_f32().unwrap(), [7.0], "nothing was launched");
    let half = |len: usize| Tensor::zeros(&[len], DType::F16, &device);
    assert_eq!(half(128 << 20).unwrap().len(), 128 << 20);
    assert_eq!(half((128 << 20) + 1).unwrap_err(), limit("bytes of", "tensor", 256 * MIB + 4, 256 * MIB));
    // Sizes past what a device counts are no overflow.
    let huge = Tensor::zeros(&[1 << 58], DType::F32, &device).unwrap_err();
    assert_eq!(huge, limit("bytes of", "tensor", 1 << 60, 256 * MIB));
}

/// Kernels take 16 KiB of workgroup memory, 256 invocations and at most eight storage buffers.
#[test]
fn workgroups_hold_so_much() {
    let smaller = [
        (
            Limits { max_compute_workgroup_storage_size: 16_352, ..Limits::default() },
            limit("bytes of workgroup memory of", "light_conv", 16_384, 16_352),
        ),
        (
            Limits { max_compute_invocations_per_workgroup: 128, ..Limits::default() },
            limit("invocations in a workgroup of", "light_conv", 256, 128),
        ),
        (
            Limits { max_compute_workgroup_size_x: 64, ..Limits::default() },
            limit("invocations in a workgroup of", "light_conv", 256, 64),
        ),
        (
            Limits { max_storage_buffers_per_shader_stage: 5, ..Limits::default() },
            limit("storage buffers of", "light_conv", 6, 5),
        ),
    ];
    for (limits, expected) in smaller {
        let Some(device) = device_with(limits) else { return };
        assert_eq!(light_conv(3, 2, &device).unwrap_err(), expected);
        assert_eq!(device.gpu().unwrap().pipelines(), 0, "nothing was compiled");
    }
    // A linear layer binds five: what it may have besides is bound where it has none.
    let limits = Limits { max_storage_buffers_per_shader_stage: 5, ..Limits::default() };
    let Some(device) = device_with(limits) else { return };
    let one = Tensor::from_f32(&[1.0], &[1, 1], DType::F32, &device).unwrap();
    assert_eq!(ops::linear(&one, &one, &Default::default()).unwrap().to_f32().unwrap(), [1.0]);
}
