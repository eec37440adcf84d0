//! What a machine lacks.

use lightspan::{Backend, Device, Error};

/// Without a driver this is an error that says so, and no panic; with one, a number past the last device is.
#[test]
fn a_device_that_is_not_there() {
    for ordinal in [0, 1000, usize::MAX] {
        match Device::cuda(ordinal) {
            Ok(device) => assert_eq!((ordinal, device.backend()), (0, Backend::Cuda)),
            Err(Error::Unavailable { backend: "cuda", reason }) => {
                let missing = ["NVIDIA driver", "there is no device", "CUDA_ERROR", "kernels"];
                assert!(missing.iter().any(|what| reason.contains(what)), "{reason}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// CUDA before wgpu, and either before the processor.
#[test]
fn the_best_device_is_by_cuda_where_there_is_one() {
    let there = |backend: &Backend| Device::open(*backend).is_ok();
    let expected = [Backend::Cuda, Backend::Wgpu, Backend::Cpu].into_iter().find(there);
    assert_eq!(Some(Device::best().backend()), expected);
}
