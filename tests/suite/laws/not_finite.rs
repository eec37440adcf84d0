//! What is infinite or NaN reaches nothing that does not read it.

use lightspan::ops::{self, AttentionBackwardTensors, AttentionOptions, AttentionWanted};
use lightspan::{DType, Device, Normalize, Sequences, Tensor, Window};

use crate::attention::KINDS;
use crate::support::{Numbers, devices};

const WRONG: [f32; 2] = [f32::NAN, f32::INFINITY];

fn tensor(values: &[f32], shape: &[usize], device: &Device) -> Tensor {
    Tensor::from_slice(values, shape, device).unwrap()
}

/// A token whose gradient is not finite has none for its taps out of range, where these have no weight.
#[test]
fn taps_out_of_range_have_no_gradient() {
    let window = Window::causal(3).unwrap();
    for (device, wrong) in devices().iter().flat_map(|device| WRONG.map(|wrong| (device, wrong))) {
        let x = tensor(&[0.5, -1.0, 2.0, 1.0], &[1, 2, 2], device);
        let dy = tensor(&[wrong, 1.0, 0.5, 0.25], &[1, 2, 2], device);
        let options = ops::ConvOptions { normalize: Normalize::SoftmaxInRange, ..Default::default() };
        let logits = tensor(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], &[1, 2, 1, 3], device);
        let wanted = ops::DynamicConvWanted::ALL;
        let found = ops::dynamic_conv_given_backward(&x, &logits, &dy, window, &options, &wanted).unwrap();
        let dlogits = found.logits.unwrap().to_f32().unwrap();
        assert_eq!(dlogits[..2], [0.0; 2], "{dlogits:?} on {device}");
        assert!(dlogits[2].is_nan() && dlogits[4..].iter().all(|g| g.is_finite()), "{dlogits:?} on {device}");

        let weight = tensor(&[0.1, 0.2, 0.3], &[1, 3], device);
        let wanted = ops::LightConvWanted::ALL;
        let found = ops::light_conv_backward(&x, &weight, &dy, window, &options, &wanted).unwrap();
        let dweight = found.weight.unwrap().to_f32().unwrap();
        assert_eq!(dweight[0], 0.0, "{dweight:?} on {device}");
        assert!(dweight[1].is_finite() && dweight[2].is_nan(), "{dweight:?} on {device}");
    }
}

/// The softmax over all taps is that of no token where every sequence is shorter than the window.
#[test]
fn a_tap_that_is_never_in_range_changes_no_other() {
    let (window, sequences) = (Window::causal(3).unwrap(), Sequences::packed(&[0, 2, 4]).unwrap());
    for (device, wrong) in devices().iter().flat_map(|device| WRONG.map(|wrong| (device, wrong))) {
        let numbers: Vec<f32> = (0..8).map(|i| (i as f32).sin()).collect();
        let (x, dy) = (tensor(&numbers, &[4, 2], device), tensor(&numbers, &[4, 2], device));
        let normalize = Normalize::SoftmaxInRange;
        let options = ops::ConvOptions { normalize, sequences: Some(&sequences), ..Default::default() };
        let weight = tensor(&[wrong, 0.2, 0.3], &[1, 3], device);
        let wanted = ops::LightConvWanted::ALL;
        let found = ops::light_conv_backward(&x, &weight, &dy, window, &options, &wanted).unwrap();
        let dweight = found.weight.unwrap().to_f32().unwrap();
        assert!(dweight[0] == 0.0 && dweight[1..].iter().all(|g| g.is_finite()), "{dweight:?} on {device}");
    }
}

/// A generator that is not finite makes no gradient of a query in the padding.
#[test]
fn a_query_in_the_padding_has_no_gradient() {
    let (window, sequences) = (Window::causal(3).unwrap(), Sequences::padded(5, &[3, 0]).unwrap());
    for (device, wrong) in devices().iter().flat_map(|device| WRONG.map(|wrong| (device, wrong))) {
        let mut numbers = Numbers::new(5);
        let mut draw = |shape: &[usize]| numbers.draw(shape, DType::F32, 1.0);
        let [x, query, dy] = [[2, 5, 4], [2, 5, 6], [2, 5, 4]].map(|shape| draw(&shape).on(device));
        let mut weight = draw(&[6, 6]);
        weight.data[7] = wrong.into();
        let weight = weight.on(device);
        let options = ops::DynamicConvOptions {
            query: Some(&query),
            sequences: Some(&sequences),
            ..Default::default()
        };
        let wanted = ops::DynamicConvWanted::ALL;
        let found = ops::dynamic_conv_backward(&x, &weight, &dy, 2, window, &options, &wanted).unwrap();
        let dquery = found.query.unwrap().to_f32().unwrap();
        assert!(dquery[..18].iter().any(|g| g.is_nan()), "{dquery:?} on {device}");
        assert!(dquery[18..].iter().all(|&g| g == 0.0), "{dquery:?} on {device}");
    }
}

/// Keys and values that are not finite leave the padding of queries zero, forward and backward.
#[test]
fn attention_leaves_the_padding_zero() {
    let (queries, keys) = (Sequences::padded(24, &[20]).unwrap(), Sequences::padded(40, &[33]).unwrap());
    for (device, wrong) in devices().iter().flat_map(|device| WRONG.map(|wrong| (device, wrong))) {
        for (kind, dtype) in KINDS.into_iter().flat_map(|kind| DType::ALL.map(|dtype| (kind, dtype))) {
            let mut numbers = Numbers::new(6);
            let mut draw = |sequences: &Sequences| numbers.tokens(sequences, 16, dtype, 1.0);
            let [q, y, dy] = [(); 3].map(|()| draw(&queries).on(device));
            let [mut k, mut v] = [(); 2].map(|()| draw(&keys));
            (k.data[0], v.data[17]) = (wrong.into(), wrong.into());
            let (k, v) = (k.on(device), v.on(device));
            let options =
                AttentionOptions { kind, queries: Some(&queries), keys: Some(&keys), ..Default::default() };
            let forward = ops::attention(&q, &k, &v, 2, &options).unwrap();
            let tensors = AttentionBackwardTensors { q: &q, k: &k, v: &v, y: &y, dy: &dy };
            let found = ops::attention_backward(&tensors, 2, &options, &AttentionWanted::ALL).unwrap();
            let padded = [(Some(forward), 20), (found.q, 20), (found.k, 33), (found.v, 33)];
            for (tensor, length) in padded {
                let padding = tensor.unwrap().to_f32().unwrap().split_off(length * 16);
                assert!(padding.iter().all(|&g| g == 0.0), "{kind:?} {dtype} on {device}: {padding:?}");
            }
        }
    }
}
