//! What reads some channels of a tensor gives what it gives for a copy of them, whatever lies between: to the bit, except
//! where a library makes the products and picks its order of summation by their strides.

use lightspan::ops::{
    self, AttentionKind, AttentionOptions, Channels, SpanConvOptions, SpanConvTensors, SpanConvWanted,
};
use lightspan::{Backend, DType, Device, Error, Sequences, Tensor, Window};
use proptest::prelude::*;

use crate::attention::{Call, case, kinds};
use crate::support::{Numbers, Values, assert_admitted, config, devices, same_bits};

/// Tokens of several tensors side by side, after `gap` channels that are no numbers.
fn side_by_side(parts: &[&Values], gap: usize) -> Values {
    let widths: Vec<usize> = parts.iter().map(|part| *part.shape.last().unwrap()).collect();
    let mut made = parts[0].clone();
    *made.shape.last_mut().unwrap() = gap + widths.iter().sum::<usize>();
    let rows: usize = parts[0].shape[..parts[0].shape.len() - 1].iter().product();
    let row = |row: usize| {
        let of_part = move |(part, &width): (&&Values, &usize)| part.data[row * width..][..width].to_vec();
        std::iter::repeat_n(f64::NAN, gap).chain(parts.iter().zip(&widths).flat_map(of_part)).collect()
    };
    made.data = (0..rows).flat_map(|i| -> Vec<f64> { row(i) }).collect();
    made
}

fn part(made: &Tensor, first: usize, count: usize) -> Channels<'_> {
    Channels::new(made, first..first + count).unwrap()
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn attention(case in case(40), gap in 0usize..5) {
        let call = Call::draw(&case);
        let Call { q, k, v, .. } = &call;
        let by_reference = call.expected();
        let channels = case.heads * case.head_channels;
        let (queries, seen) = (side_by_side(&[q], gap), side_by_side(&[k, v], gap));
        for device in devices() {
            for &kind in kinds(&device, case.head_channels) {
                let options = AttentionOptions {
                    scale: case.scale,
                    mask: case.mask,
                    alignment: case.alignment,
                    queries: Some(&case.queries),
                    keys: Some(&case.keys),
                    kind,
                };
                let (q, k, v) = (q.on(&device), k.on(&device), v.on(&device));
                let expected = ops::attention(&q, &k, &v, case.heads, &options).unwrap();
                let (queries, seen) = (queries.on(&device), seen.on(&device));
                let part = |i: usize| part(&seen, gap + i * channels, channels);
                let query = Channels::new(&queries, gap..gap + channels).unwrap();
                let y = ops::attention(query, part(0), part(1), case.heads, &options).unwrap();
                if device.backend() == Backend::Cpu && kind == AttentionKind::Naive {
                    assert_admitted(&by_reference, &y)?;
                } else {
                    prop_assert!(same_bits(&y, &expected), "{device}, {kind:?}");
                }
            }
        }
    }

    #[test]
    fn append(case in case(20), gap in 0usize..5) {
        let Call { q, .. } = &Call::draw(&case);
        let room = case.queries.gone_by().into_iter().max().unwrap_or(0).max(1);
        let shape = [case.queries.shape().sequences(), room, *q.shape.last().unwrap()];
        let made = side_by_side(&[q, q], gap);
        for device in devices() {
            let cache = |x: Channels<'_>| {
                let mut cache = Tensor::zeros(&shape, case.dtype, &device).unwrap();
                ops::append(&mut cache, x, &case.queries).unwrap();
                cache
            };
            let (x, made) = (q.on(&device), made.on(&device));
            prop_assert!(same_bits(&cache(part(&made, gap, shape[2])), &cache((&x).into())), "{device}");
        }
    }
}

#[test]
fn span_conv() {
    let (channels, heads, width) = (6, 2, 3);
    let sequences = Sequences::padded(70, &[70, 0, 33]).unwrap();
    let window = Window::same(width).unwrap();
    for (dtype, each) in DType::ALL.into_iter().flat_map(|dtype| [3, 16].map(|each| (dtype, each))) {
        let outputs = heads * each;
        let mut numbers = Numbers::new(9);
        let [x, query, value, dy] = [channels, outputs, outputs, outputs]
            .map(|channels| numbers.tokens(&sequences, channels, dtype, 1.0));
        let [depthwise, pointwise, weight] =
            [[channels, width], [outputs, channels], [heads * width, outputs]]
                .map(|shape| numbers.draw(&shape, dtype, 0.5));
        let made = side_by_side(&[&query, &value], 1);
        let options = SpanConvOptions { sequences: Some(&sequences), ..Default::default() };
        for device in devices() {
            let on = |values: &Values| -> Tensor { values.on(&device) };
            let [x, query, value, dy, made] = [&x, &query, &value, &dy, &made].map(on);
            let [depthwise, pointwise, weight] = [&depthwise, &pointwise, &weight].map(on);
            let run = |query, value| {
                let (x, depthwise, pointwise, weight) = (&x, &depthwise, &pointwise, &weight);
                let tensors = SpanConvTensors { x, query, value, depthwise, pointwise, weight };
                let y = ops::span_conv(&tensors, heads, window, &options).unwrap();
                let wanted = SpanConvWanted::ALL;
                let wanted = SpanConvWanted { bias: false, key_bias: false, weight_bias: false, ..wanted };
                let found = ops::span_conv_backward(&tensors, &dy, heads, window, &options, &wanted).unwrap();
                [Some(y), found.x, found.query, found.value, found.depthwise, found.pointwise, found.weight]
            };
            let expected = run((&query).into(), (&value).into());
            let got = run(part(&made, 1, outputs), part(&made, 1 + outputs, outputs));
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let (got, expected) = (got.as_ref().unwrap(), expected.as_ref().unwrap());
                assert!(same_bits(got, expected), "{device}, {dtype}, {each} channels of a head, {i}");
            }
        }
    }
}

#[test]
fn ranges_are_of_the_channels() {
    let x = Tensor::zeros(&[2, 3, 8], DType::F16, &Device::cpu()).unwrap();
    let all = Channels::from(&x);
    assert_eq!((all.shape(), all.dtype(), all.device()), (vec![2, 3, 8], DType::F16, x.device()));
    assert_eq!(Channels::new(&x, 5..8).unwrap().shape(), [2, 3, 3]);
    assert_eq!(Channels::new(&x, 8..8).unwrap().shape(), [2, 3, 0]);
    let refused = |first: usize, end: usize| Channels::new(&x, first..end).unwrap_err();
    let index = |got| Error::Index { what: "channels", got, count: 8 };
    assert_eq!([refused(5, 9), refused(9, 9), refused(5, 4)], [index(9), index(9), index(5)]);
    assert_eq!(index(9).to_string(), "9 is no index of 8 channels");
    // Shapes that disagree are named as those that the channels stand for.
    let (q, k) = (Channels::new(&x, 0..4).unwrap(), Channels::new(&x, 0..3).unwrap());
    let error = ops::attention(q, k, q, 2, &Default::default()).unwrap_err();
    assert_eq!(error, Error::Shape { tensor: "k", expected: [2, 3, 4].into(), got: [2, 3, 3].into() });
}
