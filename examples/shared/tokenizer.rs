//! Tokenizers as files.

use std::path::Path;

use tokenizers::Tokenizer;

use super::{Result, read};

/// A `tokenizer.json`. What it says of cutting and filling up texts is passed over: a text is never cut here, and padding is the
/// model's affair.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let broken = |error| format!("{}: {error}", path.display());
    let mut tokenizer = Tokenizer::from_bytes(read(path)?).map_err(broken)?;
    tokenizer.with_truncation(None).map_err(broken)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The largest number that a token has, and that token.
pub(crate) fn largest_id(tokenizer: &Tokenizer) -> Option<(u32, String)> {
    tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).max()
}
