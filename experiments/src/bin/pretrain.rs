//! Pre-trained convolutions against pre-trained Transformers (Tay et al. 2021).

use std::process::ExitCode;

use clap::Parser;
use lightspan_experiments::pretrain::{Options, run};
use lightspan_experiments::report::program;

/// Encoder-decoders of each kind are pre-trained by span corruption, and then learn categories with and without that
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    program(|| run(&Cli::parse().options))
}
