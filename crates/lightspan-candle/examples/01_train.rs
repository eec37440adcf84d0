//! 1. Training in candle: a model learns which word was said two words ago.
//!
//! ```text
//! cargo run --release -p lightspan-candle --example 01_train
//! ```
//!
//! A convolution of this crate is an operation of candle's: its output is a tensor, and `backward` goes through it to
//! everything that went in. Here that is an embedding, a gated layer, the generator of a dynamic convolution and its biases.
//!
//! - The gated layer is one projection of `[batch, time, 2 C]`. The convolution reads its first half where it lies.
//! - Questions have different lengths: `Sequences::padded` says where each ends. What is behind has no part in anything.
//! - Weights are dropped, others in each step: the seed of the dropout is the step. Nothing of that is stored; the backward
//!   pass draws the same numbers again.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{
    AdamW, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, embedding, linear, loss, ops,
};
use lightspan_candle::{Dropout, DynamicConvOptions, Sequences, Window, dynamic_conv};

const WORDS: usize = 12;
const CHANNELS: usize = 32;
const HEADS: usize = 4;
const WIDTH: usize = 5;
const DELAY: usize = 2;
const TIME: usize = 20;
const LENGTHS: [usize; 4] = [20, 17, 9, 20];
const STEPS: usize = 60;

struct Model {
    words: candle_nn::Embedding,
    gated: Linear,
    generator: Tensor,
    generator_bias: Tensor,
    bias: Tensor,
    answers: Linear,
    window: Window,
}

impl Model {
    fn new(vb: VarBuilder) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let conv = vb.pp("conv");
        Ok(Model {
            words: embedding(WORDS, CHANNELS, vb.pp("words"))?,
            gated: linear(CHANNELS, 2 * CHANNELS, vb.pp("gated"))?,
            generator: conv.get_with_hints(
                (HEADS * WIDTH, CHANNELS),
                "weight_linear.weight",
                candle_nn::init::DEFAULT_KAIMING_UNIFORM,
            )?,
            generator_bias: conv.get(HEADS * WIDTH, "weight_linear.bias")?,
            bias: conv.get(CHANNELS, "conv_bias")?,
            answers: linear(CHANNELS, WORDS, vb.pp("answers"))?,
            window: Window::causal(WIDTH)?,
        })
    }

    fn forward(&self, words: &Tensor, sequences: &Sequences, dropout: Option<Dropout>) -> Result<Tensor> {
        let gated = self.gated.forward(&self.words.forward(words)?)?;
        let (values, gates) = (gated.narrow(2, 0, CHANNELS)?, gated.narrow(2, CHANNELS, CHANNELS)?);
        let options = DynamicConvOptions {
            weight_bias: Some(&self.generator_bias),
            bias: Some(&self.bias),
            sequences: Some(sequences),
            dropout,
            ..Default::default()
        };
        let heard = dynamic_conv(&values, &self.generator, HEADS, self.window, &options)?;
        self.answers.forward(&(heard * ops::sigmoid(&gates)?)?)
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let device = Device::Cpu;
    let variables = VarMap::new();
    let model = Model::new(VarBuilder::from_varmap(&variables, DType::F32, &device))?;
    let sequences = Sequences::padded(TIME, &LENGTHS)?;
    let params = ParamsAdamW { lr: 0.02, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(variables.all_vars(), params)?;

    // Where there is an answer: from the third word of each question on.
    let rows = |from: usize| -> Vec<u32> {
        let tokens = LENGTHS
            .iter()
            .enumerate()
            .flat_map(|(b, &length)| (DELAY..length).map(move |t| (b * TIME + t + from - DELAY) as u32));
        tokens.collect()
    };
    let (asked, answered) = (Tensor::new(rows(0), &device)?, Tensor::new(rows(DELAY), &device)?);
    let mut loss_of = |step: usize, dropout: Option<Dropout>, learn: bool| -> Result<f32> {
        let words = words(step, &device)?;
        let expected = words.flatten_all()?.index_select(&asked, 0)?;
        let found = model.forward(&words, &sequences, dropout)?.flatten_to(D::Minus2)?;
        let loss = loss::cross_entropy(&found.index_select(&answered, 0)?, &expected)?;
        if learn {
            optimizer.backward_step(&loss)?;
        }
        loss.to_scalar()
    };
    for step in 0..STEPS {
        let loss = loss_of(step, Some(Dropout::new(0.1, step as u64)?), true)?;
        if step % 10 == 0 {
            println!("step {step:2}: the loss is {loss:.4}");
        }
    }
    // Of questions that it has not seen, with all of its weights.
    let loss = loss_of(STEPS, None, false)?;
    println!("at the end: the loss is {loss:.4}; to guess costs {:.4}", (WORDS as f32).ln());
    assert!(loss < 0.1);
    Ok(())
}

/// A batch of questions, another for each step.
fn words(step: usize, device: &Device) -> Result<Tensor> {
    let mut state = step as u32 + 1;
    let next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 16) % WORDS as u32
    };
    let words: Vec<u32> = std::iter::repeat_with(next).take(LENGTHS.len() * TIME).collect();
    Tensor::from_vec(words, (LENGTHS.len(), TIME), device)
}
