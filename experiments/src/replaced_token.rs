//! Does span-based dynamic convolution beside attention learn more of a text than attention alone (Jiang et al. 2020)? A small model
//! says hidden tokens, and a larger one tells which of them are not what stood there; then it learns categories of definitions, with
//! and without that.

use anyhow::{Result, ensure};
use candle_core::{D, Device, Module, Tensor};
use candle_nn::{Linear, VarBuilder, loss};
use clap::Args;
use lightspan_candle::Sequences;
use rand::RngExt;

use crate::data::replaced_tokens::{Replaced, mask, ranked, replace, sample};
use crate::data::text::{CATEGORIES, Definition, Text};
use crate::model::{Branch, Embedding, Size, Stack, binary_cross_entropy, linear};
use crate::options::Common;
use crate::picture::{Line, Panel, Picture};
use crate::random::random;
use crate::report::Report;
use crate::table::{percent, table};
use crate::training::{Curve, Plan, Rate, Record, Variables};

/// Tokens of a stretch of text, and of a definition that is seen: two in a hundred are longer.
const LENGTH: usize = 64;
/// Points of each curve.
const POINTS: usize = 10;
/// Stretches that a discriminator is judged by, and definitions that are judged at once.
const JUDGED_AT_ONCE: usize = 64;
/// Definitions that go in together.
const TUNING_BATCH: usize = 32;
/// How much the loss of a discriminator counts beside that of its generator (Clark et al. 2020).
const WEIGHT: f64 = 50.0;

/// Which models, how large, and how long they learn.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Seeds, device and folder.
    #[command(flatten)]
    pub common: Common,
    /// What stands beside the heads of attention
    #[arg(long, value_delimiter = ',', default_value = "attention,dynamic,span")]
    pub branches: Vec<Branch>,
    /// Channels of a token of the discriminator
    #[arg(long, default_value_t = 64)]
    pub channels: usize,
    /// How many times fewer channels the generator has
    #[arg(long, default_value_t = 4)]
    pub generator_part: usize,
    /// Heads, of which half convolve; the generator has as many
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Layers of both
    #[arg(long, default_value_t = 2)]
    pub layers: usize,
    /// Taps of the convolutions
    #[arg(long, default_value_t = 9)]
    pub width: usize,
    /// Stretches of 64 tokens in a batch
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

/// What came of one branch and one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What stands beside attention.
    pub branch: Branch,
    /// Numbers of the discriminator.
    pub parameters: usize,
    /// Pre-training, with the probability that a token that was replaced is ranked above one that was not.
    pub pretraining: Curve,
    /// Accuracy with pre-training, and without.
    pub tuning: [Curve; 2],
}

impl Options {
    fn check(&self, text: &Text) -> Result<()> {
        let (training, held_out) = (text.training.len(), text.held_out.len());
        ensure!(
            (1..=training).contains(&self.labelled),
            "--labelled {}: there are {training} definitions",
            self.labelled
        );
        ensure!(
            (1..=held_out).contains(&self.judged),
            "--judged {}: {held_out} definitions are held out",
            self.judged
        );
        ensure!(self.steps > 0 && self.tuning_steps > 0 && self.batch > 0, "no steps, or nothing in a batch");
        let Options { channels, heads, generator_part, .. } = *self;
        ensure!(heads > 0 && heads.is_multiple_of(2), "of {heads} heads half convolve: --heads");
        let divides = |channels: usize| channels > 0 && channels.is_multiple_of(heads);
        ensure!(divides(channels), "{heads} heads do not divide {channels} channels");
        ensure!(
            generator_part > 0 && divides(channels / generator_part),
            "{heads} heads do not divide the {} channels of the generator: --generator-part",
            channels / generator_part.max(1)
        );
        Ok(())
    }

    fn size(&self, channels: usize) -> Size {
        let Options { heads, layers, width, .. } = *self;
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
    let of_branch = |&branch| options.common.seeds().map(move |seed| (branch, seed));
    let arms: Vec<(Branch, u64)> = options.branches.iter().flat_map(of_branch).collect();
    let record = Record::open("replaced_token", &options.common, 3 * arms.len())?;
    let outcomes = record.each(&arms, |&(branch, seed)| {
        Run { options, text: &text, branch, seed, device: &device }.outcome(&record)
    })?;
    let report = report(options, &outcomes)?;
    report.write(&record)?;
    Ok((outcomes, report))
}

/// An encoder, and what it says of its tokens.
struct Model {
    stack: Stack,
    head: Linear,
}

impl Model {
    fn new(
        branch: Branch,
        size: &Size,
        head: &str,
        outputs: usize,
        vb: &VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        Ok(Model {
            stack: Stack::of_branch(branch, size, vb)?,
            head: linear(size.channels, outputs, vb.pp(head))?,
        })
    }
}

/// A generator and a discriminator with one table of tokens (Clark et al. 2020, section 3.2), which has the discriminator's channels.
struct Both {
    embedding: Embedding,
    project: Linear,
    generator: Model,
    discriminator: Model,
}

/// One branch and one seed.
struct Run<'a> {
    options: &'a Options,
    text: &'a Text,
    branch: Branch,
    seed: u64,
    device: &'a Device,
}

impl Run<'_> {
    fn outcome(&self, record: &Record) -> Result<Outcome> {
        let both = Variables::new(self.seed, self.device);
        let pretraining = self.pretrain(record, &both)?;
        let pretrained = both.copied(self.seed)?.without("generator.").without("discriminator.replaced.");
        let scratch = Variables::new(self.seed, self.device);
        let tuning = [self.tune(record, "tuned", &pretrained)?, self.tune(record, "from-scratch", &scratch)?];
        Ok(Outcome { branch: self.branch, parameters: scratch.count(), pretraining, tuning })
    }

    fn plan(&self, phase: &str, steps: usize, rate: f64) -> Plan {
        let Options { channels, generator_part, batch, labelled, judged, .. } = *self.options;
        let size = self.options.size(channels);
        Plan {
            name: format!("{}-{}-{phase}", self.branch.name().replace(' ', "-"), self.seed),
            settings: format!("{size:?}, {generator_part}, {batch}, {labelled}, {judged}"),
            steps,
            every: steps.div_ceil(POINTS),
            rate,
            schedule: Rate::UpAndDown,
        }
    }

    /// The table of tokens, with one place more for what a definition begins with.
    fn embedding(&self, vb: &VarBuilder<'_>) -> candle_core::Result<Embedding> {
        Embedding::new(self.text.vocabulary(), LENGTH + 1, self.options.channels, vb)
    }

    fn discriminator(&self, head: &str, outputs: usize, vb: &VarBuilder<'_>) -> candle_core::Result<Model> {
        let size = self.options.size(self.options.channels);
        Model::new(self.branch, &size, head, outputs, &vb.pp("discriminator"))
    }

    fn pretrain(&self, record: &Record, variables: &Variables) -> Result<Curve> {
        let Options { channels, generator_part, steps, rate, .. } = *self.options;
        let (vb, size) = (variables.builder(), self.options.size(channels / generator_part));
        let models = Both {
            embedding: self.embedding(&vb)?,
            project: linear(channels, size.channels, vb.pp("generator.project"))?,
            generator: Model::new(self.branch, &size, "said", channels, &vb.pp("generator"))?,
            discriminator: self.discriminator("replaced", 1, &vb)?,
        };
        let judged = self.judged();
        let plan = self.plan("pretraining", steps, rate);
        record.train(
            &plan,
            variables,
            |step| self.loss(&models, step),
            || {
                let logits = self.replaced(&models, &judged, false)?.flatten_all()?.to_vec1::<f32>()?;
                let labels: Vec<bool> =
                    judged.iter().flat_map(|replaced| replaced.labels.iter().copied()).collect();
                Ok(ranked(&logits, &labels))
            },
        )
    }

    /// What discriminators of all arms are judged by: held-out text in which tokens of other places stand, as generators differ.
    fn judged(&self) -> Vec<Replaced> {
        let replaced = |i| {
            let text = self.text.stretch(&self.text.held_out, LENGTH, 0, "judged", i);
            let others = self.text.stretch(&self.text.held_out, LENGTH, 0, "others", i);
            let mut random = random(0, "judged places", i);
            let chosen = mask(&text, self.text.mask(), &mut random).chosen;
            let said: Vec<u32> = chosen.iter().map(|_| others[random.random_range(0..LENGTH)]).collect();
            replace(&text, &chosen, &said)
        };
        (0..2 * JUDGED_AT_ONCE).map(replaced).collect()
    }

    /// The generator's cross entropy of what it says, and the discriminator's of what was replaced.
    fn loss(&self, models: &Both, step: usize) -> candle_core::Result<Tensor> {
        let batch = self.options.batch;
        let texts: Vec<Vec<u32>> = (0..batch)
            .map(|i| self.text.stretch(&self.text.training, LENGTH, self.seed, "text", step * batch + i))
            .collect();
        let mut random = random(self.seed, "masks", step);
        let masked: Vec<_> = texts.iter().map(|text| mask(text, self.text.mask(), &mut random)).collect();
        let inputs: Vec<u32> = masked.iter().flat_map(|masked| masked.inputs.iter().copied()).collect();
        let (mut places, mut originals) = (Vec::new(), Vec::new());
        for (i, (text, masked)) in texts.iter().zip(&masked).enumerate() {
            places.extend(masked.chosen.iter().map(|place| (i * LENGTH + place) as u32));
            originals.extend(masked.chosen.iter().map(|&place| text[place]));
        }
        let count = places.len();
        let sequences = self.sequences(batch, LENGTH)?;
        let x = models.embedding.forward(&Tensor::from_vec(inputs, (batch, LENGTH), self.device)?)?;
        let y = models.generator.stack.forward(&models.project.forward(&x)?, &sequences, None, true)?;
        let y = y.flatten(0, 1)?.index_select(&Tensor::from_vec(places, count, self.device)?, 0)?;
        let logits = models.embedding.logits(&models.generator.head.forward(&y)?)?;
        let said_loss = loss::cross_entropy(&logits, &Tensor::from_vec(originals, count, self.device)?)?;

        // Numbers, and no tensors: no gradient goes through what was drawn.
        let mut said = logits.to_vec2::<f32>()?.into_iter().map(|logits| sample(&logits, &mut random));
        let replaced: Vec<Replaced> = texts
            .iter()
            .zip(&masked)
            .map(|(text, masked)| {
                replace(text, &masked.chosen, &said.by_ref().take(masked.chosen.len()).collect::<Vec<_>>())
            })
            .collect();
        let labels =
            replaced.iter().flat_map(|replaced| &replaced.labels).map(|&label| f32::from(u8::from(label)));
        let labels = Tensor::from_vec(labels.collect(), (batch, LENGTH), self.device)?;
        let found = self.replaced(models, &replaced, true)?;
        said_loss + binary_cross_entropy(&found, &labels)?.affine(WEIGHT, 0.0)?
    }

    /// Logits `[batch, time]` of having been replaced.
    fn replaced(&self, models: &Both, some: &[Replaced], train: bool) -> candle_core::Result<Tensor> {
        let tokens: Vec<u32> = some.iter().flat_map(|replaced| replaced.inputs.iter().copied()).collect();
        let tokens = Tensor::from_vec(tokens, (some.len(), LENGTH), self.device)?;
        let (x, sequences) = (models.embedding.forward(&tokens)?, self.sequences(some.len(), LENGTH)?);
        models
            .discriminator
            .head
            .forward(&models.discriminator.stack.forward(&x, &sequences, None, train)?)?
            .squeeze(D::Minus1)
    }

    fn sequences(&self, batch: usize, time: usize) -> candle_core::Result<Sequences> {
        Sequences::batch(batch, time).map_err(candle_core::Error::wrap)
    }

    fn tune(&self, record: &Record, phase: &str, variables: &Variables) -> Result<Curve> {
        let vb = variables.builder();
        let model = (self.embedding(&vb)?, self.discriminator("category", CATEGORIES.len(), &vb)?);
        let plan = self.plan(phase, self.options.tuning_steps, self.options.tuning_rate);
        let (labelled, judged) =
            (&self.text.training[..self.options.labelled], &self.text.held_out[..self.options.judged]);
        let loss = |step| {
            let mut random = random(self.seed, "definitions", step);
            let batch: Vec<&Definition> =
                (0..TUNING_BATCH).map(|_| &labelled[random.random_range(0..labelled.len())]).collect();
            let labels = batch.iter().map(|definition| definition.label).collect();
            let labels = Tensor::from_vec(labels, batch.len(), self.device)?;
            loss::cross_entropy(&self.categories(&model, &batch, true)?, &labels)
        };
        record.train(&plan, variables, loss, || {
            let mut right = 0;
            for some in judged.chunks(JUDGED_AT_ONCE) {
                let some: Vec<&Definition> = some.iter().collect();
                let said = self.categories(&model, &some, false)?.argmax(1)?.to_vec1::<u32>()?;
                right +=
                    said.iter().zip(&some).filter(|(said, definition)| **said == definition.label).count();
            }
            Ok(right as f64 / judged.len() as f64)
        })
    }

    /// Logits of categories, of the token that stands before each definition.
    fn categories(
        &self,
        (embedding, model): &(Embedding, Model),
        some: &[&Definition],
        train: bool,
    ) -> candle_core::Result<Tensor> {
        let (tokens, lengths) = self.text.padded(some, LENGTH, true);
        let sequences = Sequences::padded(LENGTH, &lengths).map_err(candle_core::Error::wrap)?;
        let tokens = Tensor::from_vec(tokens, (some.len(), LENGTH), self.device)?;
        let y = model.stack.forward(&embedding.forward(&tokens)?, &sequences, None, train)?;
        model.head.forward(&y.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
    }
}

fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let rows = options.branches.iter().map(|&branch| {
        let of_branch = || outcomes.iter().filter(|outcome| outcome.branch == branch);
        let ranks: Vec<f64> = of_branch().map(|outcome| outcome.pretraining.score()).collect();
        let accuracy = |i: usize| of_branch().map(|outcome| outcome.tuning[i].score()).collect::<Vec<_>>();
        vec![
            branch.name().to_owned(),
            of_branch().next().map_or(0, |outcome| outcome.parameters).to_string(),
            percent(&ranks),
            percent(&accuracy(1)),
            percent(&accuracy(0)),
        ]
    });
    let head = [
        "beside attention",
        "parameters",
        "replaced ranked above kept, %",
        "accuracy, %, from scratch",
        "pre-trained",
    ];
    let lines = |curve: fn(&Outcome) -> &Curve| {
        outcomes.iter().map(move |outcome| Line::of(outcome.branch.name(), curve(outcome))).collect()
    };
    let panel = |x, y, lines| Panel { x, y, lines, mark: None };
    let panels = vec![
        panel("steps of pre-training", "replaced ranked above kept", lines(|outcome| &outcome.pretraining)),
        panel("steps after pre-training", "accuracy", lines(|outcome| &outcome.tuning[0])),
        panel("steps from scratch", "accuracy", lines(|outcome| &outcome.tuning[1])),
    ];
    let title = "Replaced tokens, then categories of definitions".to_owned();
    Ok(Report { table: table(&head, rows).to_string(), picture: Picture { title, panels }.svg()? })
}
