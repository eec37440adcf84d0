//! Convolutions against attention, on a real text and on this machine.
//!
//! ```text
//! cargo run --release --example race -- --quick
//! ```
//!
//! The bytes of a text become token vectors, and light, dynamic and span-based dynamic convolution run over them beside
//! attention in three forms: naive (all scores in memory), fused, and local, which sees the same tokens as the
//! convolutions do. Every operator is timed at every length and held to the reference on a sample of tokens.
//!
//! What is timed is one call of the operator, forward, into an output that is there. The kernel generation of
//! dynamic_conv and span_conv is part of the operator and so of its time; the projections that make q, k and v are not
//! part of any. On a GPU calls go out one after another and the last is waited for: what the host does for a call
//! counts where it takes longer than the device. On CUDA calls rotate among tokens that are more than a cache holds.
//! Elsewhere inputs may be in the cache: at short lengths a time can fall below the floor, which counts memory.

mod args;
mod check;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod events;
mod format;
#[cfg(feature = "wgpu")]
mod gpu;
mod machine;
mod operator;
mod picture;
mod plan;
#[cfg(feature = "wgpu")]
mod stopwatch;
mod table;
mod timing;
mod tokens;

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use lightspan::{Device, Error as Fault, Tensor};

use args::Args;
use machine::Machine;
use operator::{Operator, Parameters, Track};
use plan::Plan;
use table::{Entry, Measurement, Round};
use timing::Timer;
use tokens::Embedding;

fn main() -> ExitCode {
    let plan = match Plan::new(Args::parse()) {
        Ok(plan) => plan,
        Err(error) => return complain(&*error, 2),
    };
    match run(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&*error, 1),
    }
}

fn complain(error: &dyn Error, status: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(status)
}

/// The whole race; whether every operator was right.
fn run(plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let timer = Timer::new(&plan.device, plan.budget);
    let machine = Machine::measure(&plan.device, plan.setting.dtype, &timer)?;
    print(&format!(
        "lightspan on {}: {}\n{}, sequences from {}\n\n",
        plan.device, machine, plan.setting, plan.text.name
    ))?;
    if is_software(&plan.device) {
        print("This adapter is software: its times say nothing of any GPU.\n\n")?;
    }

    let rounds = measure(plan, &machine, &timer)?;
    print(&format!("{}\n{}\n", table::render(&rounds), table::notes(&rounds)))?;
    let title = format!("{}, {}", plan.device, plan.setting);
    fs::write(&plan.out, picture::draw(&title, &rounds)?)
        .map_err(|error| format!("cannot write {}: {error}", plan.out.display()))?;
    print(&format!("picture: {}\n", plan.out.display()))?;

    let right = rounds.iter().all(Round::is_right);
    if !right {
        eprintln!("FAILED: an operator is further from the reference than its bound allows");
    }
    Ok(right)
}

fn measure(plan: &Plan, machine: &Machine, timer: &Timer) -> lightspan::Result<Vec<Round>> {
    let parameters = Parameters::new(&plan.setting, &plan.device)?;
    let embedding = Embedding::new(plan.setting.channels);
    let progress = progress(plan.lengths.len() * Operator::ALL.len());
    let mut rounds = Vec::with_capacity(plan.lengths.len());
    for &length in &plan.lengths {
        let x = embedding.embed(&plan.text.bytes, plan.setting.batch, length);
        let track = || Track::new(&plan.setting, &parameters, &x, length, &plan.device);
        let tracks = (0..plan.tracks(length)).map(|_| track()).collect::<Result<Vec<_>, _>>()?;
        let mut round = Round { length, tokens: plan.setting.batch * length, results: Vec::new() };
        for operator in Operator::ALL {
            progress.set_message(format!("{operator}, {length} tokens"));
            let entry = match plan.skips(operator, length) {
                Some(reason) => Err(reason),
                None => enter(operator, &tracks, machine, timer)?,
            };
            round.results.push((operator, entry));
            progress.inc(1);
        }
        rounds.push(round);
    }
    progress.finish_and_clear();
    Ok(rounds)
}

/// Times one operator at one length, on one track after another, and checks what it wrote last. One that needs more
/// than the device has does not run.
fn enter(
    operator: Operator,
    tracks: &[Track<'_>],
    machine: &Machine,
    timer: &Timer,
) -> lightspan::Result<Entry> {
    let problem = operator.problem(tracks[0].setting, &tracks[0].sequences)?;
    let zeros = |track: &Track<'_>| Tensor::zeros(track.x.shape(), track.x.dtype(), track.x.device());
    let mut outputs = tracks.iter().map(zeros).collect::<Result<Vec<_>, _>>()?;
    let mut lane = 0;
    let timing = timer.time(|| {
        lane = (lane + 1) % tracks.len();
        operator.run(&tracks[lane], &mut outputs[lane])
    });
    let seconds = match timing {
        Ok(timing) => timing.median(),
        Err(error @ (Fault::Limit { .. } | Fault::OutOfMemory { .. })) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    let floor = machine.floor(problem.flops(), problem.bytes());
    let error = check::largest_error(&problem, &tracks[lane], &outputs[lane])?;
    Ok(Ok(Measurement { seconds, floor, error }))
}

#[cfg(feature = "wgpu")]
fn is_software(device: &Device) -> bool {
    device.gpu().is_some_and(stopwatch::is_software)
}

#[cfg(not(feature = "wgpu"))]
fn is_software(_: &Device) -> bool {
    false
}

/// A bar on stderr, hidden where that is not a terminal.
fn progress(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Writes to stdout. A reader that has seen enough (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
