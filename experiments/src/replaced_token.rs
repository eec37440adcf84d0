//! Does span-based dynamic convolution beside attention learn more of a text than attention alone (Jiang et al. 2020)? A small model
//! says hidden tokens, and a larger one tells which of them are not what stood there; then it learns categories of definitions, with
//! and without that.

use anyhow::{Context, Result, ensure};
use candle_core::{D, Device, Module, Tensor};
use candle_nn::{Linear, VarBuilder, loss};
use clap::Args;
use lightspan_candle::Sequences;
use rand::RngExt;

use crate::categories::{Judge, LONGEST, rows};
use crate::data::replaced_tokens::{Replaced, mask, ranked, replace, sample};
use crate::data::text::{CATEGORIES, Definition, Text};
use crate::model::{Branch, Embedding, Size, Sizes, Stack, binary_cross_entropy, linear};
use crate::options::{Common, count, distinct};
use crate::picture::Picture;
use crate::pretraining::{Learned, Phase, Pretraining, panels};
use crate::random::random;
use crate::report::Report;
use crate::table::{percent, table};
use crate::training::{Curve, Plan, Record, Variables};

/// Tokens of a stretch of text.
const LENGTH: usize = 64;
/// Stretches that a discriminator is judged by.
const JUDGED: usize = 128;
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
    /// Channels of the discriminator, heads, of which half convolve, and layers; the generator has as many heads and layers.
    #[command(flatten)]
    pub sizes: Sizes,
    /// How many times fewer channels the generator has
    #[arg(long, default_value_t = 4, value_parser = count(16384))]
    pub generator_part: usize,
    /// Taps of the convolutions
    #[arg(long, default_value_t = 9, value_parser = count(4096))]
    pub width: usize,
    /// How long, and from how much.
    #[command(flatten)]
    pub pretraining: Pretraining,
}

/// What came of one branch and one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What stands beside attention.
    pub branch: Branch,
    /// Numbers of the discriminator that learns categories, its table of tokens among them.
    pub parameters: usize,
    /// Its curves; that of pre-training has the probability that a token that was replaced is ranked above one that was not.
    pub learned: Learned,
}

impl Options {
    /// The sizes of the discriminator and of the generator.
    fn check(&self, text: &Text) -> Result<[Size; 2]> {
        distinct("--branches", &self.branches)?;
        let heads = self.sizes.heads;
        ensure!(heads.is_multiple_of(2), "of {heads} heads half convolve: --heads");
        self.pretraining.categories.check(text)?;
        let part = Sizes { channels: self.sizes.channels / self.generator_part, ..self.sizes };
        let generator = part.with_width(self.width).context("the generator: --generator-part");
        Ok([self.sizes.with_width(self.width)?, generator?])
    }
}

/// Runs all of it.
///
/// # Errors
///
/// For options that are none, and as [`Record::train`].
pub fn run(options: &Options) -> Result<(Vec<Outcome>, Report)> {
    let text = Text::load()?;
    let sizes = options.check(&text)?;
    let device = options.common.device()?;
    let of_branch = |&branch| options.common.seeds().map(move |seed| (branch, seed));
    let arms: Vec<(Branch, u64)> = options.branches.iter().flat_map(of_branch).collect();
    let record = Record::open("replaced_token", &options.common, 3 * arms.len())?;
    let outcomes = record.each(&arms, |&(branch, seed)| {
        Run { options, sizes, text: &text, branch, seed, device: &device }.outcome(&record)
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
    /// Of the discriminator and of the generator.
    sizes: [Size; 2],
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
        let tuning =
            [self.tune(record, Phase::Tuned, &pretrained)?, self.tune(record, Phase::FromScratch, &scratch)?];
        let learned = Learned { pretraining, tuning };
        Ok(Outcome { branch: self.branch, parameters: scratch.count(), learned })
    }

    fn plan(&self, phase: Phase) -> Plan {
        let Options { common, pretraining, .. } = self.options;
        let settings = format!("{:?}, {}", self.sizes, common.place());
        pretraining.plan(&format!("{}-{}", self.branch.name(), self.seed), phase, &settings)
    }

    /// The table of tokens and positions.
    fn embedding(&self, vb: &VarBuilder<'_>) -> candle_core::Result<Embedding> {
        Embedding::new(self.text.vocabulary(), LENGTH.max(LONGEST), self.sizes[0].channels, vb)
    }

    fn discriminator(&self, head: &str, outputs: usize, vb: &VarBuilder<'_>) -> candle_core::Result<Model> {
        Model::new(self.branch, &self.sizes[0], head, outputs, &vb.pp("discriminator"))
    }

    fn pretrain(&self, record: &Record, variables: &Variables) -> Result<Curve> {
        let (vb, [Size { channels, .. }, size]) = (variables.builder(), self.sizes);
        let models = Both {
            embedding: self.embedding(&vb)?,
            project: linear(channels, size.channels, vb.pp("generator.project"))?,
            generator: Model::new(self.branch, &size, "said", channels, &vb.pp("generator"))?,
            discriminator: self.discriminator("replaced", 1, &vb)?,
        };
        let judged = self.judged();
        let plan = self.plan(Phase::Pretraining);
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
        (0..JUDGED).map(replaced).collect()
    }

    /// The generator's cross entropy of what it says, and the discriminator's of what was replaced.
    fn loss(&self, models: &Both, step: usize) -> candle_core::Result<Tensor> {
        let batch = self.options.pretraining.batch;
        let texts: Vec<Vec<u32>> = (0..batch)
            .map(|i| self.text.stretch(&self.text.training, LENGTH, self.seed, "text", step * batch + i))
            .collect();
        let mut random = random(self.seed, "masks", step);
        let masked: Vec<_> = texts.iter().map(|text| mask(text, self.text.mask(), &mut random)).collect();
        let inputs = rows(masked.iter().map(|masked| &masked.inputs[..]), LENGTH, self.device)?;
        let (mut places, mut originals) = (Vec::new(), Vec::new());
        for (i, (text, masked)) in texts.iter().zip(&masked).enumerate() {
            places.extend(masked.chosen.iter().map(|place| (i * LENGTH + place) as u32));
            originals.extend(masked.chosen.iter().map(|&place| text[place]));
        }
        let count = places.len();
        let sequences = self.sequences(batch, LENGTH)?;
        let x = models.embedding.forward(&inputs)?;
        let y = models.generator.stack.forward(&models.project.forward(&x)?, &sequences, None, true)?;
        let y = y.flatten(0, 1)?.index_select(&Tensor::from_vec(places, count, self.device)?, 0)?;
        let logits = models.embedding.logits(&models.generator.head.forward(&y)?)?;
        let said_loss = loss::cross_entropy(&logits, &Tensor::from_vec(originals, count, self.device)?)?;

        // Pieces of words or an end: nothing else stands in a text. Numbers, and no tensors: no gradient goes through what was drawn.
        let mut said = logits
            .to_vec2::<f32>()?
            .into_iter()
            .map(|logits| sample(&logits[..=self.text.end() as usize], &mut random));
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
        let tokens = rows(some.iter().map(|replaced| &replaced.inputs[..]), LENGTH, self.device)?;
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

    fn tune(&self, record: &Record, phase: Phase, variables: &Variables) -> Result<Curve> {
        let vb = variables.builder();
        let model = self.discriminator("category", CATEGORIES.len(), &vb)?;
        let model = Teller { run: self, embedding: self.embedding(&vb)?, model };
        let categories = &self.options.pretraining.categories;
        categories.learn(record, &self.plan(phase), variables, (self.text, self.seed), &model)
    }
}

/// A model that tells a category by the token that stands before a definition.
struct Teller<'a> {
    run: &'a Run<'a>,
    embedding: Embedding,
    model: Model,
}

impl Judge for Teller<'_> {
    fn logits(&self, definitions: &[&Definition], train: bool) -> candle_core::Result<Tensor> {
        let (tokens, lengths) = self.run.text.padded(definitions, LONGEST, true);
        let sequences = Sequences::padded(LONGEST, &lengths).map_err(candle_core::Error::wrap)?;
        let tokens = Tensor::from_vec(tokens, (definitions.len(), LONGEST), self.run.device)?;
        let y = self.model.stack.forward(&self.embedding.forward(&tokens)?, &sequences, None, train)?;
        self.model.head.forward(&y.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
    }

    fn output(&self, label: u32) -> u32 {
        label
    }
}

fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let rows = options.branches.iter().map(|&branch| {
        let of_branch = || outcomes.iter().filter(|outcome| outcome.branch == branch);
        let ranks: Vec<f64> = of_branch().map(|outcome| outcome.learned.pretraining.score()).collect();
        let accuracy =
            |i: usize| of_branch().map(|outcome| outcome.learned.tuning[i].score()).collect::<Vec<_>>();
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
    let models = outcomes.iter().map(|outcome| (outcome.branch.name(), &outcome.learned));
    let panels = panels("replaced ranked above kept", models);
    let title = "Replaced tokens, then categories of definitions".to_owned();
    Ok(Report { table: table(&head, rows).to_string(), picture: Picture { title, panels }.svg()? })
}
