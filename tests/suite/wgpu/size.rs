//! Calls of more workgroups than a dimension of a dispatch holds, and tensors as large as a binding may be.

use ::wgpu::{DeviceType, Limits};
use lightspan::problem::{Alignment, LinearProblem, Mask};
use lightspan::{DType, Device, Error, Normalize, Sequences, Tensor, Window, bf16, ops};

use crate::dynamic_conv::{self, Generator};
use crate::support::gpu::{default_device, device_with, gpu_device};
use crate::support::{ConvCase, assert_admitted};
use crate::{attention, light_conv, span_key};

/// A device, and more sequences than it has workgroups in a dimension, each a workgroup or more.
///
/// A software adapter is given 10 workgroups in a dimension, and takes all three; 65535, as many as every device has, take
/// it a minute.
pub fn many() -> Option<(Device, usize)> {
    let device = gpu_device()?;
    if device.gpu().unwrap().device().adapter_info().device_type != DeviceType::Cpu {
        return Some((device, 70_001));
    }
    let limits = Limits { max_compute_workgroups_per_dimension: 10, ..Limits::default() };
    Some((device_with(limits)?, 701))
}

pub fn case(sequences: Sequences, dtype: DType) -> ConvCase {
    ConvCase {
        sequences,
        heads: 2,
        head_channels: 1,
        window: Window::same(3).unwrap(),
        normalize: Normalize::Softmax,
        dtype,
        parameters: dtype,
        bias: false,
        history: false,
        dropout: None,
        seed: 1,
    }
}

/// Of all three layouts; empty sequences are in the way of the search for packed ones.
pub fn cases(count: usize) -> [ConvCase; 3] {
    let lengths: Vec<_> = (0..count).map(|i| i % 3).collect();
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    let offsets: Vec<_> = std::iter::once(0).chain(ends).collect();
    [
        case(Sequences::batch(count, 2).unwrap(), DType::BF16),
        case(Sequences::padded(2, &lengths).unwrap(), DType::F32),
        case(Sequences::packed(&offsets).unwrap(), DType::F16),
    ]
}

#[test]
fn light_conv_of_more_workgroups_than_a_dimension_holds() {
    let Some((device, sequences)) = many() else { return };
    for case in cases(sequences) {
        let call = light_conv::Call::draw(&case);
        assert_admitted(&call.expected(), &call.run(&device)).unwrap();
    }
}

#[test]
fn dynamic_conv_of_more_workgroups_than_a_dimension_holds() {
    let Some((device, sequences)) = many() else { return };
    for case in cases(sequences) {
        for generator in [Generator::Given, Generator::Own { weight_bias: false }] {
            let call = dynamic_conv::Call::draw(&case, generator);
            assert_admitted(&call.expected(), &call.run(&device)).unwrap();
        }
    }
}

#[test]
fn span_key_of_more_workgroups_than_a_dimension_holds() {
    let Some((device, sequences)) = many() else { return };
    for case in cases(sequences) {
        let call = span_key::Call::draw(&case, 1, DType::F32);
        assert_admitted(&call.expected(), &call.run(&device)).unwrap();
    }
}

#[test]
fn attention_of_more_workgroups_than_a_dimension_holds() {
    let Some((device, sequences)) = many() else { return };
    for ConvCase { sequences, dtype, .. } in cases(sequences) {
        let case = attention::Case {
            queries: sequences.clone(),
            keys: sequences,
            heads: 1,
            head_channels: 2,
            scale: None,
            mask: Mask::CAUSAL,
            alignment: Alignment::End,
            dtype,
            seed: 1,
        };
        let call = attention::Call::draw(&case);
        for kind in attention::KINDS {
            assert_admitted(&call.expected(), &call.run(kind, &device)).unwrap();
        }
    }
}

/// A workgroup moves 256 words.
#[test]
fn history_of_more_workgroups_than_a_dimension_holds() {
    let Some(device) = gpu_device() else { return };
    const SEQUENCES: usize = 65_600;
    const CHANNELS: usize = 257;
    let value = |i: usize| (i % 8191) as f32;
    let x: Vec<f32> = (0..SEQUENCES * CHANNELS).map(value).collect();
    let x = Tensor::from_slice(&x, &[SEQUENCES, 1, CHANNELS], &device).unwrap();
    let history = Tensor::zeros(&[SEQUENCES, 1, CHANNELS], DType::F32, &device).unwrap();
    let next = ops::history(&x, &history, Window::causal(2).unwrap(), None).unwrap().to_f32().unwrap();
    assert_eq!(next.iter().enumerate().position(|(i, &number)| number != value(i)), None);
}

#[test]
fn append_of_more_workgroups_than_a_dimension_holds() {
    let Some(device) = gpu_device() else { return };
    const SEQUENCES: usize = 65_600;
    const CHANNELS: usize = 257;
    let value = |i: usize| (i % 8191) as f32;
    let x: Vec<f32> = (0..SEQUENCES * CHANNELS).map(value).collect();
    let x = Tensor::from_slice(&x, &[SEQUENCES, CHANNELS], &device).unwrap();
    let mut cache = Tensor::zeros(&[SEQUENCES, 1, CHANNELS], DType::F32, &device).unwrap();
    let each = Sequences::packed(&(0..=SEQUENCES).collect::<Vec<_>>()).unwrap();
    ops::append(&mut cache, &x, &each).unwrap();
    let cache = cache.to_f32().unwrap();
    assert_eq!(cache.iter().enumerate().position(|(i, &number)| number != value(i)), None);
}

/// One workgroup more than the largest grid is refused before anything is launched.
#[test]
fn more_workgroups_than_a_dispatch_holds_are_refused() {
    let limits = Limits { max_compute_workgroups_per_dimension: 5, ..Limits::default() };
    let Some(device) = device_with(limits) else { return };
    let run = |sequences| {
        let case = case(Sequences::batch(sequences, 2).unwrap(), DType::F32);
        let call = light_conv::Call::draw(&case);
        let (x, weight) = (call.x.on(&device), call.weight.on(&device));
        let options = ops::ConvOptions { sequences: Some(&case.sequences), ..Default::default() };
        ops::light_conv(&x, &weight, case.window, &options).map(drop)
    };
    assert_eq!(run(125), Ok(()));
    let error = Error::Limit { what: "workgroups of", of: "the call", needed: 126, limit: 125 };
    assert_eq!(run(126), Err(error));
}

/// A tile of a product has 128 rows at most.
#[test]
fn linear_of_more_workgroups_than_a_dimension_holds() {
    let Some(device) = gpu_device() else { return };
    const ROWS: usize = 128 * 65_600 + 1;
    let problem = LinearProblem::new(ROWS, 1, 1, DType::F32).unwrap();
    let values = |i: usize| (i % 8191) as f32;
    let x: Vec<f32> = (0..problem.rows()).map(values).collect();
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &device).unwrap();
    let (x, weight) = (tensor(&x, &[ROWS, 1]), tensor(&[3.0], &[1, 1]));
    let y = ops::linear(&x, &weight, &Default::default()).unwrap().to_f32().unwrap();
    assert_eq!(y.iter().enumerate().position(|(i, &y)| y != 3.0 * values(i)), None);
}

/// Two tensors of 2 KiB less than the 128 MiB that every device can bind, in 16 bits, read and written to the last number.
#[test]
fn tensors_as_large_as_a_binding() {
    const TOKENS: usize = (1 << 16) - 1;
    const CHANNELS: usize = 1 << 10;
    let Some(device) = default_device() else { return };
    let value = |token: usize, channel: usize| (token % 61 + channel % 3) as f32;
    let x: Vec<_> =
        (0..TOKENS * CHANNELS).map(|i| bf16::from_f32(value(i / CHANNELS, i % CHANNELS))).collect();
    let x = Tensor::from_slice(&x, &[1, TOKENS, CHANNELS], &device).unwrap();
    let weight = Tensor::from_f32(&[1.0, 1.0], &[1, 2], DType::BF16, &device).unwrap();
    let options = ops::ConvOptions { normalize: Normalize::None, ..Default::default() };
    let y = ops::light_conv(&x, &weight, Window::causal(2).unwrap(), &options).unwrap();
    drop(x);
    // Sums of two such numbers are below 256: bf16 holds them exactly.
    let y = y.to_vec::<bf16>().unwrap();
    let wrong = (0..TOKENS * CHANNELS).find(|&i| {
        let (token, channel) = (i / CHANNELS, i % CHANNELS);
        let before = if token == 0 { 0.0 } else { value(token - 1, channel) };
        y[i].to_f32() != value(token, channel) + before
    });
    assert_eq!(wrong, None);
}
