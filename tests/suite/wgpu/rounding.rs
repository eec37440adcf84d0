//! Numbers of 16 bits are read exactly, and what kernels store is rounded as `half` rounds it, bit for bit.
//!
//! A linear layer of one input, of x = 1 and weights in f32, stores whatever weights it is given.

use lightspan::{DType, Device, Element, Tensor, bf16, f16, ops};
use proptest::prelude::*;

use crate::support::config;
use crate::support::gpu::{default_device, gpu_device};

/// What a kernel stores of `values`, in rows of an odd or an even number of outputs: in halves of words, or in words.
fn stored<E: Element>(values: &[f32], row: usize, device: &Device) -> Vec<E> {
    let x = Tensor::from_f32(&[1.0], &[1, 1], E::DTYPE, device).unwrap();
    let chunks = values.chunks(row).map(|values| {
        let weight = Tensor::from_slice(values, &[values.len(), 1], device).unwrap();
        ops::linear(&x, &weight, &Default::default()).unwrap().to_vec::<E>().unwrap()
    });
    chunks.collect::<Vec<_>>().concat()
}

/// Fails unless numbers are rounded as `round` does; of those below the smallest normal f32 a device may make zeros, of
/// the sign that it likes.
fn check<E: Element>(values: &[f32], device: &Device, bits: impl Fn(E) -> u16) {
    for row in [values.len() / 2 * 2 - 1, values.len() / 2 * 2] {
        for (value, got) in values.iter().zip(stored::<E>(values, row, device)) {
            let expected = E::from_f32(*value);
            let flushed = value.is_subnormal() || *value == 0.0;
            let same = bits(got) == bits(expected)
                || value.is_nan() && got.to_f32().is_nan()
                || flushed && got.to_f32() == 0.0;
            assert!(
                same,
                "{value:e} ({:08x}) is {:04x} as {}, not {:04x}",
                value.to_bits(),
                bits(got),
                E::DTYPE,
                bits(expected)
            );
        }
    }
}

fn both(values: &[f32]) {
    for device in [gpu_device(), default_device()].into_iter().flatten() {
        check::<f16>(values, &device, f16::to_bits);
        check::<bf16>(values, &device, bf16::to_bits);
    }
}

/// Of every f16 and bf16: itself, the middle between it and the next, and the f32 just below and above that.
#[test]
fn every_tie_and_its_neighbours_round_to_even() {
    let mut values = vec![];
    for pattern in 0..=u16::MAX {
        for (one, next) in [
            (f16::from_bits(pattern).to_f32(), f16::from_bits(pattern.wrapping_add(1)).to_f32()),
            (bf16::from_bits(pattern).to_f32(), bf16::from_bits(pattern.wrapping_add(1)).to_f32()),
        ] {
            // Past the largest number, where it would be if there were one more.
            let next = if next.is_infinite() { one * 2.0 - f32::from_bits(one.to_bits() - 1) } else { next };
            let middle = (f64::from(one) + f64::from(next)) / 2.0;
            let middle = middle as f32;
            let [below, above] =
                [-1i32, 1].map(|step| f32::from_bits(middle.to_bits().wrapping_add_signed(step)));
            values.extend([one, below, middle, above]);
        }
    }
    // Where f16 overflows, and where it and bf16 underflow.
    let edges = [65504.0, 65519.996, 65520.0, 65536.0, f32::MAX, f32::INFINITY, 3.39e38, 3.3953138e38];
    let small = [2f32.powi(-24), 2f32.powi(-25), 2f32.powi(-25) * 1.0001, 2f32.powi(-14), f32::MIN_POSITIVE];
    let nans = [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0x7fff_ffff)];
    for value in edges.into_iter().chain(small).chain(nans) {
        values.extend([value, -value]);
    }
    both(&values);
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn any_number_is_rounded_to_the_nearest(words in proptest::collection::vec(any::<u32>(), 2000)) {
        both(&words.into_iter().map(f32::from_bits).collect::<Vec<_>>());
    }
}

/// Every number of 16 bits, read by a kernel that stores f32, is itself: subnormal ones, infinities and NaN too.
///
/// History moves bits, so it is a span-aware key that reads here: q = 1 and a filter of one tap whose weight is 1.
#[test]
fn every_number_of_16_bits_is_read_exactly() {
    for device in [gpu_device(), default_device()].into_iter().flatten() {
        read_exactly(f16::from_bits, &device);
        read_exactly(bf16::from_bits, &device);
    }
}

fn read_exactly<E: Element>(of: impl Fn(u16) -> E, device: &Device) {
    let all: Vec<E> = (0..=u16::MAX).map(of).collect();
    let tokens = all.len();
    let one = |shape: &[usize]| {
        Tensor::from_f32(&vec![1.0; shape.iter().product()], shape, E::DTYPE, device).unwrap()
    };
    let x = Tensor::from_slice(&all, &[1, tokens, 1], device).unwrap();
    let (query, depthwise, pointwise) = (one(&[1, tokens, 1]), one(&[1, 1]), one(&[1, 1]));
    let tensors = ops::SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
    let options = ops::SpanKeyOptions { output: Some(DType::F32), ..Default::default() };
    let window = lightspan::Window::causal(1).unwrap();
    let z = ops::span_key(&tensors, window, &options).unwrap().to_vec::<f32>().unwrap();
    for (value, got) in all.into_iter().zip(z) {
        let expected = value.to_f32();
        let flushed = expected.is_subnormal() && got == 0.0;
        assert!(
            expected == got || expected.is_nan() && got.is_nan() || flushed,
            "{expected:e} is read as {got:e}"
        );
    }
}
