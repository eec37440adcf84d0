//! Whole encoders: the picture of Tay et al. 2021, speed against length.
//!
//! The bytes of the text are the tokens of encoders of one shape: four of convolutions and the Transformer's. Each is timed at
//! every length and held to its layers in f64.
//!
//! What is timed is one pass forward, from ids to what the last norm gives, on tensors: what the layers allocate is in the time.
//! One model is there at a time. Of a large one the weights alone are more than any cache; those of a tiny one are not.

mod check;
mod cost;
mod encoder;
mod plan;
mod table;

use std::error::Error;

use lightspan::models::{LoadOptions, Seq2Seq, Weights};
use lightspan::{Error as Fault, Result, Sequences, Tokens};
use plotters::prelude::SeriesLabelPosition;

use crate::machine::Machine;
use crate::picture::Picture;
use crate::round::{Entry, Measurement, Round};
use crate::terminal::progress;
use crate::timing::Timer;
use crate::{Raced, begin, report};
use cost::Call;
use encoder::Kind;
pub(crate) use plan::Plan;

/// What the weights are drawn from.
const SEED: u64 = 1;

/// The whole race; whether every encoder was right.
pub(crate) fn run(plan: &Plan) -> Raced {
    let (machine, timer) = begin(&plan.setup, &plan.setting.to_string())?;
    let (rounds, parameters) = measure(plan, &machine, &timer)?;
    let picture = Picture {
        title: "Encoders of convolutions, and the Transformer's",
        subtitle: format!("{}, {}", plan.setup.device, plan.setting),
        what: "sequences a second",
        unit: "",
        value: table::sequences_per_second,
        names: SeriesLabelPosition::LowerLeft,
    };
    let notes = table::notes(&rounds, &parameters);
    report(&plan.setup, &rounds, ("encoder", &table::COLUMNS), &notes, &picture)
}

/// All encoders at all lengths, and how many parameters they have.
fn measure(
    plan: &Plan,
    machine: &Machine,
    timer: &Timer,
) -> Result<(Vec<Round>, Vec<usize>), Box<dyn Error>> {
    let Plan { setup, setting } = plan;
    let round = |&length: &usize| Round { length, batch: setting.batch, results: Vec::new() };
    let mut rounds: Vec<Round> = setup.lengths.iter().map(round).collect();
    let mut parameters = Vec::new();
    let progress = progress(setup.lengths.len() * Kind::ALL.len());
    for kind in Kind::ALL {
        let (racer, config) = (kind.racer(), kind.config(setting, plan.longest()));
        parameters.push(config.parameters()?);
        progress.set_message(format!("{}, drawing its weights", racer.name));
        let options = LoadOptions { dtype: Some(setting.dtype), ..Default::default() };
        let drawn = config.seq2seq(&Weights::drawn(SEED, &setup.device, options));
        let checked = drawn.and_then(|model| {
            progress.set_message(format!("{}, against the reference", racer.name));
            let error = check::largest_error(&model, &ids(plan, setup.lengths[0]), &setup.device)?;
            Ok((model, error))
        });
        let checked = possible(checked)?;
        for round in &mut rounds {
            progress.set_message(format!("{}, {} tokens", racer.name, round.length));
            let entry = match &checked {
                Ok((model, error)) => enter(plan, (model, *error), round.length, machine, timer)?,
                Err(reason) => Err(reason.clone()),
            };
            round.results.push((racer, entry));
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok((rounds, parameters))
}

/// Times one encoder, which has an error, at one length.
fn enter(
    plan: &Plan,
    (model, error): (&Seq2Seq, f64),
    length: usize,
    machine: &Machine,
    timer: &Timer,
) -> Result<Entry> {
    let Plan { setup, setting } = plan;
    let sequences = Sequences::batch(setting.batch, length)?;
    let call = Call { sequences: sequences.shape(), dtype: setting.dtype };
    let work = [vec![call.embeddings(&model.source)?], call.encoder(&model.encoder)?].concat();
    let floor = work.iter().map(|work| machine.floor(work.flops, work.bytes)).sum();
    let timed = || {
        let ids = ids(plan, setting.batch * length);
        let tokens = Tokens::from_slice(&ids, &[setting.batch, length], &setup.device)?;
        let mut y = None;
        let timing = timer.time(|| {
            y = Some(model.encode(&tokens, &sequences)?);
            Ok(())
        })?;
        let finite = y.as_ref().map_or(Ok(false), check::is_finite)?;
        Ok((timing.median(), if finite { error } else { f64::INFINITY }))
    };
    let entry = possible(timed())?;
    Ok(entry.map(|(seconds, error)| Measurement { seconds, floor, error }))
}

/// The first bytes of the text, from its beginning again where it ends.
fn ids(plan: &Plan, count: usize) -> Vec<u32> {
    plan.setup.text.bytes.iter().cycle().take(count).map(|&byte| u32::from(byte)).collect()
}

/// What needs more than the device has does not run.
fn possible<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Err(error @ (Fault::Limit { .. } | Fault::OutOfMemory { .. })) => Ok(Err(error.to_string())),
        result => result.map(Ok),
    }
}

#[cfg(test)]
mod tests;
