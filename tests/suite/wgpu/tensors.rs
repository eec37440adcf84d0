//! Tensors keep their bits on the way to a device and back, whatever their length.

use lightspan::{DType, Device, Element, Tensor, bf16, f16, ops};
use pollster::block_on;
use proptest::prelude::*;

use crate::support::config;
use crate::support::gpu::{default_device, gpu_device};

/// Numbers of every pattern of bits, as a type with an `Element` and its bits.
trait Bits: Element {
    fn of(word: u32) -> Self;
    fn bits(self) -> u32;
}

impl Bits for f32 {
    fn of(word: u32) -> Self {
        f32::from_bits(word)
    }

    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Bits for f16 {
    fn of(word: u32) -> Self {
        f16::from_bits(word as u16)
    }

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

impl Bits for bf16 {
    fn of(word: u32) -> Self {
        bf16::from_bits(word as u16)
    }

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

/// Words that look like noise, all patterns among them.
fn words(len: usize, seed: u32) -> impl Iterator<Item = u32> {
    (0..len as u32).map(move |i| (i ^ seed).wrapping_mul(0x9e37_79b9) ^ (i >> 3).wrapping_mul(0x85eb_ca6b))
}

fn same<E: Bits>(expected: &[E], got: &[E]) {
    assert_eq!(expected.len(), got.len());
    let differs = expected.iter().zip(got).position(|(a, b)| a.bits() != b.bits());
    assert_eq!(differs, None, "{} of {} numbers", E::DTYPE, got.len());
}

/// There and back at once, by a write, and without waiting.
fn round_trip<E: Bits>(len: usize, device: &Device) {
    let values: Vec<E> = words(len, 1).map(E::of).collect();
    let mut tensor = Tensor::from_slice(&values, &[len], device).unwrap();
    same(&values, &tensor.to_vec::<E>().unwrap());
    same(&values, &block_on(tensor.to_vec_async::<E>()).unwrap());
    let others: Vec<E> = words(len, 2).map(E::of).collect();
    tensor.write(&others).unwrap();
    same(&others, &tensor.to_vec::<E>().unwrap());
    // Every type is exact as f32; of a NaN that is converted only that it is one.
    for (value, wide) in others.iter().zip(tensor.to_f32().unwrap()) {
        let exact = value.to_f32();
        assert!(exact.to_bits() == wide.to_bits() || exact.is_nan() && wide.is_nan(), "{value:?} as {wide}");
    }
    // What is there before anything is written are zeros.
    assert!(
        Tensor::zeros(&[len], E::DTYPE, device).unwrap().to_f32().unwrap().iter().all(|x| x.to_bits() == 0)
    );
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn keep_their_bits(len in prop_oneof![0usize..5, 5usize..3000]) {
        for device in [gpu_device(), default_device()].into_iter().flatten() {
            round_trip::<f32>(len, &device);
            round_trip::<f16>(len, &device);
            round_trip::<bf16>(len, &device);
        }
    }
}

/// More than a part of 64 MiB, ending within a word.
#[test]
fn keep_their_bits_over_several_parts() {
    let Some(device) = gpu_device() else { return };
    let part = 64 << 20;
    let values: Vec<bf16> = words(part + 3, 3).map(bf16::of).collect();
    let tensor = Tensor::from_slice(&values, &[part + 3], &device).unwrap();
    same(&values, &tensor.to_vec::<bf16>().unwrap());
    let values: Vec<f32> = words(part / 4 + 1, 4).map(f32::of).collect();
    let mut tensor = Tensor::zeros(&[part / 4 + 1], DType::F32, &device).unwrap();
    tensor.write(&values).unwrap();
    same(&values, &tensor.to_vec::<f32>().unwrap());
}

/// A write comes after the calls that were queued before it, and before those after it.
#[test]
fn writes_are_in_order_with_calls() {
    let Some(device) = gpu_device() else { return };
    const ROWS: usize = 20_001;
    for dtype in DType::ALL {
        let tensor = |value: f32, shape: &[usize]| {
            Tensor::from_f32(&vec![value; shape.iter().product()], shape, dtype, &device).unwrap()
        };
        let (mut x, weight) = (tensor(1.0, &[ROWS, 3]), tensor(1.0, &[3, 3]));
        let results: Vec<_> = (2..8)
            .map(|i| {
                let y = ops::linear(&x, &weight, &Default::default()).unwrap();
                match dtype {
                    DType::F32 => x.write(&vec![i as f32; 3 * ROWS]),
                    DType::F16 => x.write(&vec![f16::from_f32(i as f32); 3 * ROWS]),
                    _ => x.write(&vec![bf16::from_f32(i as f32); 3 * ROWS]),
                }
                .unwrap();
                y
            })
            .collect();
        for (i, y) in results.iter().enumerate() {
            assert!(y.to_f32().unwrap().iter().all(|&y| y == 3.0 * (i + 1) as f32), "{dtype}, call {i}");
        }
        // An output may be overwritten as well, and read by the call after that.
        let mut y = ops::linear(&x, &weight, &Default::default()).unwrap();
        ops::linear_into(&mut y, &tensor(2.0, &[ROWS, 3]), &weight, &Default::default()).unwrap();
        let z = ops::linear(&y, &weight, &Default::default()).unwrap();
        assert!(z.to_f32().unwrap().iter().all(|&z| z == 18.0), "{dtype}");
    }
}
