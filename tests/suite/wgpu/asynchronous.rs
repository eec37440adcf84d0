//! The twins that do not wait give what those give that do.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use lightspan::{DType, Device, Error, Tensor, bf16};
use pollster::block_on;

use crate::support::gpu::gpu_device;
use crate::support::{Numbers, devices};

#[test]
fn devices_are_opened_by_name() {
    let Some(device) = gpu_device() else { return };
    let name = device.gpu().unwrap().name().to_owned();
    let part = name[..name.len().min(6)].to_uppercase();
    for opened in [Device::wgpu_named(&part), block_on(Device::wgpu_named_async(&part))] {
        let opened = opened.unwrap();
        assert!(opened.gpu().unwrap().name().to_uppercase().contains(&part));
        assert_ne!(opened, device, "another device, whose tensors are its own");
        assert_eq!(opened, opened.clone());
    }
    let nobody = "no adapter is called so";
    let errors =
        [Device::wgpu_named(nobody), block_on(Device::wgpu_named_async(nobody))].map(Result::unwrap_err);
    for error in errors {
        let Error::Unavailable { backend: "wgpu", reason } = error else { panic!("{error}") };
        assert!(reason.contains(nobody) && reason.contains(&name), "{reason}");
    }
    let names = block_on(lightspan::wgpu::adapter_names());
    assert!(names.iter().any(|(one, _)| *one == name), "{names:?}");
    // The best of them is one that is real, or none.
    match (Device::wgpu(), block_on(Device::wgpu_async())) {
        (Ok(one), Ok(other)) => assert_eq!(one.to_string(), other.to_string()),
        (one, other) => assert_eq!(one.unwrap_err(), other.unwrap_err()),
    }
}

#[test]
fn numbers_arrive_without_waiting() {
    for device in devices() {
        for dtype in DType::ALL {
            let tensor = Numbers::new(1).draw(&[7, 31], dtype, 2.0).on(&device);
            assert_eq!(block_on(tensor.to_f32_async()), tensor.to_f32(), "{dtype} on {device}");
        }
        let tensor = Tensor::from_slice(&[bf16::ONE; 5], &[5], &device).unwrap();
        assert_eq!(block_on(tensor.to_vec_async::<bf16>()), Ok(vec![bf16::ONE; 5]));
        let wrong = Error::DType { tensor: "the tensor", expected: vec![DType::F32], got: DType::BF16 };
        assert_eq!(block_on(tensor.to_vec_async::<f32>()), Err(wrong.clone()));
        assert_eq!(tensor.to_vec::<f32>(), Err(wrong));
    }
}

/// Counts how often a future asks to be polled.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Many downloads at once, on an executor of one thread that polls whom it finds: none of them waits for another, and a
/// future that is dropped before it is done does no harm.
#[test]
fn downloads_may_be_in_flight_together() {
    let Some(device) = gpu_device() else { return };
    let values = |i: usize| vec![i as f32; 1000 + i];
    let tensors: Vec<_> =
        (0..8).map(|i| Tensor::from_slice(&values(i), &[1000 + i], &device).unwrap()).collect();
    let waker = Arc::new(Count::default());
    let context_waker: Waker = waker.clone().into();
    let mut context = Context::from_waker(&context_waker);
    {
        let mut dropped = pin!(tensors[0].to_f32_async());
        let _ = dropped.as_mut().poll(&mut context);
    }
    let mut futures: Vec<_> = tensors.iter().map(|tensor| Some(Box::pin(tensor.to_f32_async()))).collect();
    let mut done = vec![None; futures.len()];
    while futures.iter().any(Option::is_some) {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if let Some(one) = future
                && let Poll::Ready(numbers) = one.as_mut().poll(&mut context)
            {
                *done = Some(numbers.unwrap());
                *future = None;
            }
        }
    }
    for (i, done) in done.into_iter().enumerate() {
        assert_eq!(done, Some(values(i)));
    }
}
