//! Translation by the convolutional sequence-to-sequence models of Wu et al. 2019:
//!
//! ```text
//! cargo run --release --features models --example translate -- FOLDER "ein Satz in St@@ ücken ."
//! ```
//!
//! FOLDER has `config.json` (see `LightConvConfig`), `model.safetensors`, and what makes tokens of texts and texts of tokens:
//!
//! - `dict.source.txt` and `dict.target.txt`: dictionaries of fairseq. Texts are in the pieces that they list, apart by spaces, as
//!   `sacremoses tokenize` and `subword-nmt apply-bpe` make them; `@@` at the end of a piece says that the word goes on.
//! - or `source.json` and `target.json`, or one `tokenizer.json` for both sides: files of the tokenizers library, which take texts
//!   as they are.
//!
//! `convert.py` makes such a folder of a checkpoint of fairseq, with its dictionaries.
//!
//! A translation a line, in the order of the texts; that of an empty line is empty.

mod args;
mod dictionary;
mod search;
#[path = "../shared/mod.rs"]
mod shared;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use clap::Parser;
use lightspan::models::LightConvConfig;

use args::Args;
use search::Search;
use shared::{Result, Texts};
use vocabulary::Vocabularies;

fn main() -> ExitCode {
    let args = Args::parse();
    let texts = Texts::new(&args.texts, args.options.batch.get());
    shared::exit(run(&args, texts, &mut io::stdout().lock()))
}

/// Everything but the command line: what can be wrong without the model is found before it is loaded.
fn run(args: &Args, texts: Texts<'_, impl BufRead>, out: &mut impl Write) -> Result<()> {
    let device = args.options.device()?;
    let config = LightConvConfig::from_json(&shared::read(&args.folder.join("config.json"))?)?;
    let search = Search::new(args, &config)?;
    let vocabularies = Vocabularies::open(&args.folder, &config)?;
    texts.check(|text| vocabularies.read(text))?;
    let model = args.options.load(&args.folder, &device, |weights| config.seq2seq(weights))?;
    let mut number = 0;
    texts.answer(
        |text| vocabularies.read(text),
        |group| {
            let sources: Vec<&[u32]> = group.iter().filter_map(Option::as_deref).collect();
            let mut found = search::translate(&model, &sources, &search, &device)?.into_iter();
            for source in group {
                number += 1;
                let Some(translation) = source.as_ref().and_then(|_| found.next()) else {
                    writeln!(out)?;
                    continue;
                };
                if !translation.ended {
                    eprintln!("text {number}: its translation is cut at {} tokens (--limit)", search.limit);
                }
                if args.scores {
                    write!(out, "{:.4}\t", search.weighed(&translation))?;
                }
                writeln!(out, "{}", vocabularies.write(&translation.tokens)?)?;
            }
            Ok(out.flush()?)
        },
    )
}
