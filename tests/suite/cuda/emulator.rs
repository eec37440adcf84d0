//! The emulated device: never taken for a GPU, and a fault is an error that tells where.

use lightspan::{Backend, DType, Device, Tensor, Window, ops};

#[test]
fn it_says_what_it_is() {
    let device = Device::cuda_emulated();
    assert_eq!(device.backend(), Backend::CudaEmulated);
    assert_eq!(device.to_string(), "cuda-emulated (PTX on the CPU)");
    assert!(device.cuda_gpu().unwrap().is_emulated());
    assert!(device.cuda_gpu().unwrap().stream().is_none());
    assert_eq!("cuda-emulated".parse(), Ok(Backend::CudaEmulated));
    assert_ne!(Device::best().backend(), Backend::CudaEmulated);
    assert_ne!(device, Device::cuda_emulated());
    assert_eq!(device, device.clone());
    device.synchronize().unwrap();
}

/// Launches are kept only once someone asks for them.
#[test]
fn launches_are_counted_when_asked() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    let x = Tensor::from_f32(&[1.0; 60], &[1, 5, 12], DType::BF16, &device).unwrap();
    let weight = Tensor::from_f32(&[0.0; 9], &[3, 3], DType::BF16, &device).unwrap();
    let run = || ops::light_conv(&x, &weight, Window::causal(3).unwrap(), &Default::default()).unwrap();
    run();
    assert!(gpu.take_profile().is_empty());
    gpu.start_profile();
    run();
    run();
    let launches = gpu.take_profile();
    assert_eq!(launches.len(), 2);
    assert!(launches.iter().all(|launch| launch.entry == "light_conv" && launch.grid == 1));
    assert_eq!(launches[0].profile, launches[1].profile);
    assert!(gpu.take_profile().is_empty());
}
