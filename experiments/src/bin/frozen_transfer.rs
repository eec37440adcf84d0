//! Frozen layers of language models on tasks that have nothing to do with language (Lu et al. 2021).

use std::process::ExitCode;

use clap::Parser;
use lightspan_experiments::frozen_transfer::{Options, run};
use lightspan_experiments::report::program;

/// Layers that learned a text are frozen and learn other tasks, against layers that learned nothing, and against all that learns
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    program(|| run(&Cli::parse().options))
}
