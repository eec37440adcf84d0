//! What stands behind a mask? ConvBERT guesses words that a text leaves out:
//!
//! ```text
//! cargo run --release --features models --example fill_mask -- FOLDER "The capital of France is [MASK]."
//! ```
//!
//! FOLDER is a model as transformers saves it: `config.json`, `model.safetensors` with the head for masked words, and
//! `tokenizer.json` or `vocab.txt` (a model that is kept in another way becomes such a folder by `save_pretrained`, with its
//! tokenizer's). A text may have several masks, which are guessed each for itself.
//!
//! Texts go through the model packed, one after another without padding: each gets what it would get alone. In a padded batch the
//! published models do not give that, as their convolutions see some of the padding.

mod args;
mod guess;
mod masked;
#[path = "../shared/mod.rs"]
mod shared;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use clap::Parser;
use lightspan::models::{ConvBertConfig, ConvBertForMaskedLm};

use args::Args;
use masked::{Masked, Reader};
use shared::{Result, Texts};

fn main() -> ExitCode {
    let args = Args::parse();
    let texts = Texts::new(&args.texts, args.options.batch.get());
    shared::exit(run(&args, texts, &mut io::stdout().lock()))
}

/// Everything but the command line: what can be wrong without the model is found before it is loaded.
fn run(args: &Args, texts: Texts<'_, impl BufRead>, out: &mut impl Write) -> Result<()> {
    let device = args.options.device()?;
    let config = ConvBertConfig::from_json(&shared::read(&args.folder.join("config.json"))?)?;
    let reader = Reader::open(&args.folder, args.cased, &config)?;
    texts.check(|text| reader.read(text))?;
    let model =
        args.options.load(&args.folder, &device, |weights| ConvBertForMaskedLm::new(&config, weights))?;
    let several = texts.given.len() != 1;
    texts.answer(
        // Empty lines are passed over.
        |text| if text.trim().is_empty() { Ok(None) } else { reader.read(text).map(Some) },
        |group| {
            let group: Vec<Masked> = group.iter().flatten().cloned().collect();
            let guesses = guess::guesses(&model, &group, args.top.get(), &device)?;
            for (text, guesses) in group.iter().zip(&guesses) {
                if several {
                    writeln!(out, "{}", text.text)?;
                }
                writeln!(out, "{}", table::render(guesses, |token| reader.word(token)).trim_fmt())?;
            }
            Ok(out.flush()?)
        },
    )
}
