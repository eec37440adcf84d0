//! The convolutions as people write them without a fused operator: softmax as a step of its own, x unfolded so that
//! every token has its neighbours beside it, multiplied by the weights and summed. Every step writes its result to
//! memory and the next one reads it.
//!
//! Plain, but no straw man: all threads, memory that the first call leaves to the next, and channels innermost
//! (`[tokens, K, C]`, where most frameworks unfold to `[tokens, C, K]`), so that every step vectorises.

use lightspan::cpu::{self, LinearArgs, Rows, RowsMut};
use lightspan::problem::LinearProblem;
use lightspan::{DType, Device, Result, Tensor, Window, ops};
use rayon::prelude::*;

use crate::support::{CHANNELS, HEADS, noise};

/// Sequences of `time` tokens with C channels in H heads, and the window over them.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) time: usize,
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) window: Window,
}

impl Shape {
    /// The channels and heads of the benchmarks.
    pub(crate) fn new(time: usize, window: Window) -> Self {
        Shape { time, channels: CHANNELS, heads: HEADS, window }
    }
}

/// The compositions, and the memory for what goes from one step to the next.
pub(crate) struct Unfused {
    shape: Shape,
    /// `[tokens, H, K]`.
    logits: Vec<f32>,
    /// `[H, K]` or `[tokens, H, K]`.
    weights: Vec<f32>,
    /// `[tokens, K, C]`.
    unfolded: Vec<f32>,
    /// `[tokens, C]`.
    convolved: Vec<f32>,
    /// `[tokens, C]`.
    key: Vec<f32>,
    scratch: Vec<f32>,
}

/// What span convolution reads, with as many channels in the key and the values as in x.
pub(crate) struct SpanConv<'a> {
    /// `[tokens, C]`.
    pub(crate) x: &'a [f32],
    /// `[tokens, C]`.
    pub(crate) query: &'a [f32],
    /// `[tokens, C]`.
    pub(crate) value: &'a [f32],
    /// `[C, K]`.
    pub(crate) depthwise: &'a [f32],
    /// `[C, C]`.
    pub(crate) pointwise: &'a [f32],
    /// `[H K, C]`.
    pub(crate) weight: &'a [f32],
}

impl Unfused {
    pub(crate) fn new(shape: Shape) -> Self {
        Unfused {
            shape,
            logits: Vec::new(),
            weights: Vec::new(),
            unfolded: Vec::new(),
            convolved: Vec::new(),
            key: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// x and y `[tokens, C]`, weight `[H, K]`.
    pub(crate) fn light_conv(&mut self, x: &[f32], weight: &[f32], y: &mut [f32]) {
        softmax(weight, self.shape.window.width(), &mut self.weights);
        unfold(x, self.shape, &mut self.unfolded);
        multiply_and_sum(&self.unfolded, self.shape, self.shape.heads, |_| &self.weights, y);
    }

    /// x and y `[tokens, C]`, weight `[H K, C]`.
    pub(crate) fn dynamic_conv(&mut self, x: &[f32], weight: &[f32], y: &mut [f32]) -> Result<()> {
        product(x, weight, self.shape.channels, &mut self.logits, &mut self.scratch)?;
        self.convolve(x, y);
        Ok(())
    }

    /// y `[tokens, C]`.
    pub(crate) fn span_conv(&mut self, inputs: &SpanConv<'_>, y: &mut [f32]) -> Result<()> {
        let channels = self.shape.channels;
        unfold(inputs.x, self.shape, &mut self.unfolded);
        self.convolved.resize(inputs.x.len(), 0.0);
        // Depthwise: a head for each channel, the same taps for every token.
        let taps = |_| inputs.depthwise;
        multiply_and_sum(&self.unfolded, self.shape, channels, taps, &mut self.convolved);
        product(&self.convolved, inputs.pointwise, channels, &mut self.key, &mut self.scratch)?;
        let rows = self.key.par_chunks_mut(channels).zip(inputs.query.par_chunks(channels));
        rows.for_each(|(key, query)| key.iter_mut().zip(query).for_each(|(key, query)| *key *= query));
        product(&self.key, inputs.weight, channels, &mut self.logits, &mut self.scratch)?;
        self.convolve(inputs.value, y);
        Ok(())
    }

    /// The rest of a dynamic convolution, once there are logits.
    fn convolve(&mut self, x: &[f32], y: &mut [f32]) {
        let Shape { heads, window, .. } = self.shape;
        let width = window.width();
        softmax(&self.logits, width, &mut self.weights);
        unfold(x, self.shape, &mut self.unfolded);
        let of_token = |t: usize| &self.weights[t * heads * width..][..heads * width];
        multiply_and_sum(&self.unfolded, self.shape, heads, of_token, y);
    }
}

/// x W^T with W `[outputs, inputs]`: the product that the operators have, so that the difference is elsewhere.
pub(crate) fn product(
    x: &[f32],
    weight: &[f32],
    inputs: usize,
    y: &mut Vec<f32>,
    scratch: &mut Vec<f32>,
) -> Result<()> {
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    let operator = cpu::Linear::new(LinearProblem::new(rows, inputs, outputs, DType::F32)?);
    y.resize(rows * outputs, 0.0);
    scratch.resize(scratch.len().max(operator.scratch_len()), 0.0);
    let (x, y) = (Rows::contiguous(x), RowsMut::contiguous(&mut y[..]));
    operator.run(LinearArgs { x, weight: weight.into(), bias: None, residual: None, y }, scratch)
}

/// Softmax of every row of `width`.
fn softmax(logits: &[f32], width: usize, weights: &mut Vec<f32>) {
    weights.resize(logits.len(), 0.0);
    let rows = weights.par_chunks_mut(width).zip(logits.par_chunks(width));
    rows.with_min_len(64).for_each(|(weights, logits)| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (weight, logit) in weights.iter_mut().zip(logits) {
            *weight = (logit - max).exp();
        }
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    });
}

/// unfolded\[b, t, j\] = x\[b, t + j r - P\], or zeros where that is outside of the sequence.
fn unfold(x: &[f32], shape: Shape, unfolded: &mut Vec<f32>) {
    let Shape { time, channels, window, .. } = shape;
    unfolded.resize(x.len() * window.width(), 0.0);
    let rows = unfolded.par_chunks_mut(window.width() * channels);
    rows.enumerate().for_each(|(row, unfolded)| {
        let (sequence, t) = (row / time, row % time);
        for (j, out) in unfolded.chunks_exact_mut(channels).enumerate() {
            match usize::try_from(window.token(t, j)) {
                Ok(token) if token < time => {
                    out.copy_from_slice(&x[(sequence * time + token) * channels..][..channels]);
                }
                _ => out.fill(0.0),
            }
        }
    });
}

/// y\[t, c\] = sum_j weights(t)\[h(c), j\] unfolded\[t, j, c\], with the weights `[heads, K]` of each token.
fn multiply_and_sum<'a>(
    unfolded: &[f32],
    Shape { channels, window, .. }: Shape,
    heads: usize,
    weights: impl Fn(usize) -> &'a [f32] + Sync,
    y: &mut [f32],
) {
    let (width, head_channels) = (window.width(), channels / heads);
    let rows = y.par_chunks_mut(channels).zip(unfolded.par_chunks(width * channels));
    rows.enumerate().for_each(|(t, (y, unfolded))| {
        let weights = weights(t);
        y.fill(0.0);
        for (j, x) in unfolded.chunks_exact(channels).enumerate() {
            let of_heads = y.chunks_exact_mut(head_channels).zip(x.chunks_exact(head_channels));
            for (h, (y, x)) in of_heads.enumerate() {
                let weight = weights[h * width + j];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
            }
        }
    });
}

/// Panics unless the compositions compute what the operators do.
pub(crate) fn check_against_operators() -> Result<()> {
    let (batch, time, channels, heads, window) = (2, 40, 16, 4, Window::same(7)?);
    let width = window.width();
    let mut unfused = Unfused::new(Shape { time, channels, heads, window });
    let of_tokens = [batch, time, channels];
    let x = noise(batch * time * channels);
    let query: Vec<f32> = x.iter().map(|x| x * x).collect();
    let value: Vec<f32> = x.iter().map(|x| 1.0 - x).collect();
    let filter = noise(heads * width);
    let weight = noise(heads * width * channels);
    let depthwise = noise(channels * width);
    let pointwise = noise(channels * channels);
    let mut y = vec![0.0; x.len()];

    let xs = tensor(&x, &of_tokens)?;
    let filters = tensor(&filter, &[heads, width])?;
    unfused.light_conv(&x, &filter, &mut y);
    assert_close(&y, &ops::light_conv(&xs, &filters, window, &Default::default())?)?;

    let weights = tensor(&weight, &[heads * width, channels])?;
    unfused.dynamic_conv(&x, &weight, &mut y)?;
    assert_close(&y, &ops::dynamic_conv(&xs, &weights, heads, window, &Default::default())?)?;

    let (queries, values) = (tensor(&query, &of_tokens)?, tensor(&value, &of_tokens)?);
    let tensors = ops::SpanConvTensors {
        x: &xs,
        query: (&queries).into(),
        value: (&values).into(),
        depthwise: &tensor(&depthwise, &[channels, width])?,
        pointwise: &tensor(&pointwise, &[channels, channels])?,
        weight: &weights,
    };
    let inputs = SpanConv {
        x: &x,
        query: &query,
        value: &value,
        depthwise: &depthwise,
        pointwise: &pointwise,
        weight: &weight,
    };
    unfused.span_conv(&inputs, &mut y)?;
    assert_close(&y, &ops::span_conv(&tensors, heads, window, &Default::default())?)
}

fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(values, shape, &Device::cpu())
}

pub(crate) fn assert_close(unfused: &[f32], fused: &Tensor) -> Result<()> {
    for (i, (a, b)) in unfused.iter().zip(fused.to_f32()?).enumerate() {
        assert!((a - b).abs() < 1e-4, "element {i}: {a} unfused, {b} fused");
    }
    Ok(())
}
