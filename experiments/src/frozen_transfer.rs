//! Do the layers of a language model compute something that other tasks can use as it is (Lu et al. 2021)? Backbones of each kind
//! learn to go on with a text; then most of them is frozen, and the rest learns tasks that have nothing to do with language: against
//! the same with layers that never learned, and against models that are trained as a whole. Every arm has the learning rate that is
//! best for it, as one rate for all has misled (Rothermel et al. 2021).

mod tasks;

use std::fmt;

use anyhow::{Result, ensure};
use candle_core::{Device, Module, Tensor};
use candle_nn::{Linear, VarBuilder, loss};
use clap::{Args, ValueEnum};
use lightspan_candle::Sequences;

pub use tasks::Task;
use tasks::{BITS, Batch, Problems, Purpose};

use crate::data::text::Text;
use crate::model::{Embedding, Kind, Role, Size, Sizes, Stack, linear};
use crate::options::{Common, count, distinct, rate};
use crate::picture::{Line, Panel, Picture};
use crate::report::Report;
use crate::table::{percent, table};
use crate::training::{Curve, Plan, Record, Variables};

/// Tokens of a stretch of text, which no task has more of: all positions are learned. And stretches in a batch.
const LENGTH: usize = 64;
const STRETCHES: usize = 16;

/// Which backbones, which tasks, and what learns.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Seeds, device and folder.
    #[command(flatten)]
    pub common: Common,
    /// What mixes the tokens
    #[arg(long, value_delimiter = ',', default_value = "transformer,light,dynamic,lstm")]
    pub kinds: Vec<Kind>,
    /// What is learned after the text
    #[arg(long, value_delimiter = ',', default_value = "memory,xor,digits")]
    pub tasks: Vec<Task>,
    /// What still learns where layers are frozen: this and all that stand before it
    #[arg(long, default_value = "positions")]
    pub tune: Part,
    /// Learning rates that are tried for each arm, with the first seed
    #[arg(long, value_delimiter = ',', default_value = "3e-3,1e-2,3e-2", value_parser = rate)]
    pub rates: Vec<f64>,
    /// Channels, heads and layers.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Taps of the convolutions
    #[arg(long, default_value_t = 15, value_parser = count(4096))]
    pub width: usize,
    /// Bits of each of the five strings of the memory task: 50 to a token, up to 500. Convolutions see width - 1 tokens to the left in
    /// each layer, and strings may be six times their tokens away
    #[arg(long, default_value_t = 100, value_parser = count(500))]
    pub bits: usize,
    /// Steps of learning the text
    #[arg(long, default_value_t = 1000, value_parser = count(1000000000))]
    pub text_steps: usize,
    /// Steps of learning a task
    #[arg(long, default_value_t = 400, value_parser = count(1000000000))]
    pub steps: usize,
    /// Problems in a batch
    #[arg(long, default_value_t = 16, value_parser = count(65536))]
    pub batch: usize,
}

/// The parts of a model, in the order in which they are let learn (Lu et al. 2021, section 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// The linear layer behind all others.
    Output,
    /// Weights and biases of the norms.
    Norms,
    /// The linear layer before all others.
    Input,
    /// Positions.
    Positions,
    /// Feed-forward parts.
    Ffn,
    /// What mixes the tokens.
    Mixer,
}

impl Part {
    /// The part that a variable belongs to.
    pub fn of(name: &str) -> Self {
        match name {
            name if name.starts_with("output.") => Part::Output,
            name if name.contains("norm.") => Part::Norms,
            name if name.starts_with("input.") => Part::Input,
            name if name.starts_with("positions.") => Part::Positions,
            name if name.contains(".ffn.") => Part::Ffn,
            _ => Part::Mixer,
        }
    }
}

/// What a task begins with, and what of it learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// Layers that learned a text, frozen.
    Pretrained,
    /// Layers that learned nothing, frozen.
    Random,
    /// All of it learns, from nothing.
    Full,
}

impl Arm {
    /// In the order of the table.
    pub const ALL: [Arm; 3] = [Arm::Pretrained, Arm::Random, Arm::Full];
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arm::Pretrained => "frozen, pre-trained",
            Arm::Random => "frozen, random",
            Arm::Full => "fully trained",
        })
    }
}

/// What came of one backbone, task and arm, at the rate that was best.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What mixes the tokens.
    pub kind: Kind,
    /// What was learned.
    pub task: Task,
    /// What learned it.
    pub arm: Arm,
    /// The learning rate.
    pub rate: f64,
    /// Numbers that learned, and all.
    pub numbers: [usize; 2],
    /// Accuracy of what chose the rate, for each seed.
    pub curves: Vec<Curve>,
    /// Accuracy of what chose nothing, for each seed.
    pub accuracies: Vec<f64>,
}

impl Options {
    fn check(&self) -> Result<Size> {
        distinct("--kinds", &self.kinds)?;
        distinct("--tasks", &self.tasks)?;
        distinct("--rates", &self.rates)?;
        ensure!(self.bits.is_multiple_of(BITS), "{} bits are no {BITS}s: --bits", self.bits);
        self.sizes.with_width(self.width)
    }
}

/// Runs all of it.
///
/// # Errors
///
/// For options that are none, as [`Record::train`], and where what is frozen has changed.
pub fn run(options: &Options) -> Result<(Vec<Outcome>, Report)> {
    let size = options.check()?;
    let device = options.common.device()?;
    let problems: Vec<Problems> = (options.tasks.iter())
        .map(|&task| Problems::new(task, options.batch, options.bits, &device))
        .collect::<Result<_>>()?;
    let arms = options.kinds.len() * options.tasks.len() * Arm::ALL.len();
    let seeds = options.common.seeds as usize;
    let runs = options.kinds.len() * seeds + arms * (options.rates.len() + seeds - 1);
    let record = Record::open("frozen_transfer", &options.common, runs)?;
    let bench = Bench { options, size, device: &device, record: &record };

    let of_kind = |&kind| options.common.seeds().map(move |seed| (kind, seed));
    let texts: Vec<(Kind, u64)> = options.kinds.iter().flat_map(of_kind).collect();
    let text = Text::load()?;
    let backbones = record.each(&texts, |&(kind, seed)| bench.learn_text(kind, seed, &text))?;
    let backbone = |kind, seed| texts.iter().position(|text| *text == (kind, seed)).map(|i| &backbones[i]);

    let mut arms = Vec::new();
    for &kind in &options.kinds {
        for (&task, problems) in options.tasks.iter().zip(&problems) {
            arms.extend(Arm::ALL.map(|arm| (kind, task, problems, arm)));
        }
    }
    let outcomes = record.each(&arms, |&(kind, task, problems, arm)| {
        let learn = |seed, rate| {
            let run = TaskRun { bench: &bench, kind, task, problems, arm, seed };
            run.learn(backbone(kind, seed), rate)
        };
        let mut tried = Vec::new();
        for &rate in &options.rates {
            tried.push((rate, learn(options.common.seed, rate)?));
        }
        // What diverged has no score, and is the worst.
        let better = |(_, a): &(f64, Learned), (_, b): &(f64, Learned)| {
            let score = |learned: &Learned| Some(learned.curve.score()).filter(|score| score.is_finite());
            score(a).partial_cmp(&score(b)).unwrap_or(std::cmp::Ordering::Equal)
        };
        let best = tried.into_iter().max_by(better);
        let Some((rate, first)) = best else { anyhow::bail!("no learning rates: --rates") };
        let numbers = first.numbers;
        let mut learned = vec![first];
        for seed in options.common.seeds().skip(1) {
            learned.push(learn(seed, rate)?);
        }
        let (curves, accuracies) =
            learned.into_iter().map(|learned| (learned.curve, learned.accuracy)).unzip();
        Ok(Outcome { kind, task, arm, rate, numbers, curves, accuracies })
    })?;
    let report = report(options, &outcomes)?;
    report.write(&record)?;
    Ok((outcomes, report))
}

/// What all runs have.
struct Bench<'a> {
    options: &'a Options,
    size: Size,
    device: &'a Device,
    record: &'a Record,
}

impl Bench<'_> {
    fn plan(&self, name: &str, steps: usize, rate: f64) -> Plan {
        let Options { common, batch, bits, tune, text_steps, .. } = self.options;
        let settings =
            format!("{:?}, {batch}, {bits}, {tune:?}, {text_steps}, {}", self.size, common.place());
        Plan::new(name, settings, steps, rate)
    }

    /// A backbone that goes on with a text.
    fn learn_text(&self, kind: Kind, seed: u64, text: &Text) -> Result<Variables> {
        let variables = Variables::new(seed, self.device);
        let (size, vb) = (self.size, variables.builder());
        let embedding = Embedding::new(text.vocabulary(), LENGTH, size.channels, &vb)?;
        let stack = Stack::new(kind, &size, Role::Causal, &vb)?;
        let sequences = Sequences::batch(STRETCHES, LENGTH)?;
        let loss_of = |step: usize, held_out: bool| -> candle_core::Result<Tensor> {
            let (from, seed, purpose) =
                if held_out { (&text.held_out, 0, "judged text") } else { (&text.training, seed, "text") };
            let tokens: Vec<u32> = (0..STRETCHES)
                .flat_map(|i| text.stretch(from, LENGTH + 1, seed, purpose, step * STRETCHES + i))
                .collect();
            let tokens = Tensor::from_vec(tokens, (STRETCHES, LENGTH + 1), self.device)?;
            let x = embedding.forward(&tokens.narrow(1, 0, LENGTH)?.contiguous()?)?;
            let y = stack.forward(&x, &sequences, None, !held_out)?;
            let expected = tokens.narrow(1, 1, LENGTH)?.contiguous()?.flatten_all()?;
            loss::cross_entropy(&embedding.logits(&y.flatten(0, 1)?)?, &expected)
        };
        let plan = self.plan(&format!("{}-{seed}-text", kind.name()), self.options.text_steps, 3e-3);
        self.record.train(
            &plan,
            &variables,
            |step| loss_of(step, false),
            || Ok(f64::from(loss_of(0, true)?.to_scalar::<f32>()?)),
        )?;
        Ok(variables)
    }
}

/// A backbone between two linear layers.
struct Model {
    input: Linear,
    positions: Tensor,
    stack: Stack,
    output: Linear,
}

impl Model {
    fn new(
        bench: &Bench<'_>,
        kind: Kind,
        problems: &Problems,
        vb: &VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        let size = bench.size;
        let init = candle_nn::Init::Randn { mean: 0.0, stdev: (size.channels as f64).powf(-0.5) };
        Ok(Model {
            input: linear(problems.inputs(), size.channels, vb.pp("input"))?,
            positions: vb.get_with_hints((LENGTH, size.channels), "positions.weight", init)?,
            stack: Stack::new(kind, &size, Role::Causal, vb)?,
            output: linear(size.channels, problems.outputs(), vb.pp("output"))?,
        })
    }

    /// Logits `[batch, answers, outputs]` of the last tokens.
    fn forward(&self, inputs: &Tensor, answers: usize, train: bool) -> candle_core::Result<Tensor> {
        let (batch, time, _) = inputs.dims3()?;
        let sequences = Sequences::batch(batch, time).map_err(candle_core::Error::wrap)?;
        let scale = (self.positions.dim(1)? as f64).sqrt();
        let positions = self.positions.narrow(0, 0, time)?.affine(scale, 0.0)?;
        let x = self.input.forward(inputs)?.broadcast_add(&positions)?;
        let y = self.stack.forward(&x, &sequences, None, train)?;
        self.output.forward(&y.narrow(1, time - answers, answers)?.contiguous()?)
    }
}

/// One task of one arm and one seed.
struct TaskRun<'a> {
    bench: &'a Bench<'a>,
    kind: Kind,
    task: Task,
    problems: &'a Problems,
    arm: Arm,
    seed: u64,
}

/// What came of it.
struct Learned {
    numbers: [usize; 2],
    curve: Curve,
    accuracy: f64,
}

impl TaskRun<'_> {
    fn learn(&self, backbone: Option<&Variables>, rate: f64) -> Result<Learned> {
        let TaskRun { bench, problems, .. } = *self;
        let variables = match (self.arm, backbone) {
            (Arm::Pretrained, Some(backbone)) => backbone.copied(self.seed)?.without("embedding."),
            (Arm::Pretrained, None) => {
                anyhow::bail!("{} has learned no text with seed {}", self.kind.name(), self.seed)
            }
            (Arm::Random | Arm::Full, _) => Variables::new(self.seed, bench.device),
        };
        let build = || Model::new(bench, self.kind, problems, &variables.builder());
        build()?;
        if self.arm != Arm::Full {
            variables.freeze(|name| Part::of(name) > bench.options.tune);
        }
        let before = variables.frozen_bits()?;
        let model = build()?;
        let (choice, test) =
            (problems.batch(self.seed, Purpose::Choice)?, problems.batch(self.seed, Purpose::Test)?);
        let accuracy = |Batch { inputs, expected }: &Batch| {
            problems.accuracy(&model.forward(inputs, problems.answers(), false)?, expected)
        };
        let name = format!("{}-{}-{}-{rate:e}-{}", self.kind.name(), self.task.name(), self.arm, self.seed);
        let plan = bench.plan(&name, bench.options.steps, rate);
        let loss = |step| {
            let Batch { inputs, expected } = problems.batch(self.seed, Purpose::Step(step))?;
            problems.loss(&model.forward(&inputs, problems.answers(), true)?, &expected)
        };
        let curve = bench.record.train(&plan, &variables, loss, || accuracy(&choice))?;
        let after = variables.frozen_bits()?;
        for (name, bits) in &before {
            ensure!(after.get(name) == Some(bits), "{name} was frozen and has changed, in {}", plan.name);
        }
        let accuracy = if curve.score().is_finite() { accuracy(&test)? } else { f64::NAN };
        let learning = variables.trained().values().map(|var| var.elem_count()).sum();
        Ok(Learned { numbers: [learning, variables.count()], curve, accuracy })
    }
}

fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let rows = outcomes.chunks(Arm::ALL.len()).flat_map(|of_task| {
        of_task.iter().map(|outcome| {
            let [learning, all] = outcome.numbers;
            vec![
                outcome.task.name().to_owned(),
                outcome.kind.name().to_owned(),
                outcome.arm.to_string(),
                format!("{learning} of {all}"),
                format!("{:e}", outcome.rate),
                percent(&outcome.accuracies),
            ]
        })
    });
    let mut rows: Vec<Vec<String>> = rows.collect();
    // By task first, and else as they come.
    let place = |row: &Vec<String>| options.tasks.iter().position(|task| task.name() == row[0]);
    rows.sort_by_key(place);
    let head = ["task", "backbone", "arm", "numbers that learn", "best rate", "accuracy, %"];
    let panel = |&task: &Task| Panel {
        x: "steps",
        y: task.name(),
        lines: outcomes
            .iter()
            .filter(|outcome| outcome.task == task && outcome.arm == Arm::Pretrained)
            .flat_map(|outcome| outcome.curves.iter().map(|curve| Line::of(outcome.kind.name(), curve)))
            .collect(),
        mark: None,
    };
    let title = "Accuracy of frozen layers that learned a text".to_owned();
    let panels = options.tasks.iter().map(panel).collect();
    Ok(Report { table: table(&head, rows).to_string(), picture: Picture { title, panels }.svg()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_has_its_part() {
        let of = [
            ("output.weight", Part::Output),
            ("layers.0.mixer_norm.bias", Part::Norms),
            ("norm.weight", Part::Norms),
            ("input.bias", Part::Input),
            ("positions.weight", Part::Positions),
            ("layers.1.ffn.fc1.weight", Part::Ffn),
            ("layers.0.mixer.output.weight", Part::Mixer),
            ("layers.0.mixer.conv.weight", Part::Mixer),
        ];
        for (name, part) in of {
            assert_eq!(Part::of(name), part, "{name}");
        }
    }
}
