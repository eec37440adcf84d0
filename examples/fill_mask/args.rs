//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

use crate::shared::Options;

/// Guesses the masked words of texts, with a ConvBERT model.
#[derive(Debug, Parser)]
#[command(name = "fill_mask")]
pub(crate) struct Args {
    /// config.json, model.safetensors, and tokenizer.json or vocab.txt
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,

    /// Texts with masks, as "The capital of France is [MASK]."; lines of standard input where none is given
    #[arg(value_name = "TEXT")]
    pub(crate) texts: Vec<String>,

    /// How many guesses are shown for a mask
    #[arg(long, default_value = "5", value_name = "N")]
    pub(crate) top: NonZeroUsize,

    /// Take letters as they are, where there is a vocab.txt and no tokenizer_config.json that says so
    #[arg(long)]
    pub(crate) cased: bool,

    #[command(flatten)]
    pub(crate) options: Options,
}
