//! Are pre-trained convolutions as good as pre-trained Transformers (Tay et al. 2021, table 1)? Encoder-decoders of each kind learn to
//! fill in spans of a text; then, with and without that, to tell what definitions are of.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_nn::loss;
use clap::Args;
use lightspan_candle::Sequences;

use crate::categories::{Judge, LONGEST, rows};
use crate::data::span_corruption::{Corrupted, Counts, corrupt};
use crate::data::text::{Definition, SENTINELS, Text};
use crate::model::{Kind, Seq2Seq, Size, Sizes};
use crate::options::{Common, count, distinct};
use crate::picture::Picture;
use crate::pretraining::{Learned, Phase, Pretraining, panels};
use crate::random::random;
use crate::report::Report;
use crate::table::{percent, table};
use crate::training::{Curve, Plan, Record, Variables};

/// Stretches of text that are judged at once.
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
    /// Channels, heads and layers.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Taps of the convolutions
    #[arg(long, default_value_t = 7, value_parser = count(4096))]
    pub width: usize,
    /// Tokens of a stretch of text before it is corrupted
    #[arg(long, default_value_t = 64, value_parser = count(4096))]
    pub length: usize,
    /// How long, and from how much.
    #[command(flatten)]
    pub pretraining: Pretraining,
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
    /// Its curves; that of pre-training has the loss of text that is held out.
    pub learned: Learned,
}

impl Options {
    fn check(&self, text: &Text) -> Result<Size> {
        ensure!(self.length >= 2, "a stretch of {} tokens has nothing to take out: --length", self.length);
        let spans = Counts::of(self.length).spans;
        ensure!(
            spans <= SENTINELS as usize,
            "{spans} spans of --length {}: there are {SENTINELS} sentinels",
            self.length
        );
        ensure!(
            !self.kinds.contains(&Kind::Lstm),
            "an LSTM reads in one direction, and is no encoder: --kinds"
        );
        distinct("--kinds", &self.kinds)?;
        self.pretraining.categories.check(text)?;
        self.sizes.with_width(self.width)
    }
}

/// Runs all of it.
///
/// # Errors
///
/// For options that are none, and as [`Record::train`].
pub fn run(options: &Options) -> Result<(Vec<Outcome>, Report)> {
    let text = Text::load()?;
    let size = options.check(&text)?;
    let device = options.common.device()?;
    let of_kind = |&kind| options.common.seeds().map(move |seed| (kind, seed));
    let arms: Vec<(Kind, u64)> = options.kinds.iter().flat_map(of_kind).collect();
    let record = Record::open("pretrain", &options.common, 3 * arms.len())?;
    let outcomes = record.each(&arms, |&(kind, seed)| {
        Run { options, size, text: &text, kind, seed, device: &device }.outcome(&record)
    })?;
    let report = report(options, &outcomes)?;
    report.write(&record)?;
    Ok((outcomes, report))
}

/// One kind and one seed.
struct Run<'a> {
    options: &'a Options,
    size: Size,
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
            self.tune(record, Phase::Tuned, &pretrained.copied(self.seed)?)?,
            self.tune(record, Phase::FromScratch, &scratch)?,
        ];
        let learned = Learned { pretraining, tuning };
        Ok(Outcome { kind: self.kind, seed: self.seed, parameters: pretrained.count(), learned })
    }

    fn model(&self, variables: &Variables) -> candle_core::Result<Seq2Seq> {
        let positions = LONGEST.max(Counts::of(self.options.length).inputs());
        Seq2Seq::new(self.kind, &self.size, self.text.vocabulary(), positions, &variables.builder())
    }

    fn plan(&self, phase: Phase) -> Plan {
        let Options { common, length, pretraining, .. } = self.options;
        let settings = format!("{:?}, {length}, {}", self.size, common.place());
        pretraining.plan(&format!("{}-{}", self.kind.name(), self.seed), phase, &settings)
    }

    fn pretrain(&self, record: &Record, variables: &Variables) -> Result<Curve> {
        let model = self.model(variables)?;
        let plan = self.plan(Phase::Pretraining);
        // The same for all seeds and kinds.
        let judged: Vec<Corrupted> =
            (0..2 * JUDGED_AT_ONCE).map(|i| self.stretch(&self.text.held_out, (0, "judged"), i)).collect();
        let loss_of = |stretches: &[Corrupted], train| self.loss(&model, stretches, train);
        let batch = self.options.pretraining.batch;
        record.train(
            &plan,
            variables,
            |step| {
                let of_batch =
                    |i| self.stretch(&self.text.training, (self.seed, "trained on"), step * batch + i);
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

    fn stretch(&self, from: &[Definition], (seed, what): (u64, &str), index: usize) -> Corrupted {
        let text = self.text.stretch(from, self.options.length, seed, &format!("text, {what}"), index);
        let mut random = random(seed, &format!("spans, {what}"), index);
        corrupt(&text, |i| self.text.sentinel(i), self.text.end(), &mut random)
    }

    /// The mean cross entropy of what is to be said.
    fn loss(&self, model: &Seq2Seq, stretches: &[Corrupted], train: bool) -> candle_core::Result<Tensor> {
        let counts = Counts::of(self.options.length);
        let inputs = rows(stretches.iter().map(|stretch| &stretch.inputs[..]), counts.inputs(), self.device)?;
        let targets =
            rows(stretches.iter().map(|stretch| &stretch.targets[..]), counts.targets(), self.device)?;
        let begin = Tensor::full(self.text.begin(), (stretches.len(), 1), self.device)?;
        let said = Tensor::cat(&[begin, targets.narrow(1, 0, counts.targets() - 1)?], 1)?;
        let sequences =
            Sequences::batch(stretches.len(), counts.inputs()).map_err(candle_core::Error::wrap)?;
        let logits = model.forward(&inputs, &sequences, &said, train)?;
        loss::cross_entropy(&logits, &targets.flatten_all()?)
    }

    fn tune(&self, record: &Record, phase: Phase, variables: &Variables) -> Result<Curve> {
        let model = Teller { run: self, model: self.model(variables)? };
        let categories = &self.options.pretraining.categories;
        categories.learn(record, &self.plan(phase), variables, (self.text, self.seed), &model)
    }
}

/// A model that tells a category by the first token that it says.
struct Teller<'a> {
    run: &'a Run<'a>,
    model: Seq2Seq,
}

impl Judge for Teller<'_> {
    fn logits(&self, definitions: &[&Definition], train: bool) -> candle_core::Result<Tensor> {
        let Run { text, device, .. } = *self.run;
        let (tokens, lengths) = text.padded(definitions, LONGEST, false);
        let sequences = Sequences::padded(LONGEST, &lengths).map_err(candle_core::Error::wrap)?;
        let source = Tensor::from_vec(tokens, (definitions.len(), LONGEST), device)?;
        let begin = Tensor::full(text.begin(), (definitions.len(), 1), device)?;
        self.model.forward(&source, &sequences, &begin, train)
    }

    fn output(&self, label: u32) -> u32 {
        self.run.text.category(label)
    }
}

fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let rows = options.kinds.iter().map(|&kind| {
        let of_kind = || outcomes.iter().filter(|outcome| outcome.kind == kind);
        let losses: Vec<f64> = of_kind().map(|outcome| outcome.learned.pretraining.score()).collect();
        let accuracy =
            |i: usize| of_kind().map(|outcome| outcome.learned.tuning[i].score()).collect::<Vec<_>>();
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
    let models = outcomes.iter().map(|outcome| (outcome.kind.name(), &outcome.learned));
    let panels = panels("loss of held-out spans", models);
    let title = "Pre-training by spans, then categories of definitions".to_owned();
    Ok(Report { table: table(&head, rows).to_string(), picture: Picture { title, panels }.svg()? })
}
