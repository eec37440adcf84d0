//! Threads on one device: different operators at once, kernels compiled at once, tensors dropped while calls on them are
//! queued.

use std::sync::Barrier;

use ::wgpu::Limits;
use lightspan::problem::{Alignment, LinearProblem, Mask};
use lightspan::{DType, Device, Normalize, Sequences, Tensor, Window, ops};

use crate::dynamic_conv::{self, Generator};
use crate::support::gpu::{device_with, gpu_device};
use crate::support::{ConvCase, same_bits};
use crate::{attention, light_conv, linear, span_conv, span_key};

fn case(i: usize) -> ConvCase {
    ConvCase {
        sequences: Sequences::batch(1 + i % 3, 20 + 31 * i).unwrap(),
        heads: 1 + i % 4,
        head_channels: 3 + i,
        // Every other one has more taps than can be generated on the chip: its calls share scratch memory with others.
        window: Window::causal(if i.is_multiple_of(2) { 5 } else { 240 + i }).unwrap(),
        normalize: Normalize::Softmax,
        dtype: DType::ALL[i % 3],
        parameters: DType::F32,
        bias: true,
        history: false,
        dropout: None,
        seed: i as u64,
    }
}

/// The i-th of as many different calls as one likes.
fn run(i: usize, device: &Device) -> Tensor {
    let case = case(i);
    match i % 7 {
        0 => light_conv::Call::draw(&case).run(device),
        1 => dynamic_conv::Call::draw(&case, Generator::Own { weight_bias: true }).run(device),
        2 => span_conv::Call::draw(&case, 11).run(device),
        3 => span_conv::Call::draw(&case, 6).run(device),
        4 => span_key::Call::draw(&case, 7, case.dtype).run(device),
        5 => {
            let problem = LinearProblem::new(100 * i, 33, 18, case.dtype).unwrap();
            linear::Call::draw(problem, case.seed).run(device)
        }
        _ => {
            let case = attention::Case {
                queries: case.sequences.clone(),
                keys: case.sequences,
                heads: 2,
                head_channels: 9,
                scale: None,
                mask: Mask::CAUSAL,
                alignment: Alignment::End,
                dtype: case.dtype,
                seed: case.seed,
            };
            attention::Call::draw(&case).run(attention::KINDS[i / 7 % 2], device)
        }
    }
}

/// What one thread computes alone is what `threads` of them compute at once, each beginning with another call: on a device
/// that has no kernels yet, so that all of them are compiled at once, and once it has them.
fn at_once(threads: usize, calls: usize) {
    let Some(alone) = gpu_device() else { return };
    let expected: Vec<_> = (0..calls).map(|i| run(i, &alone)).collect();
    let Some(device) = device_with(Limits::default()) else { return };
    let numbers =
        |tensor: &Tensor| tensor.to_f32().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (device, expected, start) = (&device, &expected, &start);
            scope.spawn(move || {
                start.wait();
                for i in (0..2 * calls).map(|i| (i + thread / 2) % calls) {
                    assert_eq!(
                        numbers(&run(i, device)),
                        numbers(&expected[i]),
                        "call {i} of thread {thread}"
                    );
                }
            });
        }
    });
}

#[test]
fn two_threads_get_what_one_gets() {
    at_once(2, 14);
}

#[test]
fn eight_threads_get_what_one_gets() {
    at_once(8, 8);
}

/// However many threads want a kernel at once, the device has one.
#[test]
fn threads_that_want_one_kernel_share_it() {
    let Some(device) = device_with(Limits::default()) else { return };
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                run(0, &device)
            });
        }
    });
    assert_eq!(device.gpu().unwrap().pipelines(), 1);
}

/// A queued call keeps what it reads: inputs may be dropped, and their memory be asked for again, before it runs.
#[test]
fn tensors_may_be_dropped_while_calls_are_queued() {
    let Some(device) = gpu_device() else { return };
    const ROWS: usize = 4000;
    let tensor = |value: f32, shape: &[usize]| {
        Tensor::from_f32(&vec![value; shape.iter().product()], shape, DType::F32, &device).unwrap()
    };
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            scope.spawn(move || {
                let weight = tensor(1.0, &[8, 8]);
                let results: Vec<_> = (1..=20)
                    .map(|i| {
                        let x = tensor((thread * i) as f32, &[ROWS, 8]);
                        let hidden = ops::linear(&x, &weight, &Default::default()).unwrap();
                        drop(x);
                        let y = ops::linear(&hidden, &weight, &Default::default()).unwrap();
                        drop(hidden);
                        // Other numbers in what may be the memory of x.
                        drop(tensor(f32::NAN, &[ROWS, 8]));
                        y
                    })
                    .collect();
                for (i, y) in (1..).zip(results) {
                    assert!(same_bits(&y, &tensor((64 * thread * i) as f32, &[ROWS, 8])), "call {i}");
                }
            });
        }
    });
}
