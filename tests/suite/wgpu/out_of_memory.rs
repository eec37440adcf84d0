//! Memory that runs out is an error with its size, found before anything is launched, and the device works on.
//!
//! A real GPU's driver is told to stop early. A software adapter takes the machine's own memory, which a process may be
//! given little of: the test runs itself again as such a process.

use std::process::Command;

use ::wgpu::{Backends, DeviceDescriptor, DeviceType, Instance, InstanceDescriptor};
use lightspan::{DType, Device, Error, Normalize, Sequences, Tensor, Window};
use pollster::block_on;

use crate::dynamic_conv::{Call, Generator};
use crate::support::gpu::{adapter, gpu_device};
use crate::support::{ConvCase, same_bits};

/// Set in the process that is given little memory.
const CHILD: &str = "LIGHTSPAN_TEST_LITTLE_MEMORY";
/// KiB of addresses that it may use.
const ADDRESSES: usize = 6 << 20;

#[test]
fn memory_runs_out() {
    let Some(device) = gpu_device() else { return };
    if std::env::var_os(CHILD).is_some() {
        return exhaust(&device);
    }
    let software = device.gpu().unwrap().device().adapter_info().device_type == DeviceType::Cpu;
    if cfg!(target_os = "linux") && software {
        let test = "wgpu::out_of_memory::memory_runs_out";
        let output = Command::new("sh")
            .args(["-c", &format!("ulimit -v {ADDRESSES} && exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    } else if let Some(device) = device_with_a_budget() {
        exhaust(&device);
    } else {
        eprintln!("SKIPPED: this driver cannot be told to run out of memory");
    }
}

/// A device that may use little more of the GPU's memory than is in use, if its driver counts that.
fn device_with_a_budget() -> Option<Device> {
    let name = adapter()?.get_info().name;
    let open = |percent| {
        let mut descriptor = InstanceDescriptor::new_without_display_handle();
        descriptor.backends = Backends::PRIMARY;
        descriptor.memory_budget_thresholds.for_resource_creation = Some(percent);
        let adapters = block_on(Instance::new(descriptor).enumerate_adapters(Backends::PRIMARY));
        let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name == name)?;
        let required_limits = adapter.limits();
        let descriptor = DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = block_on(adapter.request_device(&descriptor)).ok()?;
        let device = Device::from_wgpu(device, queue).ok()?;
        // Room for what the calls need that have to succeed.
        let room = Tensor::zeros(&[100 << 20], DType::F32, &device);
        room.is_ok().then_some(device)
    };
    if open(0).is_some() { None } else { (1..100).find_map(open) }
}

/// A call whose logits do not stay on the chip: 48 MiB of them for 4096 tokens.
fn call(tokens: usize) -> Call {
    let case = ConvCase {
        sequences: Sequences::batch(1, tokens).unwrap(),
        heads: 12,
        head_channels: 1,
        window: Window::causal(256).unwrap(),
        normalize: Normalize::Softmax,
        dtype: DType::F32,
        parameters: DType::F32,
        bias: false,
        history: false,
        dropout: None,
        seed: 1,
    };
    Call::draw(&case, Generator::Own { weight_bias: false })
}

/// Asks for memory until there is no more.
fn exhaust(device: &Device) {
    let before = call(1100).run(device);
    let large = call(4096);
    let (x, weight) = (large.x.on(device), large.weight.on(device));
    let mut y = Tensor::zeros(x.shape(), DType::F32, device).unwrap();
    let run = |y: &mut Tensor| {
        let options = lightspan::ops::DynamicConvOptions::default();
        lightspan::ops::dynamic_conv_into(y, &x, &weight, 12, large.case.window, &options)
    };
    let pipelines = device.gpu().unwrap().pipelines();
    let mut held = vec![];
    for numbers in [256 << 20, 8 << 20] {
        let error = loop {
            assert!(held.len() < 2000, "memory does not run out");
            match Tensor::zeros(&[numbers], DType::F32, device) {
                Ok(tensor) => held.push(tensor),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::OutOfMemory { what: "tensor", bytes: 4 * numbers });
    }
    assert!(held.len() > 1);
    assert_eq!(run(&mut y), Err(Error::OutOfMemory { what: "scratch", bytes: 4 * 4096 * 12 * 256 }));
    // The kernels are those of the smaller call: what was lacking was scratch memory.
    assert_eq!(device.gpu().unwrap().pipelines(), pipelines);
    let download = held[0].to_f32();
    assert!(
        matches!(download, Err(Error::OutOfMemory { what: "a download", .. })),
        "{:?}",
        download.map(|values| values.len())
    );
    // Small calls need no more memory than there is, and once there is some again, all do.
    device.synchronize().unwrap();
    assert_eq!(y.to_f32().unwrap(), vec![0.0; y.len()]);
    drop(held);
    assert!(same_bits(&before, &call(1100).run(device)));
    run(&mut y).unwrap();
    assert!(y.to_f32().unwrap().iter().any(|&y| y != 0.0));
}
