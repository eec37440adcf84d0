//! Generators and discriminators with span-based dynamic convolution beside attention (Jiang et al. 2020).

use std::process::ExitCode;

use clap::Parser;
use lightspan_experiments::replaced_token::{Options, run};
use lightspan_experiments::report::program;

/// Encoders with convolutions beside attention learn which tokens of a text were replaced, and then categories, with and without that
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    program(|| run(&Cli::parse().options))
}
