//! Single operators: convolutions against attention in three forms.
//!
//! The bytes of the text become token vectors, and light, dynamic and span-based dynamic convolution run over them beside
//! attention: naive (all scores in memory), fused, and local, which sees the same tokens as the convolutions do. Every
//! operator is timed at every length and held to the reference on a sample of tokens.
//!
//! What is timed is one call of the operator, forward, into an output that is there. The kernel generation of
//! dynamic_conv and span_conv is part of the operator and so of its time; the projections that make q, k and v are not
//! part of any. On CUDA calls rotate among tokens that are more than a cache holds. Elsewhere inputs may be in the cache:
//! at short lengths a time can fall below the floor, which counts memory.

mod check;
mod operator;
mod plan;
mod table;
mod tokens;

use std::error::Error;

use lightspan::{Error as Fault, Tensor};
use plotters::prelude::SeriesLabelPosition;

use crate::machine::Machine;
use crate::picture::Picture;
use crate::round::{Entry, Measurement, Round};
use crate::terminal::progress;
use crate::timing::Timer;
use crate::{begin, report};
use operator::{Operator, Parameters, Track};
pub(crate) use plan::Plan;
use tokens::Embedding;

/// The whole race; whether every operator was right.
pub(crate) fn run(plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let (machine, timer) = begin(&plan.setup, &plan.setting.to_string())?;
    let rounds = measure(plan, &machine, &timer)?;
    let picture = Picture {
        title: "Convolution against attention",
        subtitle: format!("{}, {}", plan.setup.device, plan.setting),
        what: "time of a call",
        unit: " ms",
        value: |_, result| 1e3 * result.seconds,
        names: SeriesLabelPosition::UpperLeft,
    };
    report(&plan.setup, &rounds, ("operator", &table::COLUMNS), &table::notes(&rounds), &picture)
}

fn measure(plan: &Plan, machine: &Machine, timer: &Timer) -> lightspan::Result<Vec<Round>> {
    let Plan { setup, setting, .. } = plan;
    let parameters = Parameters::new(setting, &setup.device)?;
    let embedding = Embedding::new(setting.channels);
    let progress = progress(setup.lengths.len() * Operator::ALL.len());
    let mut rounds = Vec::with_capacity(setup.lengths.len());
    for &length in &setup.lengths {
        let x = embedding.embed(&setup.text.bytes, setting.batch, length);
        let track = || Track::new(setting, &parameters, &x, length, &setup.device);
        let tracks = (0..plan.tracks(length)).map(|_| track()).collect::<Result<Vec<_>, _>>()?;
        let mut round = Round { length, batch: setting.batch, results: Vec::new() };
        for operator in Operator::ALL {
            let racer = operator.racer();
            progress.set_message(format!("{}, {length} tokens", racer.name));
            let entry = match plan.skips(operator, length) {
                Some(reason) => Err(reason),
                None => enter(operator, &tracks, machine, timer)?,
            };
            round.results.push((racer, entry));
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
