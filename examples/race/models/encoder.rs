//! Who races: encoders of one shape that mix tokens in different ways.

use std::fmt;

use lightspan::DType;
use lightspan::models::{PretrainedConvConfig, PretrainedMixer};

use crate::args::Size;
use crate::round::Racer;

/// Taps of all but the dilated convolutions, whose widths grow from layer to layer: the paper's.
const WIDTH: usize = 7;

/// Tokens are bytes.
const VOCABULARY: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Depthwise,
    Dilated,
    Light,
    Dynamic,
    Transformer,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Depthwise, Kind::Dilated, Kind::Light, Kind::Dynamic, Kind::Transformer];

    /// Its name and its line.
    pub(crate) const fn racer(self) -> Racer {
        let (name, colour, dashed) = match self {
            Kind::Depthwise => ("depthwise", (86, 180, 233), false),
            Kind::Dilated => ("dilated", (204, 121, 167), false),
            Kind::Light => ("light", (0, 158, 115), false),
            Kind::Dynamic => ("dynamic", (0, 114, 178), false),
            Kind::Transformer => ("Transformer", (213, 94, 0), true),
        };
        Racer { name, colour, dashed }
    }

    /// The encoder of this kind, for sequences of up to so many tokens. It has no decoder.
    pub(crate) fn config(self, setting: &Setting, longest: usize) -> PretrainedConvConfig {
        let Shape { layers, channels, ffn, heads } = setting.shape;
        let mixer = match self {
            Kind::Depthwise => PretrainedMixer::Depthwise { width: WIDTH },
            Kind::Dilated => PretrainedMixer::dilated(),
            // A filter for each channel, as in the configurations whose numbers of parameters are the paper's.
            Kind::Light => PretrainedMixer::Light { width: WIDTH, heads: channels },
            Kind::Dynamic => PretrainedMixer::Dynamic { width: WIDTH, heads: channels },
            Kind::Transformer => PretrainedMixer::Attention,
        };
        PretrainedConvConfig {
            vocab_size: VOCABULARY,
            embed_dim: channels,
            ffn_embed_dim: ffn,
            attention_heads: heads,
            encoder_layers: layers,
            decoder_layers: 0,
            max_positions: longest,
            ..PretrainedConvConfig::base(mixer)
        }
    }
}

/// What all encoders of a race have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) size: Size,
    pub(crate) shape: Shape,
    pub(crate) batch: usize,
    pub(crate) dtype: DType,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) channels: usize,
    /// Channels of the feed-forward layers.
    pub(crate) ffn: usize,
    /// Of attention.
    pub(crate) heads: usize,
}

impl Shape {
    pub(crate) const fn of(size: Size) -> Self {
        match size {
            Size::Tiny => Shape { layers: 2, channels: 128, ffn: 512, heads: 4 },
            Size::Small => Shape { layers: 6, channels: 512, ffn: 2048, heads: 8 },
            Size::Base => Shape { layers: 12, channels: 768, ffn: 3072, heads: 12 },
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { size, shape: Shape { layers, channels, ffn, .. }, batch, dtype } = self;
        let size = format!("{size:?}").to_lowercase();
        write!(f, "{dtype}, {size}: {layers} layers of {channels} and {ffn} channels, batch {batch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_encoders_are_the_papers() {
        let setting = Setting { size: Size::Base, shape: Shape::of(Size::Base), batch: 1, dtype: DType::F32 };
        for (kind, whole) in [
            (Kind::Light, PretrainedConvConfig::light_base()),
            (Kind::Dynamic, PretrainedConvConfig::dynamic_base()),
            (Kind::Transformer, PretrainedConvConfig::base(PretrainedMixer::Attention)),
        ] {
            let PretrainedConvConfig { vocab_size, decoder_layers, .. } = whole;
            let config = kind.config(&setting, whole.max_positions);
            assert_eq!(PretrainedConvConfig { vocab_size, decoder_layers, ..config }, whole);
        }
    }
}
