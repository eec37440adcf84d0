use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Result;
use candle_nn::VarBuilder;
use lightspan::{Dropout, DropoutRate, Error, Normalize, Window};

use crate::error::carry;

/// What the convolutions have besides their sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConvConfig {
    /// How the weights are normalised; softmax over all taps by default.
    pub normalize: Normalize,
    /// Whether a bias is added to the output; none by default.
    pub bias: bool,
    /// Whether the generator of a [`DynamicConv`](crate::nn::DynamicConv) has a bias; none by default.
    pub weight_bias: bool,
    /// The rate at which weights are dropped in training; 0 by default.
    pub weight_dropout: f32,
    /// What decides which weights are dropped, with the name of the layer and the number of the call, which begins at 0 in every
    /// program: give another where training goes on from what was saved.
    pub seed: u64,
}

/// Which convolution a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvKind {
    /// One filter for each head.
    Light,
    /// Each token generates its own filters.
    Dynamic,
}

/// The sizes of an encoder or decoder layer (Wu et al. 2019, section 5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerConfig {
    /// Channels of a token between layers.
    pub channels: usize,
    /// Channels that are convolved; as many by default.
    pub conv_channels: usize,
    /// Heads of the convolution, and of a decoder's attention.
    pub heads: usize,
    /// The window of the convolution: a causal one in decoders.
    pub window: Window,
    /// Channels of the feed-forward layer.
    pub ffn: usize,
    /// Whether a gated linear unit stands before the convolution; none by default.
    pub glu: bool,
    /// Whether layers normalise what goes into them, and not what comes out; not by default.
    pub normalize_before: bool,
    /// The rate at which outputs of the parts of a layer are dropped in training; 0 by default. fairseq's `input_dropout`,
    /// `relu_dropout` and `attention_dropout` are not there.
    pub dropout: f32,
    /// What is added to variances; 1e-5 by default.
    pub eps: f64,
    /// The convolution.
    pub conv: ConvConfig,
}

impl LayerConfig {
    /// A layer of tokens of `channels`, of which all are convolved, in `heads`, with `ffn` channels in between.
    pub fn new(channels: usize, heads: usize, window: Window, ffn: usize) -> Self {
        LayerConfig {
            channels,
            conv_channels: channels,
            heads,
            window,
            ffn,
            glu: false,
            normalize_before: false,
            dropout: 0.0,
            eps: 1e-5,
            conv: ConvConfig::default(),
        }
    }
}

/// An error unless heads divide channels.
pub(crate) fn check_heads(operator: &'static str, channels: usize, heads: usize) -> Result<()> {
    match heads {
        0 => Err(carry(operator)(Error::ZeroSize { what: "heads" })),
        _ if channels.is_multiple_of(heads) => Ok(()),
        _ => Err(carry(operator)(Error::Heads { heads, channels })),
    }
}

/// Draws the weights that a layer drops.
#[derive(Debug)]
pub(crate) struct WeightDropout {
    rate: DropoutRate,
    seed: u64,
    calls: AtomicU64,
}

impl WeightDropout {
    pub(crate) fn new(operator: &'static str, config: &ConvConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let rate = DropoutRate::new(config.weight_dropout).map_err(carry(operator))?;
        // Layers of one configuration are to drop weights of their own: FNV-1a of the name.
        let name = vb.prefix().bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Ok(WeightDropout { rate, seed: mixed(config.seed ^ name), calls: AtomicU64::new(0) })
    }

    /// What the next call drops.
    pub(crate) fn next(&self, train: bool) -> Option<Dropout> {
        if !train || self.rate.get() == 0.0 {
            return None;
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Some(self.rate.seeded(mixed(self.seed.wrapping_add(call))))
    }
}

/// Another number for each number, near ones far apart (the finalizer of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
