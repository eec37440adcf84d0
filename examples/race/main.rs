//! Convolutions against attention, on a real text and on this machine.
//!
//! ```text
//! cargo run --release --example race -- --quick
//! cargo run --release --features models --example race -- --model
//! ```
//!
//! The first races single operators, the second whole encoders of the pre-trained convolutions of Tay et al. 2021 and of
//! the Transformer that they were compared with. Both leave a table and a picture, and hold what was computed to the
//! reference.
//!
//! On a GPU calls go out one after another and the last is waited for: what the host does for a call counts where it
//! takes longer than the device.

mod args;
#[cfg(feature = "cuda")]
mod cuda;
#[path = "../shared/device.rs"]
mod device;
#[cfg(feature = "cuda")]
mod events;
mod format;
#[cfg(feature = "wgpu")]
mod gpu;
mod machine;
#[cfg(feature = "models")]
mod models;
mod operators;
mod picture;
mod round;
mod setup;
#[cfg(feature = "wgpu")]
mod stopwatch;
mod table;
mod terminal;
mod timing;

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use clap::Parser;
use lightspan::Device;

use args::Args;
use machine::Machine;
use picture::Picture;
use round::Round;
use setup::Setup;
use table::Column;
use terminal::print;
use timing::Timer;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// What went wrong, or whether all that was computed is right.
type Raced = Result<bool>;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.model { race_models(&args) } else { race(operators::Plan::new(&args), operators::run) }
}

#[cfg(feature = "models")]
fn race_models(args: &Args) -> ExitCode {
    race(models::Plan::new(args), models::run)
}

#[cfg(not(feature = "models"))]
fn race_models(_: &Args) -> ExitCode {
    complain(
        "--model needs the feature models: cargo run --release --features models --example race".into(),
        2,
    )
}

fn race<P>(plan: Result<P>, run: impl FnOnce(&P) -> Raced) -> ExitCode {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return complain(error, 2),
    };
    match run(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(error, 1),
    }
}

fn complain(error: Box<dyn Error>, status: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(status)
}

/// Says where and on what the race is, and what the machine can do at most.
fn begin(setup: &Setup, setting: &str) -> Result<(Machine, Timer)> {
    let timer = Timer::new(&setup.device, setup.budget);
    let machine = Machine::measure(&setup.device, setup.dtype, &timer)?;
    let (device, text) = (&setup.device, &setup.text.name);
    print(&format!("lightspan on {device}: {machine}\n{setting}, sequences from {text}\n\n"))?;
    if is_software(device) {
        print("This adapter is software: its times say nothing of any GPU.\n\n")?;
    }
    Ok((machine, timer))
}

/// Shows what was found, in a table of what `who` says and as a picture.
fn report(
    setup: &Setup,
    rounds: &[Round],
    (who, columns): (&str, &[Column]),
    notes: &str,
    picture: &Picture,
) -> Raced {
    print(&format!("{}\n{notes}\n", table::render(rounds, who, columns)))?;
    fs::write(&setup.out, picture::draw(picture, rounds)?)
        .map_err(|error| format!("cannot write {}: {error}", setup.out.display()))?;
    print(&format!("picture: {}\n", setup.out.display()))?;
    let right = rounds.iter().all(Round::is_right);
    if !right {
        eprintln!("FAILED: an {who} is further from the reference than it may be");
    }
    Ok(right)
}

#[cfg(feature = "wgpu")]
fn is_software(device: &Device) -> bool {
    device.gpu().is_some_and(stopwatch::is_software)
}

#[cfg(not(feature = "wgpu"))]
fn is_software(_: &Device) -> bool {
    false
}
