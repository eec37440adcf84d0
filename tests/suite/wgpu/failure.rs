//! A device that is lost: every call after that is an error which says so, and none panics.

use ::wgpu::Limits;
use lightspan::problem::{Convolution, LightConvProblem};
use lightspan::wgpu::{DeviceSequences, Gpu, LightConv, LightConvArgs, Rows};
use lightspan::{DType, Device, Error, Normalize, Sequences, Tensor, Window, ops};

use crate::support::gpu::{device_with, gpu_device};

/// Fails unless the device is said to be lost.
#[track_caller]
fn lost<T>(result: lightspan::Result<T>) {
    match result {
        Err(Error::DeviceLost { .. }) => {}
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("no error"),
    }
}

/// What a program may hold when its device goes.
struct Held {
    device: Device,
    gpu: Gpu,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    sequences: Sequences,
    list: DeviceSequences,
    operator: LightConv,
}

impl Held {
    fn new(device: Device) -> Self {
        let gpu = device.gpu().unwrap().clone();
        let tensor = |shape: &[usize]| Tensor::from_f32(&[1.0, 2.0], shape, DType::F32, &device).unwrap();
        let sequences = Sequences::padded(1, &[1]).unwrap();
        let conv = Convolution::new(sequences.shape(), 2, 2, Window::causal(1).unwrap(), DType::F32).unwrap();
        Held {
            x: tensor(&[1, 1, 2]),
            y: tensor(&[1, 1, 2]),
            weight: tensor(&[2, 1]),
            list: DeviceSequences::new(&gpu, &sequences).unwrap(),
            sequences,
            operator: LightConv::new(&gpu, LightConvProblem::new(conv)).unwrap(),
            gpu,
            device,
        }
    }

    fn destroy(&self) {
        self.gpu.device().destroy();
    }

    fn bind(&self) -> lightspan::Result<lightspan::wgpu::Call> {
        self.operator.bind(LightConvArgs {
            sequences: &self.list,
            x: Rows::contiguous(self.x.wgpu_buffer().unwrap()),
            weight: self.weight.wgpu_buffer().unwrap().into(),
            bias: None,
            history: None,
            seed: None,
            y: Rows::contiguous(self.y.wgpu_buffer().unwrap()),
        })
    }

    /// Every kind of call.
    fn calls(&mut self) -> Vec<(&'static str, lightspan::Result<()>)> {
        let window = Window::causal(1).unwrap();
        let (x, weight, gpu) = (&self.x, &self.weight, &self.gpu);
        let options = ops::ConvOptions { sequences: Some(&self.sequences), ..Default::default() };
        let linear = ops::linear(weight, weight, &Default::default()).map(drop);
        let mut calls = vec![
            ("zeros", Tensor::zeros(&[4], DType::F32, &self.device).map(drop)),
            ("from_slice", Tensor::from_slice(&[1.0f32], &[1], &self.device).map(drop)),
            ("an operator", ops::light_conv(x, weight, window, &options).map(drop)),
            ("to_f32", x.to_f32().map(drop)),
            ("to_vec", x.to_vec::<f32>().map(drop)),
            ("synchronize", self.device.synchronize()),
            ("synchronize the room", gpu.synchronize()),
            ("a device", Device::from_wgpu(gpu.device().clone(), gpu.queue().clone()).map(drop)),
            ("a room", Gpu::new(gpu.device().clone(), gpu.queue().clone()).map(drop)),
            ("sequences", DeviceSequences::new(gpu, &self.sequences).map(drop)),
            ("a bound call", self.bind().map(drop)),
            ("another operator", linear),
        ];
        calls.push(("write", self.y.write(&[1.0f32, 2.0])));
        calls.push(("into", ops::light_conv_into(&mut self.y, &self.x, &self.weight, window, &options)));
        calls
    }
}

/// Those that a test makes, and those that the crate opens.
fn own_devices() -> Option<[Device; 2]> {
    let name = gpu_device()?.gpu().unwrap().name().to_owned();
    Some([device_with(Limits::default())?, Device::wgpu_named(&name).unwrap()])
}

#[test]
fn every_call_on_a_lost_device_says_so() {
    for device in own_devices().into_iter().flatten() {
        let mut held = Held::new(device);
        for (what, result) in held.calls() {
            assert_eq!(result, Ok(()), "{what}, on a device that is there");
        }
        held.destroy();
        for _ in 0..2 {
            for (what, result) in held.calls() {
                assert!(matches!(result, Err(Error::DeviceLost { .. })), "{what}: {result:?}");
            }
        }
    }
}

/// The first call after the loss says so, whichever it is.
#[test]
fn whichever_call_is_the_first_says_so() {
    let first: [fn(&mut Held) -> lightspan::Result<()>; 6] = [
        |held| Tensor::zeros(&[4], DType::F32, &held.device).map(drop),
        |held| held.y.write(&[1.0f32, 2.0]),
        |held| held.x.to_f32().map(drop),
        |held| held.device.synchronize(),
        // A kernel that was compiled before is there still; this one was not.
        |held| {
            let conv = held.operator.problem().convolution().with_normalize(Normalize::SoftmaxInRange);
            LightConv::new(&held.gpu, LightConvProblem::new(conv)).map(drop)
        },
        |held| ops::linear(&held.weight, &held.weight, &Default::default()).map(drop),
    ];
    for call in first {
        for device in own_devices().into_iter().flatten() {
            let mut held = Held::new(device);
            held.destroy();
            lost(call(&mut held));
        }
    }
}

/// Calls that were recorded before, and tensors that are dropped after, are no panic either.
#[test]
fn what_was_recorded_before_does_no_harm() {
    for device in own_devices().into_iter().flatten() {
        let held = Held::new(device);
        let call = held.bind().unwrap();
        let mut encoder = held.gpu.device().create_command_encoder(&Default::default());
        call.record(&mut encoder);
        held.gpu.queue().submit([encoder.finish()]);
        held.destroy();
        lost(held.y.to_f32());
        lost(held.device.synchronize());
    }
}

/// Other devices of the same adapter are none the worse for it.
#[test]
fn another_device_works_on() {
    let Some(lost) = device_with(Limits::default()) else { return };
    lost.gpu().unwrap().device().destroy();
    assert!(matches!(lost.synchronize(), Err(Error::DeviceLost { .. })));
    for device in own_devices().into_iter().flatten().chain(gpu_device()) {
        for (what, result) in Held::new(device).calls() {
            assert_eq!(result, Ok(()), "{what}");
        }
    }
}

/// Threads that are amid calls when the device goes are told so in the end, get no other error on the way, and no panic.
#[test]
fn threads_amid_calls_are_told() {
    for device in own_devices().into_iter().flatten() {
        let held = Held::new(device);
        let started = std::sync::Barrier::new(5);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut held = Held::new(held.device.clone());
                    started.wait();
                    let still = |(what, result)| match result {
                        Ok(()) => true,
                        Err(Error::DeviceLost { .. }) => false,
                        Err(error) => panic!("{what}: {error}"),
                    };
                    while held.calls().into_iter().filter(|call| still(call.clone())).count() > 0 {}
                });
            }
            started.wait();
            std::thread::sleep(std::time::Duration::from_millis(20));
            held.destroy();
        });
        lost(held.device.synchronize());
    }
}
