use lightspan::ops::{self, AttentionKind};
use lightspan::problem::{AttentionProblem, Mask};
use lightspan::reference::{self, AttentionInputs};
use lightspan::{DType, Device, Sequences, Tensor};
use proptest::prelude::*;

use crate::support::{Numbers, Values, assert_admitted, config, devices, same_bits, sequences};

const KINDS: [AttentionKind; 2] = [AttentionKind::Naive, AttentionKind::Fused];

#[derive(Clone, Debug)]
struct Case {
    queries: Sequences,
    keys: Sequences,
    heads: usize,
    head_channels: usize,
    scale: Option<f32>,
    mask: Mask,
    dtype: DType,
    seed: u64,
}

/// Self- and cross-attention in every pair of layouts, with keys up to `length` and every kind of mask.
fn case(length: usize) -> impl Strategy<Value = Case> {
    let bound = move || prop::option::of(prop_oneof![0..8usize, 0..length + 10]);
    let mask = (bound(), bound()).prop_map(|(left, right)| Mask::local(left, right));
    let pair = (1usize..5).prop_flat_map(move |count| {
        let pair = (sequences(count..count + 1, 0..length), sequences(count..count + 1, 0..length));
        (pair, any::<bool>())
    });
    let pair =
        pair.prop_map(|((queries, keys), cross)| if cross { (queries, keys) } else { (keys.clone(), keys) });
    let sizes = (1usize..4, prop_oneof![1usize..20, prop::sample::select(&[32, 64, 65, 256, 300][..])]);
    let scale = prop::option::of(-0.5f32..0.5);
    (pair, sizes, scale, mask, prop::sample::select(&DType::ALL[..]), any::<u64>()).prop_map(
        |((queries, keys), (heads, head_channels), scale, mask, dtype, seed)| Case {
            queries,
            keys,
            heads,
            head_channels,
            scale,
            mask,
            dtype,
            seed,
        },
    )
}

struct Call {
    case: Case,
    q: Values,
    k: Values,
    v: Values,
}

impl Call {
    fn draw(case: &Case) -> Self {
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

    fn run(&self, kind: AttentionKind, device: &Device) -> Tensor {
        let Case { queries, keys, heads, scale, mask, .. } = &self.case;
        let options = ops::AttentionOptions {
            scale: *scale,
            mask: *mask,
            queries: Some(queries),
            keys: Some(keys),
            kind,
        };
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| values.on(device));
        ops::attention(&q, &k, &v, *heads, &options).unwrap()
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let call = Call::draw(case);
    let Case { queries, keys, heads, head_channels, scale, mask, dtype, .. } = case;
    let mut problem = AttentionProblem::new(queries.shape(), keys.shape(), *heads, *head_channels, *dtype)
        .unwrap()
        .with_mask(*mask);
    if let Some(scale) = scale {
        problem = problem.with_scale(*scale).unwrap();
    }
    let inputs = AttentionInputs { q: &call.q.data, k: &call.k.data, v: &call.v.data };
    let expected = reference::every_token(queries, problem.channels(), |s, t| {
        reference::attention(&problem, queries, keys, inputs, (s, t))
    });
    for device in devices() {
        for kind in KINDS {
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
    #![proptest_config(config(200))]

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
        for (device, kind) in devices().iter().flat_map(|device| KINDS.map(|kind| (device, kind))) {
            let whole = call.run(kind, device).to_f32().unwrap();
            let partial = spoiled.run(kind, device).to_f32().unwrap();
            for (queries, keys) in case.queries.as_slice().iter().zip(case.keys.as_slice()) {
                for t in 0..queries.length {
                    let room = |s: &lightspan::Sequence| (s.length + s.padding) as isize;
                    let seen = case.mask.keys(t as isize + room(keys) - room(queries), keys.length);
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
            dtype: DType::F32,
            seed: 5,
        };
        let call = Call::draw(&case);
        let first = call.run(kind, device);
        assert!((0..5).all(|_| same_bits(&first, &call.run(kind, device))));
    }
}
