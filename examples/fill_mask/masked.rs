//! From a text to numbers of tokens, with masks among them.

use std::path::Path;

use lightspan::models::ConvBertConfig;
use serde_json::Value;
use tokenizers::decoders::wordpiece::WordPiece as Pieces;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::shared::{Result, largest_id, read, read_tokenizer};

/// A text as the model takes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Masked {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// Of which sentence each token is.
    pub(crate) types: Vec<u32>,
    /// Where the masks are among the tokens.
    pub(crate) masks: Vec<usize>,
}

/// The tokenizer of a model, and what the model takes.
pub(crate) struct Reader {
    tokenizer: Tokenizer,
    mask: String,
    mask_id: u32,
    /// The most tokens of a text.
    longest: usize,
}

impl Reader {
    /// That of `tokenizer.json`, or of BERT with the words of `vocab.txt`; `tokenizer_config.json` says more of it, if it is there.
    pub(crate) fn open(folder: &Path, cased: bool, config: &ConvBertConfig) -> Result<Self> {
        let settings = settings(&folder.join("tokenizer_config.json"))?;
        let (file, words) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let (mut tokenizer, file) = if file.exists() {
            if cased {
                return Err(format!("--cased is for vocab.txt: {} says it itself", file.display()).into());
            }
            (read_tokenizer(&file)?, file)
        } else if words.exists() {
            let tokenizer = bert(&read(&words)?, cased, &settings);
            (tokenizer.map_err(|error| format!("{}: {error}", words.display()))?, words)
        } else {
            return Err(format!("{} has neither tokenizer.json nor vocab.txt", folder.display()).into());
        };
        let (mask, mask_id) =
            mask(&tokenizer, &settings).map_err(|error| format!("{}: {error}", file.display()))?;
        // Found whole in texts, also where the file has it as a word among others.
        if !tokenizer.get_added_tokens_decoder().contains_key(&mask_id) {
            tokenizer.add_special_tokens([AddedToken::from(&mask, true)])?;
        }
        match largest_id(&tokenizer) {
            Some((id, token)) if id as usize >= config.vocab_size => Err(format!(
                "{} numbers {token:?} {id}, and the vocab_size of config.json is {}: they are of different models",
                file.display(),
                config.vocab_size
            )
            .into()),
            _ => Ok(Reader { tokenizer, mask, mask_id, longest: config.max_position_embeddings }),
        }
    }

    /// The tokens of a text that has a mask at least.
    pub(crate) fn read(&self, text: &str) -> Result<Masked> {
        let encoding = self.tokenizer.encode(text, true)?;
        let (ids, types) = (encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec());
        let masks: Vec<usize> = (0..ids.len()).filter(|&i| ids[i] == self.mask_id).collect();
        if masks.is_empty() {
            return Err(format!("no mask: write {} where a word is to be guessed", self.mask).into());
        }
        if ids.len() > self.longest {
            let (got, longest) = (ids.len(), self.longest);
            return Err(format!("{got} tokens, and the model has positions for {longest}").into());
        }
        Ok(Masked { text: text.to_owned(), ids, types, masks })
    }

    /// How a token is written; its number, where the tokenizer knows less of them than the model.
    pub(crate) fn word(&self, token: u32) -> String {
        let written = self.tokenizer.decode(&[token], false).unwrap_or_default();
        match written.trim() {
            "" => self.tokenizer.id_to_token(token).unwrap_or_else(|| format!("#{token}")),
            written => written.to_owned(),
        }
    }
}

/// What a `tokenizer_config.json` says: nothing, where there is none.
fn settings(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_slice(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// How the mask is written, and its number.
fn mask(tokenizer: &Tokenizer, settings: &Value) -> Result<(String, u32)> {
    let said = &settings["mask_token"];
    // Some files have it as a structure.
    let names = match said.as_str().or(said["content"].as_str()) {
        Some(said) => vec![said],
        None => vec!["[MASK]", "<mask>"],
    };
    let known = |&name: &&str| Some((name.to_owned(), tokenizer.token_to_id(name)?));
    let none = || format!("no mask token: {} is not in it", names.join(" or "));
    Ok(names.iter().find_map(known).ok_or_else(none)?)
}

/// BERT's own tokenizer: words and punctuation apart, in pieces of the vocabulary, a token a line.
fn bert(vocabulary: &[u8], cased: bool, settings: &Value) -> Result<Tokenizer> {
    let vocabulary = WordPiece::read_bytes(vocabulary)?;
    let special = |token: &str| {
        let id = vocabulary.get(token).ok_or_else(|| format!("no {token}"))?;
        Ok::<_, String>((token.to_owned(), *id))
    };
    let (cls, sep) = (special("[CLS]")?, special("[SEP]")?);
    special("[UNK]")?;
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let specials = specials.into_iter().filter(|token| vocabulary.contains_key(*token));
    let specials: Vec<_> = specials.map(|token| AddedToken::from(token, true)).collect();
    let setting = |key: &str| settings[key].as_bool();
    let lowercase = !cased && setting("do_lower_case").unwrap_or(true);
    let chinese = setting("tokenize_chinese_chars").unwrap_or(true);

    let mut tokenizer = Tokenizer::new(WordPiece::builder().vocab(vocabulary).build()?);
    let normalizer = BertNormalizer::new(true, chinese, setting("strip_accents"), lowercase);
    tokenizer.with_normalizer(Some(normalizer))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(BertProcessing::new(sep, cls)));
    tokenizer.with_decoder(Some(Pieces::default()));
    tokenizer.add_special_tokens(specials)?;
    Ok(tokenizer)
}
