//! Where convolutions fail (Tay et al. 2021, section 6.1): to compare two sequences that stand one behind the other, farther apart than a
//! token sees. Two strings of symbols are joined; of each symbol of the second it is to be told whether it is the one that stands in
//! its place in the first. Half of them are.

use anyhow::{Result, ensure};
use candle_core::{D, Device, Module, Tensor};
use candle_nn::{Linear, VarBuilder};
use clap::Args;
use lightspan_candle::Sequences;
use rand::RngExt;

use crate::model::{Embedding, Kind, Mixer, Role, Size, Sizes, Stack, binary_cross_entropy, linear};
use crate::options::{Common, count, distinct, rate};
use crate::picture::{Line, Panel, Picture};
use crate::random::random;
use crate::report::Report;
use crate::table::{percent, table};
use crate::training::{Curve, Plan, Record, Variables};

/// Pairs of strings that a run is judged by.
const JUDGED: usize = 256;

/// Which models, how far apart, and how long they learn.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Seeds, device and folder.
    #[command(flatten)]
    pub common: Common,
    /// Symbols of a string: so far apart, and one more, are those that are compared
    #[arg(long, value_delimiter = ',', default_value = "3,6,10,16,32", value_parser = count(1024))]
    pub lengths: Vec<usize>,
    /// Symbols that strings are made of
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub symbols: u32,
    /// Channels, heads and layers.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Taps of the convolutions
    #[arg(long, default_value_t = 15, value_parser = count(4096))]
    pub width: usize,
    /// Pairs of strings in a batch
    #[arg(long, default_value_t = 32, value_parser = count(65536))]
    pub batch: usize,
    /// Steps of training
    #[arg(long, default_value_t = 400, value_parser = count(1000000000))]
    pub steps: usize,
    /// Learning rate
    #[arg(long, default_value_t = 3e-3, value_parser = rate)]
    pub rate: f64,
}

/// What mixes the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    /// All layers, or all but the last.
    pub kind: Kind,
    /// Whether the last layer attends.
    pub attends_last: bool,
}

impl Arm {
    /// Convolutions alone, with one layer of attention, and attention alone.
    pub const ALL: [Arm; 5] = [
        Arm { kind: Kind::Light, attends_last: false },
        Arm { kind: Kind::Dynamic, attends_last: false },
        Arm { kind: Kind::Light, attends_last: true },
        Arm { kind: Kind::Dynamic, attends_last: true },
        Arm { kind: Kind::Transformer, attends_last: true },
    ];

    /// What it is called.
    pub fn name(self) -> String {
        match self {
            Arm { kind: Kind::Transformer, .. } => self.kind.name().to_owned(),
            Arm { attends_last: true, .. } => format!("{}, attention last", self.kind.name()),
            Arm { attends_last: false, .. } => format!("{} alone", self.kind.name()),
        }
    }
}

/// What came of one arm at one length, for one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What mixes the tokens.
    pub arm: Arm,
    /// Symbols of a string.
    pub length: usize,
    /// Accuracy.
    pub curve: Curve,
}

impl Options {
    fn check(&self) -> Result<Size> {
        distinct("--lengths", &self.lengths)?;
        ensure!(self.sizes.layers > 1, "one layer cannot both convolve and attend: --layers");
        self.sizes.with_width(self.width)
    }

    /// How many tokens to the left convolutions see through all layers.
    pub fn reach(&self) -> usize {
        self.sizes.layers * ((self.width - 1) / 2)
    }
}

/// Runs all of it.
///
/// # Errors
///
/// For options that are none, and as [`Record::train`].
pub fn run(options: &Options) -> Result<(Vec<Outcome>, Report)> {
    let size = options.check()?;
    let device = options.common.device()?;
    let seeds = || options.common.seeds();
    let of_length = |arm, &length: &usize| seeds().map(move |seed| (arm, length, seed));
    let runs: Vec<(Arm, usize, u64)> = Arm::ALL
        .into_iter()
        .flat_map(|arm| options.lengths.iter().flat_map(move |length| of_length(arm, length)))
        .collect();
    let record = Record::open("cross_sequence", &options.common, runs.len())?;
    let outcomes = record.each(&runs, |&(arm, length, seed)| {
        let curve = Run { options, size, arm, length, seed, device: &device }.train(&record)?;
        Ok(Outcome { arm, length, curve })
    })?;
    let report = report(options, &outcomes)?;
    report.write(&record)?;
    Ok((outcomes, report))
}

struct Model {
    embedding: Embedding,
    stack: Stack,
    same: Linear,
}

impl Model {
    fn new(run: &Run<'_>, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let Run { options, size, arm, length, .. } = *run;
        let mixer = |i, vb| {
            let kind = if arm.attends_last && i + 1 == size.layers { Kind::Transformer } else { arm.kind };
            Mixer::new(kind, &size, Role::Encoder, i, vb)
        };
        Ok(Model {
            embedding: Embedding::new(options.symbols as usize + 1, 2 * length + 1, size.channels, vb)?,
            stack: Stack::of(&size, Role::Encoder, vb, mixer)?,
            same: linear(size.channels, 1, vb.pp("same"))?,
        })
    }

    /// Logits `[batch, length]` of the second string's symbols.
    fn forward(&self, pairs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let (batch, time) = pairs.dims2()?;
        let sequences = Sequences::batch(batch, time).map_err(candle_core::Error::wrap)?;
        let y = self.stack.forward(&self.embedding.forward(pairs)?, &sequences, None, train)?;
        let length = time / 2;
        self.same.forward(&y.narrow(1, length + 1, length)?.contiguous()?)?.squeeze(D::Minus1)
    }
}

struct Run<'a> {
    options: &'a Options,
    size: Size,
    arm: Arm,
    length: usize,
    seed: u64,
    device: &'a Device,
}

impl Run<'_> {
    fn train(&self, record: &Record) -> Result<Curve> {
        let variables = Variables::new(self.seed, self.device);
        let model = Model::new(self, &variables.builder())?;
        let Options { ref common, symbols, steps, batch, rate, .. } = *self.options;
        let name = format!("{}-{}-{}", self.arm.name(), self.length, self.seed);
        let settings = format!("{:?}, {batch}, {symbols}, {}", self.size, common.place());
        let plan = Plan::new(&name, settings, steps, rate);
        let (judged, expected) = self.pairs("judged", 0, JUDGED)?;
        record.train(
            &plan,
            &variables,
            |step| {
                let (pairs, expected) = self.pairs("batch", step, batch)?;
                binary_cross_entropy(&model.forward(&pairs, true)?, &expected)
            },
            || {
                let said = model.forward(&judged, false)?.ge(0f64)?;
                let right = said.eq(&expected.to_dtype(said.dtype())?)?.to_dtype(candle_core::DType::F32)?;
                Ok(f64::from(right.mean_all()?.to_scalar::<f32>()?))
            },
        )
    }

    /// Pairs `[count, 2 length + 1]`, and for each symbol of the second 1 where it is that of the first.
    fn pairs(&self, purpose: &str, step: usize, count: usize) -> candle_core::Result<(Tensor, Tensor)> {
        // One token more stands between the strings.
        let symbols = self.options.symbols;
        let mut random = random(self.seed, purpose, step);
        let (mut tokens, mut same) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let first: Vec<u32> = (0..self.length).map(|_| random.random_range(0..symbols)).collect();
            tokens.extend(&first);
            tokens.push(symbols);
            for symbol in first {
                let is_same: bool = random.random();
                let other = (symbol + random.random_range(1..symbols)) % symbols;
                tokens.push(if is_same { symbol } else { other });
                same.push(f32::from(u8::from(is_same)));
            }
        }
        let tokens = Tensor::from_vec(tokens, (count, 2 * self.length + 1), self.device)?;
        Ok((tokens, Tensor::from_vec(same, (count, self.length), self.device)?))
    }
}

fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let accuracies = |arm: Arm, length: usize| -> Vec<f64> {
        let chosen = outcomes.iter().filter(|outcome| outcome.arm == arm && outcome.length == length);
        chosen.map(|outcome| outcome.curve.score()).collect()
    };
    let rows = Arm::ALL.map(|arm| {
        let cells = options.lengths.iter().map(|&length| percent(&accuracies(arm, length)));
        std::iter::once(arm.name()).chain(cells).collect()
    });
    let heads: Vec<String> = options.lengths.iter().map(|length| format!("{} apart", length + 1)).collect();
    let head: Vec<&str> = std::iter::once("accuracy, %").chain(heads.iter().map(String::as_str)).collect();
    let mean = |numbers: Vec<f64>| numbers.iter().sum::<f64>() / numbers.len() as f64;
    let by_distance = Arm::ALL.map(|arm| Line {
        name: arm.name(),
        points: options
            .lengths
            .iter()
            .map(|&length| (length as f64 + 1.0, mean(accuracies(arm, length))))
            .collect(),
    });
    let farthest = options.lengths.iter().max().copied();
    let of_farthest = outcomes.iter().filter(|outcome| Some(outcome.length) == farthest);
    let panels = vec![
        Panel {
            x: "tokens apart; dashed: as far as convolutions see",
            y: "accuracy",
            lines: by_distance.into(),
            mark: Some(options.reach() as f64),
        },
        Panel {
            x: "steps, of the longest strings",
            y: "accuracy",
            lines: of_farthest.map(|outcome| Line::of(&outcome.arm.name(), &outcome.curve)).collect(),
            mark: None,
        },
    ];
    let title = "Are the symbols of two strings the same?".to_owned();
    Ok(Report { table: table(&head, rows).to_string(), picture: Picture { title, panels }.svg()? })
}
