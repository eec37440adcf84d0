//! The dictionaries of fairseq: `dict.de.txt` and the like.

use std::collections::HashMap;

use crate::shared::Result;

/// The tokens that come before those of a file.
const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
const UNKNOWN: u32 = 3;

/// Says that a token may be there already, special ones above all, and means this line from here on.
const OVERWRITE: &str = " #fairseq:overwrite";

/// The end of a piece after which its word goes on.
const GOES_ON: &str = "@@ ";

/// Tokens by their numbers, and numbers by tokens.
#[derive(Debug)]
pub(crate) struct Dictionary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Dictionary {
    /// Of lines of a token, a space, and how often it was seen, in the order of their numbers.
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
        let mut dictionary = Dictionary { tokens: vec![], ids: HashMap::new() };
        for token in SPECIAL {
            dictionary.push(token);
        }
        for (i, line) in std::str::from_utf8(file)?.lines().enumerate() {
            let wrong = |what: &str| format!("line {}: {what}", i + 1);
            let line = line.trim_end();
            let (line, overwrites) = match line.strip_suffix(OVERWRITE) {
                Some(line) => (line, true),
                None => (line, false),
            };
            let (token, count) = line.rsplit_once(' ').ok_or_else(|| wrong("no token and its count"))?;
            count.parse::<u64>().map_err(|_| wrong("no token and its count"))?;
            if dictionary.ids.contains_key(token) && !overwrites {
                return Err(wrong(&format!("{token} is there twice")).into());
            }
            dictionary.push(token);
        }
        Ok(dictionary)
    }

    fn push(&mut self, token: &str) {
        // No model has 2^32 tokens; numbers past its vocabulary are refused before any is used.
        self.ids.insert(token.to_owned(), self.tokens.len() as u32);
        self.tokens.push(token.to_owned());
    }

    /// Tokens, the special ones among them.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens of a text, which are apart by spaces.
    pub(crate) fn read(&self, text: &str) -> Vec<u32> {
        text.split_whitespace().map(|token| self.ids.get(token).copied().unwrap_or(UNKNOWN)).collect()
    }

    /// A text of tokens, its words in one piece.
    pub(crate) fn write(&self, tokens: &[u32]) -> String {
        let mut text = String::new();
        for &token in tokens {
            text += self.tokens.get(token as usize).map_or(SPECIAL[UNKNOWN as usize], String::as_str);
            text.push(' ');
        }
        text.replace(GOES_ON, "").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_after_the_special_tokens() {
        let dictionary =
            Dictionary::parse("the 17\nhou@@ 4\nse 3\né 1\nmadeupword0000 0\n".as_bytes()).unwrap();
        assert_eq!(dictionary.len(), 9);
        assert_eq!(dictionary.read("  the hou@@\tse nowhere é </s>"), [4, 5, 6, 3, 7, 2]);
        assert_eq!(dictionary.write(&[4, 5, 6, 3, 7]), "the house <unk> é");
        assert_eq!(dictionary.write(&[4, 5]), "the hou");
        assert_eq!(dictionary.write(&[]), "");
    }

    #[test]
    fn a_line_may_stand_for_an_earlier_one() {
        let dictionary = Dictionary::parse(b"a 2\n<unk> 1 #fairseq:overwrite\n").unwrap();
        assert_eq!(dictionary.read("a <unk>"), [4, 5]);
        assert_eq!(dictionary.write(&[3, 5]), "<unk> <unk>");
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        let error = |file: &[u8]| Dictionary::parse(file).unwrap_err().to_string();
        assert_eq!(error(b"a 1\nb\n"), "line 2: no token and its count");
        assert_eq!(error(b"a 1\n\nb 1\n"), "line 2: no token and its count");
        assert_eq!(error(b"a one\n"), "line 1: no token and its count");
        assert_eq!(error(b"a 1\na 2\n"), "line 2: a is there twice");
        assert_eq!(error(b"<pad> 2\n"), "line 1: <pad> is there twice");
        assert!(error(b"\xff 1\n").contains("utf-8"));
    }
}
