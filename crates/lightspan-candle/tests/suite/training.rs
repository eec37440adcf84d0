//! A model that learns to copy: token t of the answer is token t - 2 of the question. Its only way to look back is a
//! convolution, ours or that of candle's own operations; both begin from the same numbers and see the same questions.

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{AdamW, Embedding, Module, Optimizer, ParamsAdamW, loss};
use lightspan::{Sequences, Window};
use lightspan_candle::{
    ConvOptions, DynamicConvOptions, SpanConvOptions, SpanConvTensors, dynamic_conv, light_conv, span_conv,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Numbers, Unfused};

const WORDS: usize = 8;
const CHANNELS: usize = 16;
const HEADS: usize = 4;
const WIDTH: usize = 4;
const BATCH: usize = 8;
const TIME: usize = 24;
const DELAY: usize = 2;
const STEPS: usize = 60;

/// Which convolution a model has.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Light,
    Dynamic,
    Span,
}

/// Embedding, linear layer, convolution and linear layer.
struct Model {
    kind: Kind,
    fused: bool,
    embedding: Var,
    inner: Var,
    filter: Var,
    generator: Var,
    generator_bias: Var,
    depthwise: Var,
    pointwise: Var,
    bias: Var,
    outer: Var,
}

impl Model {
    fn new(kind: Kind, fused: bool) -> Result<Self> {
        let mut numbers = Numbers::new(41);
        let mut var = |shape: &[usize], scale: f32| {
            Var::from_tensor(&numbers.draw(shape, lightspan::DType::F32, scale).tensor()?)
        };
        Ok(Model {
            kind,
            fused,
            embedding: var(&[WORDS, CHANNELS], 1.0)?,
            inner: var(&[CHANNELS, CHANNELS], 0.4)?,
            filter: var(&[HEADS, WIDTH], 0.1)?,
            generator: var(&[HEADS * WIDTH, CHANNELS], 0.1)?,
            generator_bias: var(&[HEADS * WIDTH], 0.1)?,
            depthwise: var(&[CHANNELS, WIDTH], 0.5)?,
            pointwise: var(&[CHANNELS, CHANNELS], 0.3)?,
            bias: var(&[CHANNELS], 0.1)?,
            outer: var(&[WORDS, CHANNELS], 0.4)?,
        })
    }

    fn vars(&self) -> Vec<Var> {
        let Model { embedding, inner, bias, outer, .. } = self;
        let Model { filter, generator, generator_bias, depthwise, pointwise, .. } = self;
        let own: &[&Var] = match self.kind {
            Kind::Light => &[filter],
            Kind::Dynamic => &[generator, generator_bias],
            Kind::Span => &[generator, generator_bias, depthwise, pointwise],
        };
        [embedding, inner, bias, outer].into_iter().chain(own.iter().copied()).cloned().collect()
    }

    fn forward(&self, words: &Tensor) -> Result<Tensor> {
        let embedding = Embedding::new(self.embedding.as_tensor().clone(), CHANNELS);
        let x = embedding.forward(words)?.broadcast_matmul(&self.inner.t()?)?;
        let y = if self.fused { self.convolve(&x)? } else { self.convolve_unfused(&x)? };
        y.broadcast_matmul(&self.outer.t()?)
    }

    fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let (window, bias, weight_bias) =
            (window(), Some(self.bias.as_tensor()), Some(self.generator_bias.as_tensor()));
        match self.kind {
            Kind::Light => light_conv(x, &self.filter, window, &ConvOptions { bias, ..Default::default() }),
            Kind::Dynamic => {
                let options = DynamicConvOptions { bias, weight_bias, ..Default::default() };
                dynamic_conv(x, &self.generator, HEADS, window, &options)
            }
            Kind::Span => {
                let (depthwise, pointwise) = (&self.depthwise, &self.pointwise);
                let weight = &self.generator;
                let tensors = SpanConvTensors { x, query: x, value: x, depthwise, pointwise, weight };
                let options = SpanConvOptions { bias, weight_bias, ..Default::default() };
                span_conv(&tensors, HEADS, window, &options)
            }
        }
    }

    fn convolve_unfused(&self, x: &Tensor) -> Result<Tensor> {
        let sequences = Sequences::batch(BATCH, TIME).unwrap();
        let normalize = Default::default();
        let unfused = Unfused { sequences: &sequences, window: window(), normalize, dropout: None };
        let logits = match self.kind {
            Kind::Light => self.filter.as_tensor().clone(),
            Kind::Dynamic => unfused.generate(x, &self.generator, Some(&self.generator_bias))?,
            Kind::Span => {
                let z = unfused.key(x, x, &self.depthwise, &self.pointwise, None)?;
                unfused.generate(&z, &self.generator, Some(&self.generator_bias))?
            }
        };
        unfused.convolve(x, &logits, Some(&self.bias))
    }
}

fn window() -> Window {
    Window::causal(WIDTH).unwrap()
}

/// The loss of every step.
fn train(kind: Kind, fused: bool) -> Result<Vec<f32>> {
    let model = Model::new(kind, fused)?;
    let params = ParamsAdamW { lr: 0.03, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(model.vars(), params)?;
    let mut rng = SmallRng::seed_from_u64(7);
    let mut losses = vec![];
    for _ in 0..STEPS {
        let words: Vec<u32> = (0..BATCH * TIME).map(|_| rng.random_range(0..WORDS as u32)).collect();
        let words = Tensor::from_vec(words, (BATCH, TIME), &Device::Cpu)?;
        // The first words have nothing to copy.
        let answers = words.narrow(1, 0, TIME - DELAY)?.flatten_all()?;
        let found = model.forward(&words)?.narrow(1, DELAY, TIME - DELAY)?;
        let found = found.reshape(((), WORDS))?;
        let loss = loss::cross_entropy(&found, &answers)?;
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
    }
    Ok(losses)
}

fn learns_as_the_composition(kind: Kind) -> Result<()> {
    let (fused, unfused) = (train(kind, true)?, train(kind, false)?);
    let (first, last) = (fused[0], fused[STEPS - 1]);
    // Guessing costs ln 8 = 2.08.
    assert!(first > 1.9 && last < 0.01, "{kind:?}: the loss went from {first} to {last}");
    let mut apart = 0.0f32;
    for (fused, unfused) in fused.iter().zip(&unfused) {
        apart = apart.max((fused - unfused).abs());
    }
    // A step moves a weight by no more than its rate, whatever the roundings of its gradient are: they differ by a few parts
    // in 10^7, and the losses by not much more.
    assert!(apart < 1e-5, "{kind:?}: the losses are up to {apart} apart");
    Ok(())
}

#[test]
fn light_conv_learns_to_copy() -> Result<()> {
    learns_as_the_composition(Kind::Light)
}

#[test]
fn dynamic_conv_learns_to_copy() -> Result<()> {
    learns_as_the_composition(Kind::Dynamic)
}

#[test]
fn span_conv_learns_to_copy() -> Result<()> {
    learns_as_the_composition(Kind::Span)
}
