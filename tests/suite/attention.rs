pub mod backward;

use std::ops::Range;

use lightspan::ops::{self, AttentionKind};
use lightspan::problem::{Alignment, AttentionProblem, Mask};
use lightspan::reference::{self, AttentionInputs, Estimate};
use lightspan::{Backend, DType, Device, Sequence, Sequences, Tensor};
use proptest::prelude::*;

use crate::support::{Numbers, Values, assert_admitted, config, devices, overwritten, same_bits, sequences};

pub const KINDS: [AttentionKind; 2] = [AttentionKind::Naive, AttentionKind::Fused];

/// The forms that a device has for so many channels of a head: on CUDA, fused attention has up to 256.
pub fn kinds(device: &Device, head_channels: usize) -> &'static [AttentionKind] {
    let cuda = matches!(device.backend(), Backend::Cuda | Backend::CudaEmulated);
    if cuda && head_channels > 256 { &KINDS[..1] } else { &KINDS }
}

/// A drawn call, without its numbers.
#[derive(Clone, Debug)]
pub struct Case {
    pub queries: Sequences,
    pub keys: Sequences,
    pub heads: usize,
    pub head_channels: usize,
    pub scale: Option<f32>,
    pub mask: Mask,
    pub alignment: Alignment,
    pub dtype: DType,
    pub seed: u64,
}

/// Self- and cross-attention in every pair of layouts, with keys up to `length`, every kind of mask and either alignment. Both
/// queries and keys may continue what went by: that of keys means nothing.
pub fn case(length: usize) -> impl Strategy<Value = Case> {
    let bound = move || prop::option::of(prop_oneof![0..8usize, 0..length + 10]);
    let mask = (bound(), bound()).prop_map(|(left, right)| Mask::local(left, right));
    let alignment = prop_oneof![3 => Just(Alignment::End), 2 => Just(Alignment::Past)];
    let pair = (1usize..5).prop_flat_map(move |count| {
        let pair = (sequences(count..count + 1, 0..length), sequences(count..count + 1, 0..length));
        (pair, any::<bool>(), prop::collection::vec(0..length + 5, 2 * count))
    });
    let pair = pair.prop_map(|((queries, keys), cross, past)| {
        let (of_queries, of_keys) = past.split_at(past.len() / 2);
        let keys = keys.after(of_keys).unwrap();
        if cross { (queries.after(of_queries).unwrap(), keys) } else { (keys.clone(), keys) }
    });
    let sizes = (1usize..4, prop_oneof![1usize..20, prop::sample::select(&[32, 64, 65, 256, 300][..])]);
    let scale = prop::option::of(-0.5f32..0.5);
    (pair, sizes, scale, (mask, alignment), prop::sample::select(&DType::ALL[..]), any::<u64>()).prop_map(
        |((queries, keys), (heads, head_channels), scale, (mask, alignment), dtype, seed)| Case {
            queries,
            keys,
            heads,
            head_channels,
            scale,
            mask,
            alignment,
            dtype,
            seed,
        },
    )
}

impl Case {
    /// The keys that query t sees.
    fn seen(&self, queries: &Sequence, keys: &Sequence, t: usize) -> Range<usize> {
        let room = |sequence: &Sequence| (sequence.length + sequence.padding) as isize;
        let first = match self.alignment {
            Alignment::End => room(keys) - room(queries),
            Alignment::Past => queries.past as isize,
        };
        self.mask.keys(first + t as isize, keys.length)
    }
}

/// A drawn call with its numbers.
pub struct Call {
    pub case: Case,
    pub q: Values,
    pub k: Values,
    pub v: Values,
}

impl Call {
    pub fn draw(case: &Case) -> Self {
        let mut numbers = Numbers::new(case.seed);
        let channels = case.heads * case.head_channels;
        let mut draw = |sequences, scale| numbers.tokens(sequences, channels, case.dtype, scale);
        Call {
            q: draw(&case.queries, 2.0),
            k: draw(&case.keys, 2.0),
            v: draw(&case.keys, 1.0),
            case: case.clone(),
        }
    }

    pub fn run(&self, kind: AttentionKind, device: &Device) -> Tensor {
        let Case { queries, keys, heads, scale, mask, alignment, .. } = &self.case;
        let options = ops::AttentionOptions {
            scale: *scale,
            mask: *mask,
            alignment: *alignment,
            queries: Some(queries),
            keys: Some(keys),
            kind,
        };
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| values.on(device));
        let y = ops::attention(&q, &k, &v, *heads, &options).unwrap();
        overwritten(y, |y| ops::attention_into(y, &q, &k, &v, *heads, &options))
    }

    pub fn problem(&self) -> AttentionProblem {
        let Case { queries, keys, heads, head_channels, scale, mask, alignment, dtype, .. } = &self.case;
        let problem =
            AttentionProblem::new(queries.shape(), keys.shape(), *heads, *head_channels, *dtype).unwrap();
        let problem = problem.with_mask(*mask).with_alignment(*alignment);
        scale.map_or(problem, |scale| problem.with_scale(scale).unwrap())
    }

    pub fn expected(&self) -> Vec<Estimate> {
        let (problem, Case { queries, keys, .. }) = (self.problem(), &self.case);
        reference::every_token(queries, problem.channels(), |s, t| {
            reference::attention(&problem, queries, keys, self.inputs(), (s, t))
        })
    }

    pub fn inputs(&self) -> AttentionInputs<'_> {
        AttentionInputs { q: &self.q.data, k: &self.k.data, v: &self.v.data }
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let call = Call::draw(case);
    let expected = call.expected();
    for device in devices() {
        for &kind in kinds(&device, case.head_channels) {
            assert_admitted(&expected, &call.run(kind, &device))?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(case in case(40)) {
        check(&case)?;
    }
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn equals_the_reference_over_many_blocks(case in case(600)) {
        check(&case)?;
    }
}

proptest! {
    #![proptest_config(config(60))]

    /// Keys and values that a query does not see may be anything, also not a number.
    #[test]
    fn unseen_keys_change_nothing(case in case(300), first in any::<prop::sample::Index>()) {
        let call = Call::draw(&case);
        let channels = case.heads * case.head_channels;
        let longest = case.keys.as_slice().iter().map(|s| s.length).max().unwrap_or(0);
        let first = first.index(longest + 1);
        let mut spoiled = Call::draw(&case);
        for sequence in case.keys.as_slice() {
            let rows = (sequence.first + first.min(sequence.length))..sequence.first + sequence.length;
            for values in [&mut spoiled.k, &mut spoiled.v] {
                values.data[rows.start * channels..rows.end * channels].fill(f64::NAN);
            }
        }
        let kinds = |device| kinds(device, case.head_channels).iter().map(move |&kind| (device, kind));
        for (device, kind) in devices().iter().flat_map(kinds) {
            let whole = call.run(kind, device).to_f32().unwrap();
            let partial = spoiled.run(kind, device).to_f32().unwrap();
            for (queries, keys) in case.queries.as_slice().iter().zip(case.keys.as_slice()) {
                for t in 0..queries.length {
                    let seen = case.seen(queries, keys, t);
                    let row = (queries.first + t) * channels..(queries.first + t + 1) * channels;
                    if seen.end <= first {
                        // Values that are no numbers are summed in another order.
                        for (a, b) in whole[row.clone()].iter().zip(&partial[row]) {
                            let allowed = 1e-5 + 2.0 * case.dtype.unit_roundoff() as f32;
                            prop_assert!((a - b).abs() <= allowed, "{a} or {b}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_query_that_sees_no_key_gives_zero() {
    for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
        let mut numbers = Numbers::new(3);
        let (q, k) = (numbers.draw(&[2, 5, 6], DType::F32, 1.0), numbers.draw(&[2, 3, 6], DType::F32, 1.0));
        let keys = Sequences::padded(3, &[0, 3]).unwrap();
        let options =
            ops::AttentionOptions { mask: Mask::CAUSAL, keys: Some(&keys), kind, ..Default::default() };
        let y = ops::attention(&q.on(device), &k.on(device), &k.on(device), 2, &options).unwrap();
        let y = y.to_f32().unwrap();
        // The first sequence has no key; in the second the first two queries stand before the first key.
        assert!(y[..(5 + 2) * 6].iter().all(|&y| y == 0.0));
        assert!(y[(5 + 2) * 6..].iter().all(|&y| y != 0.0));
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
        let queries = Sequences::batch(2, 300).unwrap();
        let case = Case {
            keys: queries.clone(),
            queries,
            heads: 3,
            head_channels: 33,
            scale: None,
            mask: Mask::CAUSAL,
            alignment: Alignment::End,
            dtype: DType::F32,
            seed: 5,
        };
        let call = Call::draw(&case);
        let first = call.run(kind, device);
        assert!((0..5).all(|_| same_bits(&first, &call.run(kind, device))));
    }
}

#[test]
fn scores_are_divided_by_the_root_of_the_head_channels() {
    for (head_channels, scale) in [(1, 1.0), (4, 0.5), (16, 0.25), (64, 0.125)] {
        let queries = Sequences::batch(2, 9).unwrap();
        let case = |scale| Case {
            keys: queries.clone(),
            queries: queries.clone(),
            heads: 3,
            head_channels,
            scale,
            mask: Mask::FULL,
            alignment: Alignment::End,
            dtype: DType::F32,
            seed: 7,
        };
        let run = |scale, kind, device: &Device| Call::draw(&case(scale)).run(kind, device);
        assert_eq!(Call::draw(&case(None)).problem().scale(), scale);
        for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
            let default = run(None, kind, device);
            assert!(same_bits(&default, &run(Some(scale), kind, device)), "D = {head_channels}, {kind:?}");
            assert!(
                !same_bits(&default, &run(Some(0.9 * scale), kind, device)),
                "D = {head_channels}, {kind:?}"
            );
        }
    }
}

/// Scores of any size: the largest has all the weight, and it is one.
#[test]
fn scores_may_be_large() {
    for dtype in DType::ALL {
        for size in [300.0, 5_000.0, 8_192.0, 10_000.0, 12_000.0, 30_000.0] {
            // D = 1: the scores are the products, up to some 2^30.
            for (factor, expected) in [(1.0, 7.0), (-1.0, 3.0)] {
                for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
                    let tensor =
                        |data: &[f32]| Tensor::from_f32(data, &[1, data.len(), 1], dtype, device).unwrap();
                    let (q, k) = (tensor(&[factor * size]), tensor(&[size, 0.5 * size]));
                    let options = ops::AttentionOptions { kind, ..Default::default() };
                    let y = ops::attention(&q, &k, &tensor(&[7.0, 3.0]), 1, &options).unwrap();
                    assert_eq!(y.to_f32().unwrap(), [expected], "{dtype}, {size}, {kind:?} on {device}");
                }
            }
        }
    }
}

/// Two keys with scores ln 3 and 0 have the weights 3/4 and 1/4.
#[test]
fn two_keys_by_hand() {
    let ln3 = 3f32.ln();
    // D = 4, so that scores are q k / 2; the second query sees the keys the other way round.
    let q = [2.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0];
    let k = [ln3, 0.0, 5.0, -5.0, 0.0, ln3, -5.0, 5.0];
    let v = [4.0, 0.0, 8.0, -4.0, 0.0, 4.0, 8.0, 4.0];
    let expected = [3.0, 1.0, 8.0, -2.0, 1.0, 3.0, 8.0, 2.0];
    for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
        let [q, k, v] = [q, k, v].map(|data| Tensor::from_slice(&data, &[1, 2, 4], device).unwrap());
        let options = ops::AttentionOptions { kind, ..Default::default() };
        let y = ops::attention(&q, &k, &v, 1, &options).unwrap().to_f32().unwrap();
        for (y, expected) in y.iter().zip(expected) {
            assert!((y - expected).abs() <= 1e-5, "{kind:?}: {y}, not {expected}");
        }
    }
}

/// Values that are infinite or NaN reach the queries that see them, and only those, in their channel only.
#[test]
fn infinite_values_reach_those_who_see_them() {
    for (dtype, head_channels) in DType::ALL.into_iter().flat_map(|dtype| [3, 130].map(|d| (dtype, d))) {
        for mask in [Mask::CAUSAL, Mask::local(Some(20), Some(3))] {
            let case = Case {
                queries: Sequences::padded(150, &[150, 131]).unwrap(),
                keys: Sequences::padded(170, &[170, 40]).unwrap(),
                heads: 2,
                head_channels,
                scale: None,
                mask,
                alignment: Alignment::End,
                dtype,
                seed: 11,
            };
            let mut call = Call::draw(&case);
            let channels = 2 * head_channels;
            for (key, channel, value) in [
                (0, 0, f64::INFINITY),
                (30, channels - 1, f64::NEG_INFINITY),
                (77, 1, f64::NAN),
                (90, 2, f64::NEG_INFINITY),
                (100, 2, f64::INFINITY),
                (169, channels - 2, f64::NAN),
                (170 + 39, 1, f64::INFINITY),
            ] {
                call.v.data[key * channels + channel] = value;
            }
            let expected = call.expected();
            for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
                let y = call.run(kind, device);
                assert_admitted(&expected, &y)
                    .unwrap_or_else(|e| panic!("{kind:?}, D = {head_channels}, {mask:?}: {e}"));
            }
        }
    }
}
