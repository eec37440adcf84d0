//! PTX text into tokens.

use crate::error::Located;

/// A token of PTX. Names keep their dots: `ld.global.u32`, `.param` and `%tid.x` are one token each.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Name(String),
    /// An integer without its sign.
    Int(u64),
    /// `0f3F800000`
    F32(u32),
    /// `0d3FF0000000000000`
    F64(u64),
    Text,
    Punct(char),
}

/// A token and the line it stands in.
#[derive(Debug, Clone)]
pub(crate) struct Spanned {
    pub token: Token,
    pub line: u32,
}

/// All tokens of a source, comments left out.
pub(crate) fn tokens(source: &str) -> Result<Vec<Spanned>, Located> {
    let mut out = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(c) = rest.chars().next() {
        if c == '\n' {
            line += 1;
            rest = &rest[1..];
        } else if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
        } else if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").ok_or_else(|| Located::syntax(line, "a comment without an end"))?;
            line += rest[..end].matches('\n').count() as u32;
            rest = &rest[end + 2..];
        } else if c == '"' {
            let end = rest[1..].find('"').ok_or_else(|| Located::syntax(line, "a string without an end"))?;
            out.push(Spanned { token: Token::Text, line });
            rest = &rest[end + 2..];
        } else if c.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            out.push(Spanned { token: number(&rest[..end], line)?, line });
            rest = &rest[end..];
        } else if starts_name(c) {
            let end = name_end(rest);
            out.push(Spanned { token: Token::Name(rest[..end].to_owned()), line });
            rest = &rest[end..];
        } else if "{}()[]<>,;:+-@!|=".contains(c) {
            out.push(Spanned { token: Token::Punct(c), line });
            rest = &rest[1..];
        } else {
            return Err(Located::syntax(line, format!("unexpected character `{c}`")));
        }
    }
    Ok(out)
}

fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$' | '%' | '.')
}

/// A name runs over letters, digits, `_`, `$`, dots, and the double colon of `.L2::128B`, but not a label's single one.
fn name_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(&b) = bytes.get(at) {
        if b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.') {
            at += 1;
        } else if text[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    at
}

fn number(text: &str, line: u32) -> Result<Token, Located> {
    let bad = || Located::syntax(line, format!("`{text}` is not a number"));
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).map_err(|_| bad());
    // C's suffix of unsigned constants.
    let plain = text.strip_suffix('U').unwrap_or(text);
    match text.get(..2) {
        Some("0f" | "0F") if text.len() == 10 => Ok(Token::F32(radix(&text[2..], 16)? as u32)),
        Some("0d" | "0D") if text.len() == 18 => Ok(Token::F64(radix(&text[2..], 16)?)),
        Some("0x" | "0X") => Ok(Token::Int(radix(&plain[2..], 16)?)),
        Some("0b" | "0B") => Ok(Token::Int(radix(&plain[2..], 2)?)),
        Some(_) if plain.len() > 1 && plain.starts_with('0') => Ok(Token::Int(radix(plain, 8)?)),
        _ => Ok(Token::Int(radix(plain, 10)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(source: &str) -> Vec<Token> {
        tokens(source).unwrap().into_iter().map(|t| t.token).collect()
    }

    #[test]
    fn numbers_in_every_form() {
        let of = |v| Token::Int(v);
        assert_eq!(plain("12 0x1F 017 0b101 7U"), [of(12), of(31), of(15), of(5), of(7)]);
        assert_eq!(
            plain("0f3F800000 0d3FF0000000000000"),
            [Token::F32(0x3f80_0000), Token::F64(1f64.to_bits())]
        );
        assert!(tokens("0f3F8").is_err());
        assert!(tokens("12ab").is_err());
    }

    #[test]
    fn names_keep_dots_and_labels_lose_their_colon() {
        let name = |v: &str| Token::Name(v.to_owned());
        assert_eq!(plain("$L__BB0_2: %tid.x"), [name("$L__BB0_2"), Token::Punct(':'), name("%tid.x")]);
        assert_eq!(plain("ld.global.L2::128B.u32"), [name("ld.global.L2::128B.u32")]);
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let all = tokens("a /* \n \n */ b // c\nd").unwrap();
        assert_eq!(all.iter().map(|t| t.line).collect::<Vec<_>>(), [1, 3, 4]);
    }
}
