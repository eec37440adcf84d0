//! Are pre-trained convolutions as good as pre-trained Transformers (Tay et al. 2021, table 1)? Encoder-decoders of each kind learn to
//! fill in spans of a text; then, with and without that, to tell what definitions are of.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_nn::loss;
use clap::Args;
use lightspan_candle::Sequences;
use rand::RngExt;

use crate::data::span_corruption::{Corrupted, Counts, corrupt};
use crate::data::text::{Definition, SENTINELS, Text};
use crate::model::{Kind, Seq2Seq, Size};
use crate::options::Common;
use crate::picture::{Line, Panel, Picture};
use crate::random::random;
use crate::report::Report;
use crate::table::{percent, table};
use crate::training::{Curve, Plan, Rate, Record, Variables};

/// Tokens of a definition that models see: two in a hundred are longer.
const LONGEST: usize = 64;
/// Points of each curve.
const POINTS: usize = 10;
/// Definitions and stretches of text that are judged at once.
const JUDGED_AT_ONCE: usize = 64;

/// Which models, how large, and how long they learn.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Seeds, device and folder.
    #[command(flatten)]
    pub common: Common,
    /// What mixes the tokens
    #[arg(long, value_delimiter = ',', default_value = "transformer,light,dilated,dynamic")]
    pub kinds: Vec<Kind>,
    /// Channels of a token
    #[arg(long, default_value_t = 64)]
    pub channels: usize,
    /// Heads of attention, light and dynamic convolution
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Layers of the encoder, and of the decoder
    #[arg(long, default_value_t = 2)]
    pub layers: usize,
    /// Taps of the convolutions
    #[arg(long, default_value_t = 7)]
    pub width: usize,
    /// Tokens of a stretch of text before it is corrupted
    #[arg(long, default_value_t = 64)]
    pub length: usize,
    /// Stretches in a batch
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Steps of pre-training
    #[arg(long, default_value_t = 3000)]
    pub steps: usize,
    /// Learning rate of pre-training
    #[arg(long, default_value_t = 3e-3)]
    pub rate: f64,
    /// Definitions whose category is told
    #[arg(long, default_value_t = 800)]
    pub labelled: usize,
    /// Steps of learning categories, of 32 definitions each
    #[arg(long, default_value_t = 300)]
    pub tuning_steps: usize,
    /// Learning rate of learning categories
    #[arg(long, default_value_t = 1e-3)]
    pub tuning_rate: f64,
    /// Definitions that are held out and judged
    #[arg(long, default_value_t = 800)]
    pub judged: usize,
}

/// What came of one kind and one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What mixes the tokens.
    pub kind: Kind,
    /// The seed.
    pub seed: u64,
    /// Numbers of the model.
    pub parameters: usize,
    /// Pre-training, with the loss of text that is held out.
    pub pretraining: Curve,
    /// Accuracy with pre-training, and without.
    pub tuning: [Curve; 2],
}

/// Definitions that go in together.
const TUNING_BATCH: usize = 32;

impl Options {
    fn check(&self, text: &Text) -> Result<()> {
        ensure!(self.length >= 2, "a stretch of {} tokens has nothing to take out: --length", self.length);
        let spans = Counts::of(self.length).spans;
        ensure!(
            spans <= SENTINELS as usize,
            "{spans} spans of --length {}: there are {SENTINELS} sentinels",
            self.length
        );
        ensure!(
            (1..=text.training.len()).contains(&self.labelled),
            "--labelled {}: there are {} definitions",
            self.labelled,
            text.training.len()
        );
        ensure!(
            (1..=text.held_out.len()).contains(&self.judged),
            "--judged {}: {} definitions are held out",
            self.judged,
            text.held_out.len()
        );
        ensure!(
            !self.kinds.contains(&Kind::Lstm),
            "an LSTM reads in one direction, and is no encoder: --kinds"
        );
        ensure!(self.steps > 0 && self.tuning_steps > 0 && self.batch > 0, "no steps, or nothing in a batch");
        ensure!(
            self.heads > 0 && self.channels.is_multiple_of(self.heads),
            "{} heads do not divide {} channels",
            self.heads,
            self.channels
        );
        Ok(())
    }

    fn size(&self) -> Size {
        let Options { channels, heads, layers, width, .. } = *self;
        Size { channels, heads, ffn: 4 * channels, layers, width }
    }
}

/// Runs all of it.
///
/// # Errors
///
/// For options that are none, and as [`Record::train`].
pub fn run(options: &Options) -> Result<(Vec<Outcome>, Report)> {
    let text = Text::load()?;
    options.check(&text)?;
    let device = options.common.device()?;
    let of_kind = |&kind| options.common.seeds().map(move |seed| (kind, seed));
    let arms: Vec<(Kind, u64)> = options.kinds.iter().flat_map(of_kind).collect();
    let record = Record::open("pretrain", &options.common, 3 * arms.len())?;
    let outcomes = record.each(&arms, |&(kind, seed)| {
        Run { options, text: &text, kind, seed, device: &device }.outcome(&record)
    })?;
    let report = report(options, &outcomes)?;
    report.write(&record)?;
    Ok((outcomes, report))
}

/// One kind and one seed.
struct Run<'a> {
    options: &'a Options,
    text: &'a Text,
    kind: Kind,
    seed: u64,
    device: &'a Device,
}

impl Run<'_> {
    fn outcome(&self, record: &Record) -> Result<Outcome> {
        let pretrained = Variables::new(self.seed, self.device);
        let pretraining = self.pretrain(record, &pretrained)?;
        let scratch = Variables::new(self.seed, self.device);
        let tuning = [
            self.tune(record, "tuned", &pretrained.copied(self.seed)?)?,
            self.tune(record, "from-scratch", &scratch)?,
        ];
        Ok(Outcome { kind: self.kind, seed: self.seed, parameters: pretrained.count(), pretraining, tuning })
    }

    fn model(&self, variables: &Variables) -> candle_core::Result<Seq2Seq> {
        let positions = LONGEST.max(Counts::of(self.options.length).inputs());
        Seq2Seq::new(self.kind, &self.options.size(), self.text.vocabulary(), positions, &variables.builder())
    }

    fn plan(&self, phase: &str, steps: usize, rate: f64) -> Plan {
        let Options { length, batch, labelled, judged, .. } = *self.options;
        Plan {
            name: format!("{}-{}-{phase}", self.kind.name().to_lowercase(), self.seed),
            settings: format!("{:?}, {length}, {batch}, {labelled}, {judged}", self.options.size()),
            steps,
            every: steps.div_ceil(POINTS),
            rate,
            schedule: Rate::UpAndDown,
        }
    }

    fn pretrain(&self, record: &Record, variables: &Variables) -> Result<Curve> {
        let model = self.model(variables)?;
        let plan = self.plan("pretraining", self.options.steps, self.options.rate);
        // The same for all seeds and kinds.
        let judged: Vec<Corrupted> =
            (0..2 * JUDGED_AT_ONCE).map(|i| self.stretch(&self.text.held_out, 0, i)).collect();
        let loss_of = |stretches: &[Corrupted], train| self.loss(&model, stretches, train);
        let batch = self.options.batch;
        record.train(
            &plan,
            variables,
            |step| {
                let of_batch = |i| self.stretch(&self.text.training, self.seed, step * batch + i);
                loss_of(&(0..batch).map(of_batch).collect::<Vec<_>>(), true)
            },
            || {
                let mut sum = 0.0;
                for some in judged.chunks(JUDGED_AT_ONCE) {
                    sum += f64::from(loss_of(some, false)?.to_scalar::<f32>()?) * some.len() as f64;
                }
                Ok(sum / judged.len() as f64)
            },
        )
    }

    fn stretch(&self, from: &[Definition], seed: u64, index: usize) -> Corrupted {
        let text = self.text.stretch(from, self.options.length, seed, "stretch", index);
        corrupt(&text, |i| self.text.sentinel(i), self.text.end(), &mut random(seed, "spans", index))
    }

    /// The mean cross entropy of what is to be said.
    fn loss(&self, model: &Seq2Seq, stretches: &[Corrupted], train: bool) -> candle_core::Result<Tensor> {
        let counts = Counts::of(self.options.length);
        let rows = |row: fn(&Corrupted) -> &[u32], width| -> candle_core::Result<Tensor> {
            let tokens: Vec<u32> = stretches.iter().flat_map(row).copied().collect();
            Tensor::from_vec(tokens, (stretches.len(), width), self.device)
        };
        let inputs = rows(|stretch| &stretch.inputs, counts.inputs())?;
        let targets = rows(|stretch| &stretch.targets, counts.targets())?;
        let begin = Tensor::full(self.text.begin(), (stretches.len(), 1), self.device)?;
        let said = Tensor::cat(&[begin, targets.narrow(1, 0, counts.targets() - 1)?], 1)?;
        let sequences =
            Sequences::batch(stretches.len(), counts.inputs()).map_err(candle_core::Error::wrap)?;
        let logits = model.forward(&inputs, &sequences, &said, train)?;
        loss::cross_entropy(&logits, &targets.flatten_all()?)
    }

    fn tune(&self, record: &Record, phase: &str, variables: &Variables) -> Result<Curve> {
        let model = self.model(variables)?;
        let plan = self.plan(phase, self.options.tuning_steps, self.options.tuning_rate);
        let (labelled, judged) =
            (&self.text.training[..self.options.labelled], &self.text.held_out[..self.options.judged]);
        record.train(
            &plan,
            variables,
            |step| {
                let mut random = random(self.seed, "definitions", step);
                let batch: Vec<&Definition> =
                    (0..TUNING_BATCH).map(|_| &labelled[random.random_range(0..labelled.len())]).collect();
                let labels = batch.iter().map(|definition| self.text.category(definition.label)).collect();
                let labels = Tensor::from_vec(labels, batch.len(), self.device)?;
                loss::cross_entropy(&self.categories(&model, &batch, true)?, &labels)
            },
            || {
                let mut right = 0;
                for some in judged.chunks(JUDGED_AT_ONCE) {
                    let some: Vec<&Definition> = some.iter().collect();
                    // Whatever token is likeliest: to say something else is as wrong as another category.
                    let said = self.categories(&model, &some, false)?.argmax(1)?.to_vec1::<u32>()?;
                    let expected = some.iter().map(|definition| self.text.category(definition.label));
                    right +=
                        said.into_iter().zip(expected).filter(|(said, expected)| said == expected).count();
                }
                Ok(right as f64 / judged.len() as f64)
            },
        )
    }

    /// Logits of the first token that is said of each definition.
    fn categories(&self, model: &Seq2Seq, some: &[&Definition], train: bool) -> candle_core::Result<Tensor> {
        let (tokens, lengths) = self.text.padded(some, LONGEST, false);
        let sequences = Sequences::padded(LONGEST, &lengths).map_err(candle_core::Error::wrap)?;
        let source = Tensor::from_vec(tokens, (some.len(), LONGEST), self.device)?;
        let begin = Tensor::full(self.text.begin(), (some.len(), 1), self.device)?;
        model.forward(&source, &sequences, &begin, train)
    }
}

fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let rows = options.kinds.iter().map(|&kind| {
        let of_kind = || outcomes.iter().filter(|outcome| outcome.kind == kind);
        let losses: Vec<f64> = of_kind().map(|outcome| outcome.pretraining.score()).collect();
        let accuracy = |i: usize| of_kind().map(|outcome| outcome.tuning[i].score()).collect::<Vec<_>>();
        let (with, without) = (accuracy(0), accuracy(1));
        let gains: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
        vec![
            kind.name().to_owned(),
            of_kind().next().map_or(0, |outcome| outcome.parameters).to_string(),
            format!("{:.3}", losses.iter().sum::<f64>() / losses.len() as f64),
            percent(&without),
            percent(&with),
            percent(&gains),
        ]
    });
    let head = [
        "encoder-decoder",
        "parameters",
        "loss of held-out spans",
        "accuracy, %, from scratch",
        "pre-trained",
        "gain",
    ];
    let lines = |curve: fn(&Outcome) -> &Curve| {
        outcomes.iter().map(move |outcome| Line::of(outcome.kind.name(), curve(outcome))).collect()
    };
    let panel = |x, y, lines| Panel { x, y, lines, mark: None };
    let panels = vec![
        panel("steps of pre-training", "loss of held-out spans", lines(|outcome| &outcome.pretraining)),
        panel("steps after pre-training", "accuracy", lines(|outcome| &outcome.tuning[0])),
        panel("steps from scratch", "accuracy", lines(|outcome| &outcome.tuning[1])),
    ];
    let title = "Pre-training by spans, then categories of definitions".to_owned();
    Ok(Report { table: table(&head, rows).to_string(), picture: Picture { title, panels }.svg()? })
}
