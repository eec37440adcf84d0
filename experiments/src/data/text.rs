//! Definitions of nouns in WordNet 3.0 (Princeton University), each with its category: a real text, and a real classification of
//! short texts. Chance is one in eight.

use anyhow::{Context, Result, anyhow, ensure};
use rand::RngExt;
use tokenizers::Tokenizer;

use crate::random::random;

const FILE: &str = include_str!("../../data/wordnet.tsv");
const TOKENIZER: &[u8] = include_bytes!("../../data/tokenizer.json");

/// What the definitions are of, in the order of their labels.
pub const CATEGORIES: [&str; 8] =
    ["animal", "artifact", "body", "food", "location", "person", "plant", "substance"];

/// Sentinels of span corruption (Raffel et al. 2020 have as many).
pub const SENTINELS: u32 = 100;

/// A definition, in pieces of words.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Pieces, without an end.
    pub tokens: Vec<u32>,
    /// The index of its category.
    pub label: u32,
}

/// The text, of which one part is never trained on.
#[derive(Clone, Debug)]
pub struct Text {
    /// What models are trained on.
    pub training: Vec<Definition>,
    /// What they are judged by.
    pub held_out: Vec<Definition>,
    pieces: u32,
}

impl Text {
    /// Every fifth definition is held out.
    ///
    /// # Errors
    ///
    /// For files that are no longer what they were.
    pub fn load() -> Result<Self> {
        let tokenizer =
            Tokenizer::from_bytes(TOKENIZER).map_err(|error| anyhow!("the tokenizer: {error}"))?;
        let pieces = u32::try_from(tokenizer.get_vocab_size(true))?;
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        for (i, line) in FILE.lines().enumerate() {
            let definition = definition(&tokenizer, line).with_context(|| format!("definition {i}"))?;
            if i % 5 == 4 { held_out.push(definition) } else { training.push(definition) }
        }
        Ok(Text { training, held_out, pieces })
    }

    /// The end of a definition: the first token that is no piece of a word.
    pub fn end(&self) -> u32 {
        self.pieces
    }

    /// What stands for a token that is hidden.
    pub fn mask(&self) -> u32 {
        self.pieces + 1
    }

    /// What a decoder begins with, and what stands in padding.
    pub fn begin(&self) -> u32 {
        self.pieces + 2
    }

    /// The token of a category.
    pub fn category(&self, label: u32) -> u32 {
        self.pieces + 3 + label
    }

    /// The sentinels, the first of which is the last token.
    pub fn sentinel(&self, index: u32) -> u32 {
        self.vocabulary() as u32 - 1 - index
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        (self.pieces + 3 + CATEGORIES.len() as u32 + SENTINELS) as usize
    }

    /// Rows of `length` tokens, each of one definition and its end, behind what a decoder begins with where there is a `beginning`;
    /// and how many tokens each row has before its padding. What is too long is cut; rows have two tokens at least.
    pub fn padded(&self, some: &[&Definition], length: usize, beginning: bool) -> (Vec<u32>, Vec<usize>) {
        let mut tokens = vec![self.begin(); some.len() * length];
        let rows = tokens.chunks_exact_mut(length).zip(some);
        let lengths = rows.map(|(row, definition)| {
            let first = usize::from(beginning);
            let seen = definition.tokens.iter().copied().take(length - first - 1).chain([self.end()]);
            first + row[first..].iter_mut().zip(seen).map(|(place, token)| *place = token).count()
        });
        let lengths = lengths.collect();
        (tokens, lengths)
    }

    /// `count` tokens of definitions, of which there is one at least, one after another, each with its end, from a place that is drawn.
    pub fn stretch(
        &self,
        from: &[Definition],
        count: usize,
        seed: u64,
        purpose: &str,
        step: usize,
    ) -> Vec<u32> {
        let mut random = random(seed, purpose, step);
        let first = random.random_range(0..from.len());
        let skipped = random.random_range(0..=from[first].tokens.len());
        let tokens = from[first..].iter().chain(from).chain(from.iter().cycle());
        let tokens = tokens.flat_map(|definition| definition.tokens.iter().copied().chain([self.end()]));
        tokens.skip(skipped).take(count).collect()
    }
}

fn definition(tokenizer: &Tokenizer, line: &str) -> Result<Definition> {
    let (category, text) = line.split_once('\t').context("no category")?;
    let label = CATEGORIES.iter().position(|name| *name == category);
    let encoded = tokenizer.encode_fast(text, false).map_err(|error| anyhow!("{error}"))?;
    ensure!(!encoded.get_ids().is_empty(), "no text");
    let label = label.with_context(|| format!("{category} is no category"))? as u32;
    Ok(Definition { tokens: encoded.get_ids().to_vec(), label })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_there() {
        let text = Text::load().unwrap();
        assert_eq!((text.training.len(), text.held_out.len()), (10_880, 2_720));
        for (label, _) in CATEGORIES.iter().enumerate() {
            let count = |of: &[Definition]| of.iter().filter(|d| d.label == label as u32).count();
            assert_eq!(count(&text.training) + count(&text.held_out), 1_700);
        }
        // Every token has a meaning of its own.
        let mut special = vec![text.end(), text.mask(), text.begin()];
        special.extend((0..8).map(|label| text.category(label)));
        special.extend((0..SENTINELS).map(|i| text.sentinel(i)));
        special.sort_unstable();
        assert!(special.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(special[0], text.pieces);
        assert_eq!(special.last().copied(), Some(text.vocabulary() as u32 - 1));
        let tokens = text.training.iter().chain(&text.held_out).flat_map(|d| &d.tokens);
        assert!(tokens.into_iter().all(|&token| token < text.pieces));
    }

    #[test]
    fn rows_are_cut_and_padded() {
        let text = Text::load().unwrap();
        let (end, pad) = (text.end(), text.begin());
        let [short, long] = [vec![1, 2], vec![3, 4, 5, 6, 7]].map(|tokens| Definition { tokens, label: 0 });
        let expected = vec![1, 2, end, pad, pad, 3, 4, 5, 6, end];
        assert_eq!(text.padded(&[&short, &long], 5, false), (expected, vec![3, 5]));
        assert_eq!(text.padded(&[&short], 5, true), (vec![pad, 1, 2, end, pad], vec![4]));
    }

    #[test]
    fn stretches_are_of_the_text() {
        let text = Text::load().unwrap();
        let few = &text.training[..3];
        let whole: Vec<u32> =
            few.iter().cycle().take(60).flat_map(|d| d.tokens.iter().copied().chain([text.end()])).collect();
        for step in 0..50 {
            let stretch = text.stretch(few, 90, 1, "a test", step);
            assert_eq!(stretch.len(), 90);
            assert!(whole.windows(90).any(|window| window == stretch), "step {step}");
        }
    }
}
