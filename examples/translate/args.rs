//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

use crate::shared::Options;

/// Translates texts, with a LightConv or DynamicConv model.
#[derive(Debug, Parser)]
#[command(name = "translate")]
pub(crate) struct Args {
    /// config.json, model.safetensors, and dictionaries or tokenizers
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,

    /// Texts; lines of standard input where none is given
    #[arg(value_name = "TEXT")]
    pub(crate) texts: Vec<String>,

    /// Translations that are followed at once for each text
    #[arg(long, default_value = "4", value_name = "N", conflicts_with = "greedy")]
    pub(crate) beams: NonZeroUsize,

    /// Translations are compared by score / tokens^P: 0 favours short ones, 1 compares means
    #[arg(
        long,
        default_value_t = 1.0,
        value_name = "P",
        value_parser = finite,
        allow_negative_numbers = true,
        conflicts_with = "greedy"
    )]
    pub(crate) length_penalty: f32,

    /// Always the likeliest token, and no search
    #[arg(long)]
    pub(crate) greedy: bool,

    /// The most tokens of a translation, its end included [default: 200, or what the model has positions for]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroUsize>,

    /// Print before each translation the logarithm of its probability / tokens^P, and a tab
    #[arg(long)]
    pub(crate) scores: bool,

    #[command(flatten)]
    pub(crate) options: Options,
}

fn finite(number: &str) -> Result<f32, String> {
    match number.parse() {
        Ok(number) if f32::is_finite(number) => Ok(number),
        _ => Err("a number is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["translate", "folder"].iter().chain(args))
    }

    #[test]
    fn flags_are_read() {
        let args = parse(&["--length-penalty", "-0.5", "--limit", "7", "a b", "c"]).unwrap();
        assert_eq!((args.length_penalty, args.limit.map(NonZeroUsize::get)), (-0.5, Some(7)));
        assert_eq!(
            (args.beams.get(), args.texts.as_slice()),
            (4, ["a b".to_owned(), "c".to_owned()].as_slice())
        );
        assert!(parse(&["--greedy"]).unwrap().greedy);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused: [&[&str]; 7] = [
            &["--beams", "0"],
            &["--limit", "0"],
            &["--batch", "0"],
            &["--length-penalty", "nan"],
            &["--greedy", "--beams", "2"],
            &["--greedy", "--length-penalty", "1"],
            &["--dtype", "f64"],
        ];
        for args in refused {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
