use std::sync::Arc;

use lightspan::models::{BeamSearch, Generator, Hypothesis, LanguageModel, beam_search, greedy};
use lightspan::nn::{Decoder, Embeddings, Linear};
use lightspan::{Device, Error, Sequences, Tensor, Tokens};
use proptest::prelude::*;

use crate::support::{Numbers, config, devices};

/// A model whose next token depends on the last one alone: its logits are a row of a table.
fn markov(table: &[f32], vocabulary: usize, device: &Device) -> LanguageModel {
    let square =
        |values: &[f32]| Arc::new(Tensor::from_slice(values, &[vocabulary, vocabulary], device).unwrap());
    let mut identity = vec![0.0; vocabulary * vocabulary];
    identity.iter_mut().step_by(vocabulary + 1).for_each(|one| *one = 1.0);
    LanguageModel {
        embeddings: Embeddings::new(square(table)),
        decoder: Decoder { layers: vec![], norm: None },
        output: Linear::new(square(&identity)),
    }
}

/// The logarithms of the probabilities after each token.
fn probabilities(table: &[f32], vocabulary: usize) -> Vec<Vec<f64>> {
    let row = |row: &[f32]| {
        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        row.iter().map(|&x| f64::from(x) - total.ln()).collect()
    };
    table.chunks_exact(vocabulary).map(row).collect()
}

/// All texts of up to `limit` tokens after `last`, the end included, with what they score.
fn texts(steps: &[Vec<f64>], last: u32, end: u32, limit: usize) -> Vec<(Vec<u32>, f64, bool)> {
    if limit == 0 {
        return vec![(vec![], 0.0, false)];
    }
    let mut all = vec![];
    for (token, &score) in steps[last as usize].iter().enumerate() {
        if token as u32 == end {
            all.push((vec![], score, true));
            continue;
        }
        for (rest, more, ended) in texts(steps, token as u32, end, limit - 1) {
            all.push(([vec![token as u32], rest].concat(), score + more, ended));
        }
    }
    all
}

fn near(got: f32, expected: f64) -> bool {
    (f64::from(got) - expected).abs() < 1e-4
}

proptest! {
    #![proptest_config(config(24))]

    /// With as many beams as there are texts, a search finds them all, in the order of their scores.
    #[test]
    fn wide_searches_find_everything(
        seed: u64,
        vocabulary in 2usize..5,
        limit in 1usize..4,
        penalty in prop::sample::select(&[0.0f32, 0.6, 1.0][..]),
    ) {
        let table: Vec<f32> =
            Numbers::new(seed).draw(&[vocabulary * vocabulary], lightspan::DType::F32, 2.0)
                .data.iter().map(|&x| x as f32).collect();
        let steps = probabilities(&table, vocabulary);
        let end = 1;
        let weighed = |tokens: &[u32], score: f64, ended: bool| {
            score / ((tokens.len() + usize::from(ended)).max(1) as f64).powf(f64::from(penalty))
        };
        for device in devices() {
            let model = markov(&table, vocabulary, &device);
            let prompt = Tokens::from_slice(&[0, 0, (vocabulary - 1) as u32], &[3, 1], &device).unwrap();
            let sequences = Sequences::batch(3, 1).unwrap();
            let search = BeamSearch { beams: 200, end, limit, length_penalty: penalty };
            let state = model.begin(3).unwrap();
            let found = beam_search(&model, state, &prompt, &sequences, &search).unwrap();
            for (found, last) in found.iter().zip([0, 0, vocabulary as u32 - 1]) {
                let mut expected = texts(&steps, last, end, limit);
                // What came to its end is before what did not.
                expected.sort_by(|a, b| {
                    let key = |text: &(Vec<u32>, f64, bool)| weighed(&text.0, text.1, text.2);
                    b.2.cmp(&a.2).then(key(b).total_cmp(&key(a)))
                });
                prop_assert_eq!(found.len(), expected.len());
                for (found, (tokens, score, ended)) in found.iter().zip(&expected) {
                    let same = expected.iter().find(|text| text.0 == found.tokens && text.2 == found.ended);
                    prop_assert!(near(found.score, same.unwrap().1));
                    prop_assert_eq!(found.ended, *ended);
                    // Texts of nearly one score may change places.
                    let of_found = weighed(&found.tokens, f64::from(found.score), found.ended);
                    prop_assert!((of_found - weighed(tokens, *score, *ended)).abs() < 1e-4);
                }
            }
        }
    }

    /// One beam takes the likeliest token each time, as a greedy search does.
    #[test]
    fn one_beam_is_greedy(seed: u64, vocabulary in 2usize..40, limit in 0usize..12) {
        let table: Vec<f32> =
            Numbers::new(seed).draw(&[vocabulary * vocabulary], lightspan::DType::F32, 3.0)
                .data.iter().map(|&x| x as f32).collect();
        let steps = probabilities(&table, vocabulary);
        for device in devices() {
            let model = markov(&table, vocabulary, &device);
            // Prompts of several lengths: only their last tokens count here.
            let prompt = Tokens::from_slice(&[0, 1, 1, 0, 0], &[5], &device).unwrap();
            let sequences = Sequences::packed(&[0, 2, 3, 5]).unwrap();
            let mut state = model.begin(3).unwrap();
            let found = greedy(&model, &mut state, &prompt, &sequences, Some(1), limit).unwrap();
            for (found, last) in found.iter().zip([1usize, 1, 0]) {
                let (mut tokens, mut score, mut last, mut ended) = (vec![], 0.0, last, false);
                while tokens.len() < limit && !ended {
                    let likelier = |&a: &usize, &b: &usize| steps[last][a].total_cmp(&steps[last][b]);
                    let best = (0..vocabulary).max_by(likelier).unwrap();
                    score += steps[last][best];
                    (last, ended) = (best, best == 1);
                    if !ended {
                        tokens.push(best as u32);
                    }
                }
                prop_assert!(near(found.score, score), "{} {}", found.score, score);
                prop_assert_eq!(&found.tokens, &tokens);
                prop_assert_eq!(found.ended, ended);
            }
            let search = BeamSearch { beams: 1, end: 1, limit, length_penalty: 0.0 };
            let beam = beam_search(&model, model.begin(3).unwrap(), &prompt, &sequences, &search).unwrap();
            let beam: Vec<Hypothesis> = beam.into_iter().flatten().collect();
            for (beam, greedy) in beam.iter().zip(&found) {
                prop_assert_eq!((&beam.tokens, beam.ended), (&greedy.tokens, greedy.ended));
                prop_assert!(near(beam.score, f64::from(greedy.score)));
            }
        }
    }
}

#[test]
fn searches_refuse_what_they_cannot_do() {
    let device = Device::cpu();
    let model = markov(&[0.0, 1.0, 1.0, 0.0], 2, &device);
    let prompt = Tokens::from_slice(&[0], &[1], &device).unwrap();
    let (one, empty) = (Sequences::packed(&[0, 1]).unwrap(), Sequences::packed(&[0, 1, 1]).unwrap());
    let search = BeamSearch { beams: 2, end: 1, limit: 3, length_penalty: 1.0 };
    let begin = |sequences| model.begin(sequences).unwrap();
    let refused = greedy(&model, &mut begin(2), &prompt, &empty, None, 3).unwrap_err();
    assert_eq!(refused, Error::EmptyPrompt { sequence: 1 });
    let refused = beam_search(&model, begin(2), &prompt, &empty, &search).unwrap_err();
    assert_eq!(refused, Error::EmptyPrompt { sequence: 1 });
    let none = BeamSearch { beams: 0, ..search };
    let refused = beam_search(&model, begin(1), &prompt, &one, &none).unwrap_err();
    assert_eq!(refused, Error::ZeroSize { what: "beams" });
    // Nothing to go on from, and nothing to go on for.
    let nothing = Tokens::from_slice(&[], &[0], &device).unwrap();
    let no_sequences = Sequences::packed(&[0]).unwrap();
    assert_eq!(greedy(&model, &mut begin(0), &nothing, &no_sequences, None, 3).unwrap(), []);
    let limit = BeamSearch { limit: 0, ..search };
    let found = beam_search(&model, begin(1), &prompt, &one, &limit).unwrap();
    assert_eq!(found, [[Hypothesis { tokens: vec![], score: 0.0, ended: false }]]);

    let broken = markov(&[f32::NAN, 1.0, 1.0, 0.0], 2, &device);
    let refused = greedy(&broken, &mut broken.begin(1).unwrap(), &prompt, &one, None, 3).unwrap_err();
    assert!(matches!(refused, Error::NotFinite { .. }));
    let refused = beam_search(&broken, broken.begin(1).unwrap(), &prompt, &one, &search).unwrap_err();
    assert!(matches!(refused, Error::NotFinite { .. }));
    // A token past the vocabulary.
    let past = Tokens::from_slice(&[2], &[1], &device).unwrap();
    assert!(model.step(&past, &one, &mut begin(1)).is_err());
}
