use lightspan::nn::Encoder;
use lightspan::{Layout, Sequences, Tensor};
use proptest::prelude::*;

use super::draw::{Draw, Kind, Shape, shape};
use super::{assert_near, reference, rows_of};
use crate::support::{Numbers, config, devices, same_bits, sequences};

const KINDS: &[Kind] = &[Kind::Depthwise, Kind::Light, Kind::Dynamic, Kind::Attention, Kind::Mixed];

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_layer_is_its_steps(shape in shape(KINDS), sequences in sequences(0..4, 0..14)) {
        let x = Numbers::new(!shape.seed).tokens(&sequences, shape.channels, shape.dtype, 1.0);
        for device in devices() {
            let layer = Draw::new(&shape, &device).encoder_layer();
            let y = layer.forward(&x.on(&device), &sequences, &sequences).unwrap();
            let expected: Vec<_> = rows_of(&x, &sequences)
                .iter()
                .map(|x| reference::encoder_layer(&layer, x, x.len()))
                .collect();
            assert_near(&expected, &y, &sequences)?;
        }
    }

    /// As published, ConvBERT's convolutions see padding, and its attention does not.
    #[test]
    fn attention_may_see_less_than_convolution(
        shape in shape(&[Kind::Mixed]),
        lengths in prop::collection::vec(1usize..9, 0..4),
    ) {
        let whole = Sequences::batch(lengths.len(), 8).unwrap();
        let keys = Sequences::padded(8, &lengths).unwrap();
        let x = Numbers::new(!shape.seed).tokens(&whole, shape.channels, shape.dtype, 1.0);
        for device in devices() {
            let layer = Draw::new(&shape, &device).encoder_layer();
            let y = layer.forward(&x.on(&device), &whole, &keys).unwrap();
            let expected: Vec<_> = rows_of(&x, &whole)
                .iter()
                .zip(&lengths)
                .map(|(x, &length)| reference::encoder_layer(&layer, x, length))
                .collect();
            assert_near(&expected, &y, &whole)?;
        }
    }

    /// Whatever stands in the padding of x, every token of every sequence has the same bits.
    #[test]
    fn padding_never_leaks(shape in shape(KINDS), lengths in prop::collection::vec(0usize..11, 1..4)) {
        let sequences = Sequences::padded(10, &lengths).unwrap();
        for device in devices() {
            let encoder = stack(&shape, &device);
            let run = |fill: f64| {
                let mut x = Numbers::new(!shape.seed).tokens(&sequences, shape.channels, shape.dtype, 1.0);
                x.data.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = fill);
                encoder.forward(x.on(&device), &sequences, &sequences).unwrap()
            };
            let expected = tokens(&run(0.0), &sequences);
            for fill in [7.0, f64::NAN, f64::INFINITY] {
                prop_assert!(same_bits(&expected, &tokens(&run(fill), &sequences)), "{fill} on {device}");
            }
        }
    }
}

/// Two layers of one shape.
fn stack(shape: &Shape, device: &lightspan::Device) -> Encoder {
    let mut draw = Draw::new(shape, device);
    Encoder { layers: vec![draw.encoder_layer(), draw.encoder_layer()], norm: None }
}

/// The tokens of a padded batch, without what stands in its padding.
fn tokens(y: &Tensor, sequences: &Sequences) -> Tensor {
    assert!(matches!(sequences.shape().layout(), Layout::Padded { .. }));
    let channels = y.shape()[2];
    let values = y.to_f32().unwrap();
    let kept: Vec<f32> = sequences
        .as_slice()
        .iter()
        .flat_map(|s| values[s.first * channels..(s.first + s.length) * channels].to_vec())
        .collect();
    Tensor::from_f32(&kept, &[kept.len()], y.dtype(), &lightspan::Device::cpu()).unwrap()
}
