use anyhow::{Result, ensure};
use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;
use clap::Args;
use lightspan_candle::Sequences;
use lightspan_candle::nn::Memory;

use crate::model::{Branch, Kind, Layer, Mixer, Norm};
use crate::options::count;

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Channels of a token between layers.
    pub channels: usize,
    /// Heads of attention and of convolutions.
    pub heads: usize,
    /// Channels of the feed-forward parts.
    pub ffn: usize,
    /// Layers of an encoder and of a decoder.
    pub layers: usize,
    /// Taps of convolutions.
    pub width: usize,
}

/// The flags that sizes are given by.
#[derive(Args, Clone, Copy, Debug)]
pub struct Sizes {
    /// Channels of a token
    #[arg(long, default_value_t = 64, value_parser = count(16384))]
    pub channels: usize,
    /// Heads of attention and of convolutions
    #[arg(long, default_value_t = 4, value_parser = count(16384))]
    pub heads: usize,
    /// Layers, of an encoder and of a decoder
    #[arg(long, default_value_t = 2, value_parser = count(48))]
    pub layers: usize,
}

impl Sizes {
    /// With convolutions of a width, and feed-forward parts of four times the channels.
    ///
    /// # Errors
    ///
    /// For heads that do not divide the channels.
    pub fn with_width(self, width: usize) -> Result<Size> {
        let Sizes { channels, heads, layers } = self;
        ensure!(
            channels > 0 && channels.is_multiple_of(heads),
            "{heads} heads do not divide {channels} channels: --heads, --channels"
        );
        Ok(Size { channels, heads, ffn: 4 * channels, layers, width })
    }
}

/// What a stack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every token sees those around it.
    Encoder,
    /// No token sees what comes later, and all see an encoder's.
    Decoder,
    /// No token sees what comes later.
    Causal,
}

/// Layers one after another, and a norm behind them.
pub struct Stack {
    layers: Vec<Layer>,
    norm: Norm,
}

impl Stack {
    /// Of one kind.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(kind: Kind, size: &Size, role: Role, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        Self::of(size, role, vb, |i, vb| Mixer::new(kind, size, role, i, vb))
    }

    /// An encoder of ConvBERT's layers.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn of_branch(branch: Branch, size: &Size, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        Self::of(size, Role::Encoder, vb, |_, vb| Mixer::of_branch(branch, size, vb))
    }

    /// Of mixers that are made by their index.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn of<'a>(
        size: &Size,
        role: Role,
        vb: &VarBuilder<'a>,
        mixer: impl Fn(usize, VarBuilder<'a>) -> candle_core::Result<Mixer>,
    ) -> candle_core::Result<Self> {
        let layer = |i: usize| {
            let vb = vb.pp("layers").pp(i);
            Layer::new(mixer(i, vb.pp("mixer"))?, size, role, &vb)
        };
        let layers = (0..size.layers).map(layer).collect::<candle_core::Result<_>>()?;
        Ok(Stack { layers, norm: Norm::new(size.channels, vb.pp("norm"))? })
    }

    /// y as x `[batch, time, C]`; what stands in its padding means nothing.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        memory: Option<Memory<'_>>,
        train: bool,
    ) -> candle_core::Result<Tensor> {
        let through = |x: Tensor, layer: &Layer| layer.forward(&x, sequences, memory, train);
        self.norm.forward(&self.layers.iter().try_fold(x.clone(), through)?)
    }
}
