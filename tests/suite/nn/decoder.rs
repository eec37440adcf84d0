use lightspan::nn::{Decoder, DecoderState, Memory};
use lightspan::{Device, Error, Sequences, Tensor};
use proptest::prelude::*;

use super::draw::{Draw, Kind, Shape, shape};
use super::reference::{self, Rows};
use super::{assert_near, rows_of};
use crate::support::{Numbers, Values, config, devices, sequences};

const KINDS: &[Kind] = &[Kind::Depthwise, Kind::Light, Kind::Dynamic, Kind::Attention];

/// Two layers of one shape.
fn stack(shape: &Shape, cross: bool, device: &Device) -> Decoder {
    let mut draw = Draw::new(shape, device);
    Decoder { layers: vec![draw.decoder_layer(cross), draw.decoder_layer(cross)], norm: None }
}

/// What the layers mean for each sequence.
fn expected(decoder: &Decoder, x: &[Rows], memory: Option<&[Rows]>) -> Vec<Rows> {
    let of_sequence = |(i, x): (usize, &Rows)| {
        let memory = memory.map(|memory| &memory[i]);
        decoder.layers.iter().fold(x.clone(), |x, layer| reference::decoder_layer(layer, &x, memory))
    };
    x.iter().enumerate().map(of_sequence).collect()
}

/// A memory for as many sequences, of another length each.
fn memory(shape: &Shape, count: usize) -> (Values, Sequences) {
    let lengths: Vec<usize> = (0..count).map(|i| 1 + i * 3 % 7).collect();
    let sequences = Sequences::padded(7, &lengths).unwrap();
    let tokens = Numbers::new(shape.seed ^ 1).tokens(&sequences, shape.channels, shape.dtype, 1.0);
    (tokens, sequences)
}

/// Chunks of each sequence of a batch without padding, one after another.
fn in_chunks(
    decoder: &Decoder,
    x: &Values,
    [batch, time]: [usize; 2],
    chunks: &[usize],
    mut state: DecoderState,
    device: &Device,
) -> Tensor {
    let channels = x.shape[2];
    let mut y = vec![vec![]; batch];
    let mut from = 0;
    for &chunk in chunks.iter().chain([&time]) {
        let to = (from + chunk).min(time);
        let part = |s: usize| x.data[(s * time + from) * channels..(s * time + to) * channels].to_vec();
        let part = Values {
            data: (0..batch).flat_map(part).collect(),
            shape: vec![batch, to - from, channels],
            ..*x
        };
        let sequences = Sequences::batch(batch, to - from).unwrap();
        let found = decoder.step(part.on(device), &sequences, &mut state).unwrap();
        assert_eq!(found.shape(), part.shape);
        let found = found.to_f32().unwrap();
        for (s, y) in y.iter_mut().enumerate() {
            y.extend_from_slice(&found[s * (to - from) * channels..(s + 1) * (to - from) * channels]);
        }
        from = to;
        assert_eq!(state.gone_by(), vec![to; batch]);
    }
    Tensor::from_f32(&y.concat(), &x.shape, x.dtype, &Device::cpu()).unwrap()
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn layers_are_their_steps(shape in shape(KINDS), sequences in sequences(0..4, 0..14), cross: bool) {
        let x = Numbers::new(!shape.seed).tokens(&sequences, shape.channels, shape.dtype, 1.0);
        let (memory, keys) = memory(&shape, sequences.shape().sequences());
        for device in devices() {
            let decoder = stack(&shape, cross, &device);
            let tokens = memory.on(&device);
            let seen = cross.then_some(Memory { tokens: &tokens, sequences: &keys });
            let y = decoder.forward(x.on(&device), &sequences, seen).unwrap();
            let memory = cross.then(|| rows_of(&memory, &keys));
            let expected = expected(&decoder, &rows_of(&x, &sequences), memory.as_deref());
            assert_near(&expected, &y, &sequences)?;
        }
    }

    #[test]
    fn chunks_give_what_the_whole_gives(
        shape in shape(KINDS),
        (batch, time) in (1usize..4, 0usize..16),
        chunks in prop::collection::vec(0usize..6, 0..6),
        cross: bool,
    ) {
        let sequences = Sequences::batch(batch, time).unwrap();
        let x = Numbers::new(!shape.seed).tokens(&sequences, shape.channels, shape.dtype, 1.0);
        let (memory, keys) = memory(&shape, batch);
        for device in devices() {
            let decoder = stack(&shape, cross, &device);
            let tokens = memory.on(&device);
            let seen = cross.then_some(Memory { tokens: &tokens, sequences: &keys });
            let state = decoder.begin(batch, seen, &tokens).unwrap();
            let y = in_chunks(&decoder, &x, [batch, time], &chunks, state, &device);
            let memory = cross.then(|| rows_of(&memory, &keys));
            let expected = expected(&decoder, &rows_of(&x, &sequences), memory.as_deref());
            assert_near(&expected, &y, &sequences)?;
        }
    }

    /// Sequences that go on from others' states are those others, gone on.
    #[test]
    fn states_are_reordered(
        shape in shape(KINDS),
        from in prop::collection::vec(0usize..3, 1..5),
        (before, after) in (0usize..7, 1usize..5),
        cross: bool,
    ) {
        let (time, channels) = (before + after, shape.channels);
        let sequences = Sequences::batch(3, time).unwrap();
        let x = Numbers::new(!shape.seed).tokens(&sequences, channels, shape.dtype, 1.0);
        let (memory, keys) = memory(&shape, 3);
        let rows = rows_of(&x, &sequences);
        for device in devices() {
            let decoder = stack(&shape, cross, &device);
            let tokens = memory.on(&device);
            let seen = cross.then_some(Memory { tokens: &tokens, sequences: &keys });
            let mut state = decoder.begin(3, seen, &tokens).unwrap();
            let part = |s: usize, from: usize, to: usize| rows[s][from..to].concat();
            let values = |data: Vec<f64>, shape: Vec<usize>| Values { data, shape, dtype: x.dtype };
            let first = values((0..3).flat_map(|s| part(s, 0, before)).collect(), vec![3, before, channels]);
            let sequences = Sequences::batch(3, before).unwrap();
            decoder.step(first.on(&device), &sequences, &mut state).unwrap();
            let mut state = state.reorder(&from).unwrap();
            prop_assert_eq!(state.gone_by(), vec![before; from.len()]);
            let data = from.iter().flat_map(|&s| part(s, before, time)).collect();
            let second = values(data, vec![from.len(), after, channels]);
            let sequences = Sequences::batch(from.len(), after).unwrap();
            let y = decoder.step(second.on(&device), &sequences, &mut state).unwrap();
            let memory = cross.then(|| rows_of(&memory, &keys));
            let whole = expected(&decoder, &rows, memory.as_deref());
            let expected: Vec<Rows> = from.iter().map(|&s| whole[s][before..].to_vec()).collect();
            assert_near(&expected, &y, &sequences)?;
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu();
    let shape = Shape { ..example() };
    let x = || Tensor::zeros(&[1, 4, shape.channels], shape.dtype, &device).unwrap();
    let (tokens, sequences) = (x(), Sequences::batch(1, 4).unwrap());
    let memory = Some(Memory { tokens: &tokens, sequences: &sequences });
    let (with, without) = (stack(&shape, true, &device), stack(&shape, false, &device));
    assert_eq!(with.forward(x(), &sequences, None).unwrap_err(), Error::Missing { tensor: "memory" });
    assert_eq!(without.forward(x(), &sequences, memory).unwrap_err(), Error::Surplus { tensor: "memory" });
    assert_eq!(with.begin(1, None, &tokens).unwrap_err(), Error::Missing { tensor: "memory" });

    let mut state = without.begin(1, None, &tokens).unwrap();
    let two = Sequences::batch(2, 2).unwrap();
    let refused = without.step(x(), &two, &mut state).unwrap_err();
    assert_eq!(refused, Error::PastCount { sequences: 2, got: 1 });
    let refused = state.reorder(&[0, 1]).unwrap_err();
    assert_eq!(refused, Error::Index { what: "sequences of the state", got: 1, count: 1 });

    let packed = Sequences::packed(&[0, 1, 4]).unwrap();
    let tokens = Tensor::zeros(&[4, shape.channels], shape.dtype, &device).unwrap();
    let state = with.begin(2, Some(Memory { tokens: &tokens, sequences: &packed }), &tokens).unwrap();
    assert!(matches!(state.reorder(&[1, 0]).unwrap_err(), Error::Sequences { .. }));

    let mut ahead = without.clone();
    let lightspan::nn::DecoderMixer::Conv(block) = &mut ahead.layers[0].mixer else { panic!() };
    let lightspan::nn::Conv::Light(conv) = &mut block.conv else { panic!() };
    conv.window = lightspan::Window::same(3).unwrap();
    let refused = ahead.forward(x(), &sequences, None).unwrap_err();
    assert_eq!(refused, Error::HistoryNotCausal { left: 1, width: 3, dilation: 1, reach: 2 });
}

fn example() -> Shape {
    Shape {
        kind: Kind::Light,
        heads: 1,
        channels: 2,
        ffn: 4,
        groups: 1,
        activation: lightspan::problem::Activation::Relu,
        width: 3,
        dilation: 1,
        glu: false,
        pointwise: false,
        bias: false,
        order: lightspan::nn::NormOrder::Post,
        norm: lightspan::problem::NormKind::Layer,
        dtype: lightspan::DType::F32,
        seed: 0,
    }
}
