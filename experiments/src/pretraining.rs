//! What the programs that pre-train models on a text have in common: their flags, and what came of it, before and after categories
//! are learned.

use clap::Args;

use crate::categories::Categories;
use crate::options::{count, rate};
use crate::picture::{Line, Panel};
use crate::training::{Curve, Plan};

/// How long models learn, and from how much.
#[derive(Args, Clone, Debug)]
pub struct Pretraining {
    /// Stretches of text in a batch
    #[arg(long, default_value_t = 16, value_parser = count(65536))]
    pub batch: usize,
    /// Steps of pre-training
    #[arg(long, default_value_t = 3000, value_parser = count(1000000000))]
    pub steps: usize,
    /// Learning rate of pre-training
    #[arg(long, default_value_t = 3e-3, value_parser = rate)]
    pub rate: f64,
    /// What is learned afterwards.
    #[command(flatten)]
    pub categories: Categories,
}

/// The runs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On the text.
    Pretraining,
    /// To tell categories, after that.
    Tuned,
    /// To tell categories, without it.
    FromScratch,
}

/// What came of a model.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Pre-training.
    pub pretraining: Curve,
    /// Accuracy with pre-training, and without.
    pub tuning: [Curve; 2],
}

impl Pretraining {
    /// The run of a model that is called so, with what else decides its result.
    pub fn plan(&self, model: &str, phase: Phase, settings: &str) -> Plan {
        let Pretraining { batch, steps, rate, categories } = self;
        let Categories { labelled, judged, tuning_steps, tuning_rate } = categories;
        let (phase, steps, rate) = match phase {
            Phase::Pretraining => ("pretraining", steps, rate),
            Phase::Tuned => ("tuned", tuning_steps, tuning_rate),
            Phase::FromScratch => ("from-scratch", tuning_steps, tuning_rate),
        };
        let settings = format!("{settings}, {batch}, {labelled}, {judged}");
        Plan::new(&format!("{model}-{phase}"), settings, *steps, *rate)
    }
}

/// Charts of models by name, pre-trained to have this score.
pub fn panels<'a>(
    score: &'static str,
    models: impl Iterator<Item = (&'a str, &'a Learned)> + Clone,
) -> Vec<Panel> {
    let panel = |x, y, curve: fn(&Learned) -> &Curve| {
        let lines = models.clone().map(|(name, learned)| Line::of(name, curve(learned))).collect();
        Panel { x, y, lines, mark: None }
    };
    vec![
        panel("steps of pre-training", score, |learned| &learned.pretraining),
        panel("steps after pre-training", "accuracy", |learned| &learned.tuning[0]),
        panel("steps from scratch", "accuracy", |learned| &learned.tuning[1]),
    ]
}
