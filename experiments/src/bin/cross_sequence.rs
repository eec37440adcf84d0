//! Where convolutions fail: two sequences farther apart than a token sees (Tay et al. 2021, section 6.1).

use std::process::ExitCode;

use clap::Parser;
use lightspan_experiments::cross_sequence::{Options, run};
use lightspan_experiments::report::program;

/// Two strings are compared symbol by symbol, at a distance: by convolutions, with a layer of attention behind them, and by attention
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    program(|| run(&Cli::parse().options))
}
