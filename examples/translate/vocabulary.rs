//! From texts to tokens, and back.

use std::path::Path;

use lightspan::models::LightConvConfig;
use tokenizers::Tokenizer;

use crate::dictionary::Dictionary;
use crate::search::longest;
use crate::shared::{Result, largest_id, read, read_tokenizer};

/// Files of the source and of the target.
const FILES: [[&str; 2]; 3] =
    [["dict.source.txt", "dict.target.txt"], ["source.json", "target.json"], ["tokenizer.json"; 2]];

/// What makes tokens of texts of one language, or texts of tokens.
enum Vocabulary {
    Dictionary(Dictionary),
    Tokenizer(Box<Tokenizer>),
}

/// Both sides, and what the model takes.
pub(crate) struct Vocabularies {
    source: Vocabulary,
    target: Vocabulary,
    end: u32,
    /// The most tokens of a source.
    longest: usize,
}

impl Vocabularies {
    /// Those of a model's folder, which must have them in one way.
    pub(crate) fn open(folder: &Path, config: &LightConvConfig) -> Result<Self> {
        let is_there = |files: &&[&str; 2]| files.iter().any(|file| folder.join(file).exists());
        let both = |[source, target]: [&str; 2]| match source == target {
            true => source.to_owned(),
            false => format!("{source} and {target}"),
        };
        let found: Vec<_> = FILES.iter().filter(is_there).copied().collect();
        let [source, target] = match found.as_slice() {
            [files] => files.map(|file| folder.join(file)),
            [] => {
                return Err(format!("{} has none of {}", folder.display(), FILES.map(both).join(", ")).into());
            }
            [one, other, ..] => {
                return Err(format!("{} has {} beside {}", folder.display(), both(*one), both(*other)).into());
            }
        };
        Ok(Vocabularies {
            source: Vocabulary::open(&source, config.source_vocab_size.unwrap_or(config.vocab_size))?,
            target: Vocabulary::open(&target, config.vocab_size)?,
            end: u32::try_from(config.eos_index)?,
            longest: longest(config),
        })
    }

    /// The tokens of a source, with the one that ends it; none, where there are no words in it.
    pub(crate) fn read(&self, text: &str) -> Result<Option<Vec<u32>>> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let mut tokens = match &self.source {
            Vocabulary::Dictionary(dictionary) => dictionary.read(text),
            Vocabulary::Tokenizer(tokenizer) => tokenizer.encode(text, true)?.get_ids().to_vec(),
        };
        // Some tokenizers write it themselves.
        if tokens.last() != Some(&self.end) {
            tokens.push(self.end);
        }
        if tokens.len() > self.longest {
            let (got, longest) = (tokens.len(), self.longest);
            return Err(format!("{got} tokens, and the model has positions for {longest}").into());
        }
        Ok(Some(tokens))
    }

    /// The text of a translation.
    pub(crate) fn write(&self, tokens: &[u32]) -> Result<String> {
        match &self.target {
            Vocabulary::Dictionary(dictionary) => Ok(dictionary.write(tokens)),
            Vocabulary::Tokenizer(tokenizer) => Ok(tokenizer.decode(tokens, true)?),
        }
    }
}

impl Vocabulary {
    /// That of a file, for a model with so many tokens.
    fn open(path: &Path, size: usize) -> Result<Self> {
        let mismatch = |what: String| {
            format!("{} {what}, and the model has {size} tokens: they are not of one model", path.display())
        };
        if path.extension().is_some_and(|extension| extension == "txt") {
            let dictionary =
                Dictionary::parse(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
            // fairseq makes models of the size of their dictionaries.
            return if dictionary.len() == size {
                Ok(Vocabulary::Dictionary(dictionary))
            } else {
                Err(mismatch(format!("has {} with the special ones", dictionary.len())).into())
            };
        }
        let tokenizer = read_tokenizer(path)?;
        match largest_id(&tokenizer) {
            Some((id, token)) if id as usize >= size => {
                Err(mismatch(format!("numbers {token:?} {id}")).into())
            }
            _ => Ok(Vocabulary::Tokenizer(Box::new(tokenizer))),
        }
    }
}
