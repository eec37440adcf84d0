//! Whole models on sequences: what comes in pieces, what stands in padding, and what the types of a model are.

use lightspan::models::{
    ConvBert, Generator, LightConvConfig, LightConvKind, LoadOptions, PretrainedMixer, Seq2Seq, Weights,
};
use lightspan::nn::Memory;
use lightspan::{DType, Device, Result, Sequences, Tensor, Tokens};

use super::{mixers, tiny_convbert, tiny_light_conv, tiny_pretrained};
use crate::support::{Numbers, devices};

fn weights<'a>(device: &Device, dtype: DType) -> Weights<'a> {
    Weights::drawn(5, device, LoadOptions { dtype: Some(dtype), ..Default::default() })
}

/// Every sequence-to-sequence model there is, by its name.
fn models(device: &Device, dtype: DType) -> Vec<(String, Seq2Seq)> {
    let weights = weights(device, dtype);
    let pretrained = mixers().map(|mixer: PretrainedMixer| {
        (format!("{mixer:?}"), tiny_pretrained(mixer).seq2seq(&weights).unwrap())
    });
    let light = [LightConvKind::Lightweight, LightConvKind::Dynamic]
        .map(|kind| (format!("{kind:?}"), tiny_light_conv(kind).seq2seq(&weights).unwrap()));
    pretrained.into_iter().chain(light).collect()
}

fn ids(seed: u64, shape: &[usize], device: &Device) -> (Vec<u32>, Tokens) {
    let ids = Numbers::new(seed).ids(shape.iter().product(), 17);
    let tokens = Tokens::from_slice(&ids, shape, device).unwrap();
    (ids, tokens)
}

fn assert_near(name: &str, got: &[f32], expected: &[f32], dtype: DType) {
    let largest = expected.iter().fold(0.0f32, |largest, y| largest.max(y.abs()));
    // Ten layers of about ten roundings each.
    let allowed = 100.0 * dtype.unit_roundoff() * f64::from(largest);
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = f64::from((got - expected).abs());
        assert!(off <= allowed, "{name}: number {i} is {got}, expected {expected} within {allowed}");
    }
}

/// Logits by teacher forcing are those of any chunks.
#[test]
fn targets_may_come_in_chunks() {
    for device in devices() {
        for (name, model) in models(&device, DType::F32) {
            let source = Sequences::padded(9, &[9, 4, 1]).unwrap();
            let encoded = model.encode(&ids(1, &[3, 9], &device).1, &source).unwrap();
            let memory = Memory { tokens: &encoded, sequences: &source };
            let (target, tokens) = ids(2, &[3, 11], &device);
            let whole = model.forward(&tokens, &Sequences::batch(3, 11).unwrap(), memory).unwrap();
            let whole = whole.to_f32().unwrap();
            for chunks in [vec![1; 11], vec![4, 0, 5, 2], vec![10, 1]] {
                let (mut state, mut from) = (model.begin(memory).unwrap(), 0);
                for chunk in chunks {
                    let part: Vec<u32> =
                        (0..3).flat_map(|s| target[s * 11 + from..s * 11 + from + chunk].to_vec()).collect();
                    let part = Tokens::from_slice(&part, &[3, chunk], &device).unwrap();
                    let sequences = Sequences::batch(3, chunk).unwrap();
                    let got = model.step(&part, &sequences, &mut state).unwrap().to_f32().unwrap();
                    for s in 0..3 {
                        let expected = &whole[(s * 11 + from) * 17..(s * 11 + from + chunk) * 17];
                        assert_near(&name, &got[s * chunk * 17..(s + 1) * chunk * 17], expected, DType::F32);
                    }
                    from += chunk;
                }
            }
        }
    }
}

/// A padded batch, a packed one, and each sequence by itself give the same.
#[test]
fn sequences_do_not_see_one_another() {
    let lengths = [6, 1, 3];
    for device in devices() {
        let padded = Sequences::padded(6, &lengths).unwrap();
        let packed = Sequences::packed(&[0, 6, 7, 10]).unwrap();
        let (all, tokens) = ids(3, &[3, 6], &device);
        let rows: Vec<u32> = (0..3).flat_map(|s| all[s * 6..s * 6 + lengths[s]].to_vec()).collect();
        let in_a_row = Tokens::from_slice(&rows, &[10], &device).unwrap();
        let check = |name: &str, run: &dyn Fn(&Tokens, &Sequences) -> Result<Tensor>| {
            let in_padding = run(&tokens, &padded).unwrap();
            let channels = in_padding.shape()[2];
            let in_padding = in_padding.to_f32().unwrap();
            let in_padding: Vec<f32> = (0..3)
                .flat_map(|s| in_padding[s * 6 * channels..(s * 6 + lengths[s]) * channels].to_vec())
                .collect();
            let in_pack = run(&in_a_row, &packed).unwrap().to_f32().unwrap();
            assert_near(name, &in_padding, &in_pack, DType::F32);
            let alone = (0..3).flat_map(|s| {
                let ids = &all[s * 6..s * 6 + lengths[s]];
                let tokens = Tokens::from_slice(ids, &[1, lengths[s]], &device).unwrap();
                run(&tokens, &Sequences::batch(1, lengths[s]).unwrap()).unwrap().to_f32().unwrap()
            });
            assert_near(name, &in_pack, &alone.collect::<Vec<_>>(), DType::F32);
        };
        for (name, model) in models(&device, DType::F32) {
            check(&name, &|tokens, sequences| model.encode(tokens, sequences));
            check(&name, &|tokens, sequences| {
                let encoded = model.encode(tokens, sequences)?;
                model.forward(tokens, sequences, Memory { tokens: &encoded, sequences })
            });
        }
        let convbert = ConvBert::new(&tiny_convbert(), &weights(&device, DType::F32)).unwrap();
        let masked = ConvBert { mask_convolution: true, ..convbert.clone() };
        check("ConvBERT", &|tokens, sequences| masked.forward(tokens, None, sequences));
        // As published, convolutions see the padding.
        let seen = convbert.forward(&tokens, None, &padded).unwrap().to_f32().unwrap();
        let unseen = masked.forward(&tokens, None, &padded).unwrap().to_f32().unwrap();
        let last = (6 * 16 + 8)..(6 * 16 + 16);
        assert_ne!(seen[last.clone()], unseen[last]);
    }
}

#[test]
fn models_run_in_their_type() {
    for device in devices() {
        for dtype in [DType::F16, DType::BF16] {
            let exact = models(&device, DType::F32);
            for ((name, model), (_, exact)) in models(&device, dtype).iter().zip(&exact) {
                let sequences = Sequences::padded(7, &[7, 2]).unwrap();
                let tokens = ids(4, &[2, 7], &device).1;
                let got = model.encode(&tokens, &sequences).unwrap();
                assert_eq!(got.dtype(), dtype);
                let expected = exact.encode(&tokens, &sequences).unwrap().to_f32().unwrap();
                let (got, row) = (got.to_f32().unwrap(), 7 * 12);
                assert_near(name, &got[..row], &expected[..row], dtype);
            }
        }
    }
}

#[test]
fn what_is_past_a_table_is_refused() {
    let device = Device::cpu();
    let config: LightConvConfig = tiny_light_conv(LightConvKind::Lightweight);
    let model = config.seq2seq(&weights(&device, DType::F32)).unwrap();
    let past = Tokens::from_slice(&[17], &[1, 1], &device).unwrap();
    let one = Sequences::batch(1, 1).unwrap();
    assert!(model.encode(&past, &one).is_err());
    let long = Tokens::zeros(&[1, 26], &device).unwrap();
    assert!(model.encode(&long, &Sequences::batch(1, 26).unwrap()).is_err());
    let longest = Tokens::zeros(&[1, 25], &device).unwrap();
    model.encode(&longest, &Sequences::batch(1, 25).unwrap()).unwrap();
}
