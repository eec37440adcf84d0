//! Span corruption as T5 has it (Raffel et al. 2020, section 3.1.4): spans of a text are taken out, each by a sentinel in its place,
//! and are what is to be said.

use rand::Rng;
use rand::seq::SliceRandom;

/// The part of the tokens that is taken out.
pub const DENSITY: f64 = 0.15;
/// The mean length of a span.
pub const MEAN_SPAN: f64 = 3.0;

/// How a text of some length is corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Tokens that are taken out.
    pub noise: usize,
    /// Tokens that stay.
    pub kept: usize,
    /// Spans.
    pub spans: usize,
}

impl Counts {
    /// Of a text of so many tokens, two at least. Halves are rounded to even numbers, as there.
    pub fn of(length: usize) -> Self {
        let round = |number: f64| number.round_ties_even() as usize;
        let noise = round(length as f64 * DENSITY).clamp(1, length.saturating_sub(1).max(1));
        let kept = length.saturating_sub(noise);
        let spans = round(noise as f64 / MEAN_SPAN).max(1).min(kept);
        Counts { noise, kept, spans }
    }

    /// Tokens of what is given: what stays, the sentinels and an end.
    pub fn inputs(self) -> usize {
        self.kept + self.spans + 1
    }

    /// Tokens of what is to be said: the spans behind their sentinels, and an end.
    pub fn targets(self) -> usize {
        self.noise + self.spans + 1
    }
}

/// What is left of a text, and what was taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupted {
    /// What stays, with a sentinel for each span, and an end.
    pub inputs: Vec<u32>,
    /// Each span behind its sentinel, and an end.
    pub targets: Vec<u32>,
}

/// Takes spans out of a text of two tokens or more: what stays and what goes are cut into as many pieces each, every way of cutting
/// being as likely as another, and alternate. What stays comes first.
pub fn corrupt(tokens: &[u32], sentinel: impl Fn(u32) -> u32, end: u32, random: &mut impl Rng) -> Corrupted {
    let Counts { noise, kept, spans } = Counts::of(tokens.len());
    let (kept, noise) = (cut(kept, spans, random), cut(noise, spans, random));
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    let mut rest = tokens;
    for (i, (kept, noise)) in kept.into_iter().zip(noise).enumerate() {
        let (stays, behind) = rest.split_at(kept);
        let (goes, behind) = behind.split_at(noise);
        inputs.extend(stays);
        inputs.push(sentinel(i as u32));
        targets.push(sentinel(i as u32));
        targets.extend(goes);
        rest = behind;
    }
    inputs.push(end);
    targets.push(end);
    Corrupted { inputs, targets }
}

/// The lengths of `pieces` of so many things, none of them empty.
fn cut(count: usize, pieces: usize, random: &mut impl Rng) -> Vec<usize> {
    // Behind each thing but the last a cut or none.
    let mut cuts: Vec<bool> = (1..count).map(|i| i < pieces).collect();
    cuts.shuffle(random);
    let ends = (1..count).filter(|&i| cuts[i - 1]).chain([count]);
    let mut last = 0;
    ends.map(|end| end - std::mem::replace(&mut last, end)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::random;

    const FIRST_SENTINEL: u32 = 2_000_000;
    const END: u32 = 1_000_000;

    /// What the paper's implementation makes of 568 tokens.
    #[test]
    fn lengths_are_those_of_t5() {
        let counts = Counts::of(568);
        assert_eq!(counts, Counts { noise: 85, kept: 483, spans: 28 });
        assert_eq!((counts.inputs(), counts.targets()), (512, 114));
        // 1.5 to 2, 0.5 to 0, which becomes 1.
        assert_eq!(Counts::of(10), Counts { noise: 2, kept: 8, spans: 1 });
        assert_eq!(Counts::of(2), Counts { noise: 1, kept: 1, spans: 1 });
    }

    /// The text, put together from what is left and what was taken out.
    fn reconstructed(corrupted: &Corrupted) -> Option<Vec<u32>> {
        let (&END, inputs) = corrupted.inputs.split_last()? else { return None };
        let (&END, targets) = corrupted.targets.split_last()? else { return None };
        let mut spans = targets.chunk_by(|_, &next| next <= FIRST_SENTINEL - 1000);
        let mut text = Vec::new();
        for &token in inputs {
            if token > FIRST_SENTINEL - 1000 {
                let (&sentinel, span) = spans.next()?.split_first()?;
                assert_eq!(sentinel, token);
                assert!(!span.is_empty());
                text.extend(span);
            } else {
                text.push(token);
            }
        }
        spans.next().is_none().then_some(text)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_lost(text in prop::collection::vec(0..1000u32, 2..700), seed: u64) {
            let sentinel = |i| FIRST_SENTINEL - i;
            let corrupted = corrupt(&text, sentinel, END, &mut random(seed, "spans", 0));
            prop_assert_eq!(reconstructed(&corrupted), Some(text.clone()));
            let counts = Counts::of(text.len());
            prop_assert_eq!(corrupted.inputs.len(), counts.inputs());
            prop_assert_eq!(corrupted.targets.len(), counts.targets());
            // Sentinels come in their order, and what stays comes first.
            let sentinels: Vec<u32> =
                corrupted.inputs.iter().copied().filter(|&token| token > FIRST_SENTINEL - 1000).collect();
            prop_assert_eq!(sentinels, (0..counts.spans as u32).map(sentinel).collect::<Vec<_>>());
            prop_assert_eq!(corrupted.inputs[0], text[0]);
        }

        #[test]
        fn every_cut_is_as_likely(seed: u64) {
            // Four things in three pieces: 1 1 2, 1 2 1 and 2 1 1. Of 600 each has 200, within six deviations of 11.5.
            let mut random = random(seed, "cuts", 0);
            let mut counts = [0; 3];
            for _ in 0..600 {
                let pieces = cut(4, 3, &mut random);
                prop_assert_eq!(pieces.iter().sum::<usize>(), 4);
                counts[pieces.iter().position(|&piece| piece == 2).unwrap()] += 1;
            }
            prop_assert!(counts.iter().all(|count| (130..270).contains(count)), "{:?}", counts);
        }
    }
}
