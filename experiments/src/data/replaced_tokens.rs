//! Replaced tokens as ELECTRA has them (Clark et al. 2020, section 2): some tokens of a text are hidden, a generator says what they
//! might be, and of every token it is to be told whether it is the one that stood there.

use rand::Rng;
use rand::RngExt;
use rand::seq::index;

/// The part of the tokens that the generator says.
pub const CHOSEN: f64 = 0.15;
/// The part of those that it does not see (Jiang et al. 2020).
pub const HIDDEN: f64 = 0.85;

/// A text of which some tokens are hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    /// What the generator sees.
    pub inputs: Vec<u32>,
    /// Where it says something, in order.
    pub chosen: Vec<usize>,
}

/// Chooses tokens of a text, one at least, and hides most of them.
pub fn mask(text: &[u32], mask: u32, random: &mut impl Rng) -> Masked {
    let count = ((text.len() as f64 * CHOSEN).round() as usize).clamp(text.len().min(1), text.len());
    let mut chosen = index::sample(random, text.len(), count).into_vec();
    chosen.sort_unstable();
    let mut inputs = text.to_vec();
    for &place in &chosen {
        if random.random_bool(HIDDEN) {
            inputs[place] = mask;
        }
    }
    Masked { inputs, chosen }
}

/// A text in which some tokens may be others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// What the discriminator sees.
    pub inputs: Vec<u32>,
    /// Of each token, whether it is another than the one that stood there: what is said right is no replacement.
    pub labels: Vec<bool>,
}

/// A text with what was said in the chosen places.
pub fn replace(text: &[u32], chosen: &[usize], said: &[u32]) -> Replaced {
    let mut inputs = text.to_vec();
    for (&place, &said) in chosen.iter().zip(said) {
        inputs[place] = said;
    }
    let labels = inputs.iter().zip(text).map(|(input, original)| input != original).collect();
    Replaced { inputs, labels }
}

/// A token, as likely as its logit has it.
pub fn sample(logits: &[f32], random: &mut impl Rng) -> u32 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
    let weight = |logit: &f32| f64::from(logit - largest).exp();
    let total: f64 = logits.iter().map(weight).sum();
    let mut left = random.random::<f64>() * total;
    let found = logits.iter().position(|logit| {
        left -= weight(logit);
        left < 0.0
    });
    // By rounding there may be something left behind the last.
    found.unwrap_or(logits.len().saturating_sub(1)) as u32
}

/// The probability that a token that was replaced has a higher score than one that was not: the area under the curve of hits over false
/// alarms, one half for whoever guesses. Equal scores count half.
pub fn ranked(scores: &[f32], labels: &[bool]) -> f64 {
    let mut all: Vec<(f32, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut pairs, mut replaced) = (0.0, 0.0, 0.0);
    for equal in all.chunk_by(|a, b| a.0 == b.0) {
        let hits = equal.iter().filter(|(_, label)| *label).count() as f64;
        let others = equal.len() as f64 - hits;
        pairs += hits * (below + 0.5 * others);
        below += others;
        replaced += hits;
    }
    pairs / (replaced * below)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::random;

    const MASK: u32 = 1_000_000;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_said_right_is_no_replacement(
            text in prop::collection::vec(0..50u32, 1..300),
            seed: u64,
        ) {
            let mut random = random(seed, "test", 0);
            let Masked { inputs, chosen } = mask(&text, MASK, &mut random);
            let expected = (text.len() as f64 * CHOSEN).round() as usize;
            prop_assert_eq!(chosen.len(), expected.max(1));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            for (i, (input, original)) in inputs.iter().zip(&text).enumerate() {
                prop_assert!(input == original || *input == MASK && chosen.contains(&i));
            }
            // Everything right: nothing is replaced.
            let right: Vec<u32> = chosen.iter().map(|&place| text[place]).collect();
            let found = replace(&text, &chosen, &right);
            prop_assert_eq!(&found.inputs, &text);
            prop_assert!(found.labels.iter().all(|label| !label));
            // Drawn of few, so that some are right: labels say which.
            let said: Vec<u32> = chosen.iter().map(|_| random.random_range(0..3)).collect();
            let found = replace(&text, &chosen, &said);
            for (i, &label) in found.labels.iter().enumerate() {
                let at = chosen.iter().position(|&place| place == i);
                prop_assert_eq!(found.inputs[i], at.map_or(text[i], |at| said[at]));
                prop_assert_eq!(label, at.is_some_and(|at| said[at] != text[i]));
            }
        }
    }

    #[test]
    fn most_of_what_is_chosen_is_hidden() {
        let text = vec![7; 10_000];
        let masked = mask(&text, MASK, &mut random(1, "test", 0));
        let hidden = masked.inputs.iter().filter(|input| **input == MASK).count();
        // 1500 are chosen; 1275 hidden, within six deviations of 13.8.
        assert_eq!(masked.chosen.len(), 1500);
        assert!((1192..1358).contains(&hidden), "{hidden}");
    }

    #[test]
    fn samples_are_as_likely_as_they_are() {
        let mut random = random(2, "test", 0);
        let logits = [0.0f32, f32::NEG_INFINITY, 3f32.ln(), -50.0];
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            counts[sample(&logits, &mut random) as usize] += 1;
        }
        // 1000 and 3000, within six deviations of 27.4.
        assert!((836..1164).contains(&counts[0]) && counts[1] == 0 && counts[3] == 0, "{counts:?}");
        assert_eq!(sample(&[5.0], &mut random), 0);
    }

    #[test]
    fn ranks_are_of_pairs() {
        let labels = [true, false, true, false, false];
        assert_eq!(ranked(&[2.0, 1.0, 3.0, 0.0, -1.0], &labels), 1.0);
        assert_eq!(ranked(&[0.0; 5], &labels), 0.5);
        // Pairs of (replaced, not): 0.5 beats 0.1 and not 0.7; 0.7 equals 0.7 and beats 0.1; both beat -1.
        assert_eq!(ranked(&[0.5, 0.7, 0.7, 0.1, -1.0], &labels), 4.5 / 6.0);
    }
}
