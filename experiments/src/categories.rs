//! What pre-trained models are turned to: to tell what a definition is of, from few examples.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_nn::loss;
use clap::Args;
use rand::RngExt;

use crate::data::text::{Definition, Text};
use crate::options::{count, rate};
use crate::random::random;
use crate::training::{Curve, Plan, Record, Variables};

/// Tokens of a definition that models see: two in a hundred are longer.
pub const LONGEST: usize = 64;
/// Definitions that a step learns from.
const BATCH: usize = 32;
/// Definitions that are judged at once.
const JUDGED_AT_ONCE: usize = 64;

/// How many examples there are, and how long they are learned from.
#[derive(Args, Clone, Debug)]
pub struct Categories {
    /// Definitions whose category is told
    #[arg(long, default_value_t = 800, value_parser = count(1000000))]
    pub labelled: usize,
    /// Steps of learning categories, of 32 definitions each
    #[arg(long, default_value_t = 300, value_parser = count(1000000000))]
    pub tuning_steps: usize,
    /// Learning rate of learning categories
    #[arg(long, default_value_t = 1e-3, value_parser = rate)]
    pub tuning_rate: f64,
    /// Definitions that are held out and judged
    #[arg(long, default_value_t = 800, value_parser = count(1000000))]
    pub judged: usize,
}

/// A model that says something of definitions.
pub trait Judge {
    /// Logits `[definitions, outputs]`.
    ///
    /// # Errors
    ///
    /// As candle has them.
    fn logits(&self, definitions: &[&Definition], train: bool) -> candle_core::Result<Tensor>;

    /// The output that stands for a category.
    fn output(&self, label: u32) -> u32;
}

impl Categories {
    /// # Errors
    ///
    /// For more definitions than a text has, and for none.
    pub fn check(&self, text: &Text) -> Result<()> {
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
        Ok(())
    }

    /// Trains a model that is built of these variables; its score is the part of the definitions that it gets right: to say what is no
    /// category is as wrong as to say another.
    ///
    /// # Errors
    ///
    /// As [`Record::train`].
    pub fn learn(
        &self,
        record: &Record,
        plan: &Plan,
        variables: &Variables,
        (text, seed): (&Text, u64),
        model: &impl Judge,
    ) -> Result<Curve> {
        let (labelled, judged) = (&text.training[..self.labelled], &text.held_out[..self.judged]);
        let loss = |step| {
            let mut random = random(seed, "definitions", step);
            let batch: Vec<&Definition> =
                (0..BATCH).map(|_| &labelled[random.random_range(0..labelled.len())]).collect();
            let outputs = batch.iter().map(|definition| model.output(definition.label)).collect();
            let outputs = Tensor::from_vec(outputs, batch.len(), variables.device())?;
            loss::cross_entropy(&model.logits(&batch, true)?, &outputs)
        };
        record.train(plan, variables, loss, || {
            let mut right = 0;
            for some in judged.chunks(JUDGED_AT_ONCE) {
                let some: Vec<&Definition> = some.iter().collect();
                let said = model.logits(&some, false)?.argmax(1)?.to_vec1::<u32>()?;
                let expected = some.iter().map(|definition| model.output(definition.label));
                right += said.into_iter().zip(expected).filter(|(said, expected)| said == expected).count();
            }
            Ok(right as f64 / judged.len() as f64)
        })
    }
}

/// Rows of tokens `[rows, length]`, of a length above zero.
///
/// # Errors
///
/// As candle has them.
pub fn rows<'a>(
    rows: impl Iterator<Item = &'a [u32]>,
    length: usize,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let tokens: Vec<u32> = rows.flatten().copied().collect();
    let count = tokens.len() / length;
    Tensor::from_vec(tokens, (count, length), device)
}
