//! What layers mean, in f64 and one sequence at a time: each step of them by itself, as the papers have it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use lightspan::nn::{
    Conv, ConvBlock, DecoderLayer, DecoderMixer, EncoderLayer, EncoderMixer, FeedForward, Linear,
    MixedAttention, MultiHeadAttention, Norm, NormOrder, SelfAttention,
};
use lightspan::problem::{Activation, NormKind};
use lightspan::{Normalize, Tensor, Window};

/// The tokens of one sequence.
pub type Rows = Vec<Vec<f64>>;

thread_local! {
    /// By the norm, which its weight stands for.
    static MAGNIFIED: RefCell<BTreeMap<*const Tensor, f64>> = const { RefCell::new(BTreeMap::new()) };
}

/// How many times norms have magnified what was rounded before them, one after another and at most, since this was last asked: a
/// token of nearly equal channels has little left when their mean is taken away, and what is left is divided by its own size.
pub fn magnified() -> f64 {
    MAGNIFIED.take().values().product()
}

/// The numbers of a parameter.
fn numbers(parameter: &Tensor) -> Vec<f64> {
    parameter.to_f32().unwrap().into_iter().map(f64::from).collect()
}

fn bias(parameter: Option<&Tensor>, count: usize) -> Vec<f64> {
    parameter.map_or(vec![0.0; count], numbers)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn added(x: &Rows, y: &Rows) -> Rows {
    x.iter().zip(y).map(|(x, y)| x.iter().zip(y).map(|(x, y)| x + y).collect()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The standard normal distribution function, by Simpson's rule from zero.
fn normal(x: f64) -> f64 {
    const STEPS: usize = 2000;
    let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let (x, step) = (x.clamp(-12.0, 12.0), x.clamp(-12.0, 12.0) / STEPS as f64);
    let inner: f64 = (1..STEPS).map(|i| density(i as f64 * step) * [2.0, 4.0][i % 2]).sum();
    0.5 + (density(0.0) + inner + density(x)) * step / 3.0
}

pub fn linear(layer: &Linear, x: &Rows) -> Rows {
    let weight = numbers(&layer.weight);
    let [rows, width] = *layer.weight.shape() else { panic!("a weight is a matrix") };
    let bias = bias(layer.bias.as_deref(), rows);
    let of_token = |x: &Vec<f64>| {
        let y: Vec<f64> = (0..rows)
            .map(|row| {
                let group = row / (rows / layer.groups);
                bias[row] + dot(&weight[row * width..][..width], &x[group * width..][..width])
            })
            .collect();
        match layer.activation {
            Activation::Identity => y,
            Activation::Relu => y.into_iter().map(|y| y.max(0.0)).collect(),
            Activation::Gelu => y.into_iter().map(|y| y * normal(y)).collect(),
            Activation::GeluTanh => y
                .into_iter()
                .map(|y| {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y.powi(3));
                    0.5 * y * (1.0 + inner.tanh())
                })
                .collect(),
            Activation::Glu => {
                let (a, b) = y.split_at(rows / 2);
                a.iter().zip(b).map(|(a, b)| a * sigmoid(*b)).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    x.iter().map(of_token).collect()
}

pub fn norm(layer: &Norm, x: &Rows) -> Rows {
    let weight = numbers(&layer.weight);
    let bias = bias(layer.bias.as_deref(), weight.len());
    let of_token = |x: &Vec<f64>| {
        let count = x.len() as f64;
        let mean = match layer.kind {
            NormKind::Layer => x.iter().sum::<f64>() / count,
            NormKind::Rms => 0.0,
        };
        let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let root = (square + f64::from(layer.eps)).sqrt();
        let largest = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        MAGNIFIED.with_borrow_mut(|all| {
            let most = all.entry(Arc::as_ptr(&layer.weight)).or_insert(1.0);
            *most = most.max(largest / root);
        });
        (0..x.len()).map(|c| (x[c] - mean) / root * weight[c] + bias[c]).collect()
    };
    x.iter().map(of_token).collect()
}

/// Taps \[t\]\[head K + j\] over tokens, each token's by itself.
fn convolve(x: &Rows, taps: &Rows, heads: usize, window: Window, normalize: Normalize) -> Rows {
    let width = window.width();
    let of_token = |t: usize| {
        let channels = x[t].len();
        let mut y = vec![0.0; channels];
        for (c, y) in y.iter_mut().enumerate() {
            let taps = &taps[t][c / (channels / heads) * width..][..width];
            let total: f64 = taps.iter().map(|tap| tap.exp()).sum();
            for (j, &tap) in taps.iter().enumerate() {
                let weight = match normalize {
                    Normalize::None => tap,
                    Normalize::Softmax => tap.exp() / total,
                    Normalize::SoftmaxInRange => panic!("no layer here has it"),
                };
                let from = t as isize + (j * window.dilation()) as isize - window.left() as isize;
                if let Some(token) = usize::try_from(from).ok().and_then(|from| x.get(from)) {
                    *y += weight * token[c];
                }
            }
        }
        y
    };
    (0..x.len()).map(of_token).collect()
}

fn with_bias(y: Rows, bias: Option<&Tensor>) -> Rows {
    let Some(bias) = bias.map(numbers) else { return y };
    y.into_iter().map(|y| y.iter().zip(&bias).map(|(y, bias)| y + bias).collect()).collect()
}

fn conv(layer: &Conv, x: &Rows) -> Rows {
    match layer {
        Conv::Light(conv) => {
            let heads = conv.weight.shape()[0];
            let taps = vec![numbers(&conv.weight); x.len()];
            with_bias(convolve(x, &taps, heads, conv.window, conv.normalize), conv.bias.as_deref())
        }
        Conv::Dynamic(conv) => {
            let generator = Linear { bias: conv.weight_bias.clone(), ..Linear::new(conv.weight.clone()) };
            let taps = linear(&generator, x);
            with_bias(convolve(x, &taps, conv.heads, conv.window, conv.normalize), conv.bias.as_deref())
        }
    }
}

pub fn conv_block(block: &ConvBlock, x: &Rows) -> Rows {
    let mut y = conv(&block.conv, &linear(&block.input, x));
    if let Some(pointwise) = &block.pointwise {
        y = linear(pointwise, &y);
    }
    linear(&block.output, &y)
}

/// Heads of softmax(q k^T / sqrt(D)) v; the last query is the last key where it is `causal`.
fn attend(q: &Rows, k: &Rows, v: &Rows, heads: usize, causal: bool) -> Rows {
    let of_query = |t: usize| {
        let width = q[t].len() / heads;
        let mut y = vec![0.0; q[t].len()];
        for h in 0..heads {
            let head = h * width..(h + 1) * width;
            let seen = if causal { k.len() - (q.len() - 1 - t) } else { k.len() };
            let scale = (width as f64).sqrt().recip();
            let scores: Vec<f64> =
                k[..seen].iter().map(|k| dot(&q[t][head.clone()], &k[head.clone()]) * scale).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            for (score, v) in scores.iter().zip(v) {
                for c in head.clone() {
                    y[c] += (score - largest).exp() / total * v[c];
                }
            }
        }
        y
    };
    (0..q.len()).map(of_query).collect()
}

fn attention(layer: &MultiHeadAttention, x: &Rows, seen: &Rows) -> Rows {
    let (q, k, v) = (linear(&layer.query, x), linear(&layer.key, seen), linear(&layer.value, seen));
    linear(&layer.output, &attend(&q, &k, &v, layer.heads, false))
}

/// Tokens see the first `keys`, and no later ones where it is `causal`.
fn self_attention(layer: &SelfAttention, x: &Rows, keys: usize, causal: bool) -> Rows {
    let [q, k, v] = parts(&linear(&layer.input, x));
    let (k, v) = (k[..keys].to_vec(), v[..keys].to_vec());
    linear(&layer.output, &attend(&q, &k, &v, layer.heads, causal))
}

/// As many channels of each token for each part.
fn parts<const N: usize>(x: &Rows) -> [Rows; N] {
    std::array::from_fn(|i| {
        let part = |x: &Vec<f64>| x[x.len() / N * i..x.len() / N * (i + 1)].to_vec();
        x.iter().map(part).collect()
    })
}

/// Convolution sees all tokens, attention the first `keys`.
pub fn mixed(layer: &MixedAttention, x: &Rows, keys: usize) -> Rows {
    let [query, key, value, conv_value] = parts(&linear(&layer.input, x));
    let (key, value) = (key[..keys].to_vec(), value[..keys].to_vec());
    let attended = attend(&query, &key, &value, layer.heads, false);
    // The separable key, times the query.
    let channels = layer.depthwise.shape()[0];
    let taps = vec![numbers(&layer.depthwise); x.len()];
    let depthwise = convolve(x, &taps, channels, layer.window, Normalize::None);
    let pointwise = Linear { bias: layer.key_bias.clone(), ..Linear::new(layer.pointwise.clone()) };
    let span: Rows = linear(&pointwise, &depthwise)
        .iter()
        .zip(&query)
        .map(|(key, query)| key.iter().zip(query).map(|(key, query)| key * query).collect())
        .collect();
    let kernel = Linear { bias: layer.kernel_bias.clone(), ..Linear::new(layer.kernel.clone()) };
    let taps = linear(&kernel, &span);
    let convolved = convolve(&conv_value, &taps, layer.heads, layer.window, Normalize::Softmax);
    added(&linear(&layer.attention_output, &attended), &linear(&layer.conv_output, &convolved))
}

fn feed_forward(layer: &FeedForward, x: &Rows) -> Rows {
    linear(&layer.output, &linear(&layer.input, x))
}

fn around(order: NormOrder, layer: &Norm, x: &Rows, sublayer: impl Fn(&Rows) -> Rows) -> Rows {
    match order {
        NormOrder::Post => norm(layer, &added(x, &sublayer(x))),
        NormOrder::Pre => added(x, &sublayer(&norm(layer, x))),
        NormOrder::NormThenAdd => added(x, &norm(layer, &sublayer(x))),
    }
}

pub fn encoder_layer(layer: &EncoderLayer, x: &Rows, keys: usize) -> Rows {
    let x = around(layer.order, &layer.mixer_norm, x, |x| match &layer.mixer {
        EncoderMixer::Conv(block) => conv_block(block, x),
        EncoderMixer::Attention(layer) => self_attention(layer, x, keys, false),
        EncoderMixer::Mixed(layer) => mixed(layer, x, keys),
    });
    around(layer.order, &layer.feed_forward_norm, &x, |x| feed_forward(&layer.feed_forward, x))
}

pub fn decoder_layer(layer: &DecoderLayer, x: &Rows, memory: Option<&Rows>) -> Rows {
    let mut x = around(layer.order, &layer.mixer_norm, x, |x| match &layer.mixer {
        DecoderMixer::Conv(block) => conv_block(block, x),
        DecoderMixer::Attention(layer) => self_attention(layer, x, x.len(), true),
    });
    if let (Some(cross), Some(memory)) = (&layer.cross, memory) {
        x = around(layer.order, &cross.norm, &x, |x| attention(&cross.attention, x, memory));
    }
    around(layer.order, &layer.feed_forward_norm, &x, |x| feed_forward(&layer.feed_forward, x))
}
