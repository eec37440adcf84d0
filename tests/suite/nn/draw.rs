//! Layers with drawn parameters.

use std::sync::Arc;

use lightspan::nn::{
    Conv, ConvBlock, CrossAttention, DecoderLayer, DecoderMixer, DynamicConv, EncoderLayer, EncoderMixer,
    FeedForward, LightConv, Linear, MixedAttention, MultiHeadAttention, Norm, NormOrder, Parameter,
    SelfAttention,
};
use lightspan::problem::{Activation, NormKind};
use lightspan::{DType, Device, Normalize, Tensor, Window};
use proptest::prelude::*;

use crate::support::{Numbers, dtypes};

/// What mixes the tokens of a drawn layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Depthwise,
    Light,
    Dynamic,
    Attention,
    Mixed,
}

/// The sizes of a drawn layer.
#[derive(Clone, Debug)]
pub struct Shape {
    pub kind: Kind,
    pub heads: usize,
    pub channels: usize,
    pub ffn: usize,
    pub groups: usize,
    pub activation: Activation,
    pub width: usize,
    pub dilation: usize,
    pub glu: bool,
    pub pointwise: bool,
    pub bias: bool,
    pub order: NormOrder,
    pub norm: NormKind,
    pub dtype: DType,
    pub seed: u64,
}

/// Layers of small sizes, in every form.
pub fn shape(kinds: &'static [Kind]) -> impl Strategy<Value = Shape> {
    const ACTIVATIONS: &[Activation] = &[Activation::Relu, Activation::Gelu, Activation::GeluTanh];
    const ORDERS: &[NormOrder] = &[NormOrder::Post, NormOrder::Pre, NormOrder::NormThenAdd];
    let sizes = (1usize..4, 1usize..7, 1usize..9, 1usize..3);
    let forms = (any::<[bool; 3]>(), prop::sample::select(ORDERS), any::<bool>(), dtypes());
    let activation = prop::sample::select(ACTIVATIONS);
    let kind = (prop::sample::select(kinds), activation, 1usize..12, 1usize..4);
    (kind, sizes, forms, any::<u64>()).prop_map(
        |((kind, activation, width, dilation), (heads, each, ffn, groups), forms, seed)| {
            let ([glu, pointwise, bias], order, rms, (dtype, _)) = forms;
            // Two kinds of heads have half the channels each; groups divide all.
            let channels = heads * each * 2 * groups;
            let norm = if rms { NormKind::Rms } else { NormKind::Layer };
            let ffn = 4 * ffn * groups;
            Shape {
                kind,
                heads,
                channels,
                ffn,
                groups,
                activation,
                width,
                dilation,
                glu,
                pointwise,
                bias,
                order,
                norm,
                dtype,
                seed,
            }
        },
    )
}

/// Draws parameters for a device: the same for each.
pub struct Draw<'a> {
    shape: &'a Shape,
    numbers: Numbers,
    device: &'a Device,
}

impl<'a> Draw<'a> {
    pub fn new(shape: &'a Shape, device: &'a Device) -> Self {
        Draw { shape, numbers: Numbers::new(shape.seed), device }
    }

    fn parameter(&mut self, shape: &[usize], scale: f64, middle: f64) -> Parameter {
        let mut values = self.numbers.draw(shape, DType::F32, scale as f32);
        let dtype = self.shape.dtype;
        values.data.iter_mut().for_each(|x| *x = dtype.round(*x + middle));
        values.dtype = dtype;
        let tensor: Tensor = values.on(self.device);
        Arc::new(tensor)
    }

    fn bias(&mut self, count: usize) -> Option<Parameter> {
        self.shape.bias.then(|| self.parameter(&[count], 0.5, 0.0))
    }

    fn linear(&mut self, inputs: usize, outputs: usize) -> Linear {
        self.grouped(inputs, outputs, 1, Activation::Identity)
    }

    fn grouped(&mut self, inputs: usize, outputs: usize, groups: usize, activation: Activation) -> Linear {
        let rows = if activation == Activation::Glu { 2 * outputs } else { outputs };
        let width = inputs / groups;
        let weight = self.parameter(&[rows, width], (3.0 / width as f64).sqrt(), 0.0);
        Linear { weight, bias: self.bias(rows), groups, activation }
    }

    fn norm(&mut self) -> Norm {
        let Shape { channels, norm, .. } = *self.shape;
        let weight = self.parameter(&[channels], 0.5, 1.0);
        Norm { kind: norm, weight, bias: self.bias(channels), eps: 1e-5 }
    }

    fn conv_block(&mut self, window: Window) -> ConvBlock {
        let Shape { kind, heads, channels, glu, pointwise, .. } = *self.shape;
        let activation = if glu { Activation::Glu } else { Activation::Identity };
        let input = self.grouped(channels, channels, 1, activation);
        let width = window.width();
        let conv = if kind == Kind::Dynamic {
            let weight = self.parameter(&[heads * width, channels], (3.0 / channels as f64).sqrt(), 0.0);
            let weight_bias = self.bias(heads * width);
            let bias = self.bias(channels);
            Conv::Dynamic(DynamicConv { weight_bias, bias, ..DynamicConv::new(weight, heads, window) })
        } else {
            let depthwise = kind == Kind::Depthwise;
            let heads = if depthwise { channels } else { heads };
            let normalize = if depthwise { Normalize::None } else { Normalize::Softmax };
            let weight = self.parameter(&[heads, width], (3.0 / width as f64).sqrt(), 0.0);
            Conv::Light(LightConv { normalize, bias: self.bias(channels), ..LightConv::new(weight, window) })
        };
        let pointwise = pointwise.then(|| self.linear(channels, channels));
        ConvBlock { input, conv, pointwise, output: self.linear(channels, channels) }
    }

    fn attention(&mut self) -> MultiHeadAttention {
        let Shape { heads, channels, .. } = *self.shape;
        MultiHeadAttention {
            query: self.linear(channels, channels),
            key: self.linear(channels, channels),
            value: self.linear(channels, channels),
            output: self.linear(channels, channels),
            heads,
            scale: None,
        }
    }

    fn self_attention(&mut self) -> SelfAttention {
        let Shape { heads, channels, .. } = *self.shape;
        let (input, output) = (self.linear(channels, 3 * channels), self.linear(channels, channels));
        SelfAttention { input, output, heads, scale: None }
    }

    fn mixed(&mut self, window: Window) -> MixedAttention {
        let Shape { heads, channels, .. } = *self.shape;
        let (half, width) = (channels / 2, window.width());
        let key_scale = (3.0 / width as f64).sqrt();
        let conv_output = self.linear(half, channels);
        MixedAttention {
            input: self.linear(channels, 4 * half),
            depthwise: self.parameter(&[channels, width], key_scale, 0.0),
            pointwise: self.parameter(&[half, channels], (3.0 / channels as f64).sqrt(), 0.0),
            key_bias: self.bias(half),
            kernel: self.parameter(&[heads * width, half], (3.0 / half as f64).sqrt(), 0.0),
            kernel_bias: self.bias(heads * width),
            attention_output: self.linear(half, channels),
            conv_output: Linear { bias: None, ..conv_output },
            heads,
            window,
        }
    }

    fn feed_forward(&mut self) -> FeedForward {
        let Shape { channels, ffn, groups, activation, .. } = *self.shape;
        FeedForward {
            input: self.grouped(channels, ffn, groups, activation),
            output: self.grouped(ffn, channels, groups, Activation::Identity),
        }
    }

    pub fn encoder_layer(&mut self) -> EncoderLayer {
        let Shape { kind, width, dilation, order, .. } = *self.shape;
        let window = Window::same(width).and_then(|window| window.dilated(dilation)).unwrap();
        EncoderLayer {
            mixer: match kind {
                Kind::Attention => EncoderMixer::Attention(self.self_attention()),
                Kind::Mixed => EncoderMixer::Mixed(Box::new(self.mixed(window))),
                _ => EncoderMixer::Conv(self.conv_block(window)),
            },
            mixer_norm: self.norm(),
            feed_forward: self.feed_forward(),
            feed_forward_norm: self.norm(),
            order,
        }
    }

    pub fn decoder_layer(&mut self, cross: bool) -> DecoderLayer {
        let Shape { kind, width, dilation, order, .. } = *self.shape;
        let window = Window::causal(width).and_then(|window| window.dilated(dilation)).unwrap();
        DecoderLayer {
            mixer: match kind {
                Kind::Attention => DecoderMixer::Attention(self.self_attention()),
                _ => DecoderMixer::Conv(self.conv_block(window)),
            },
            mixer_norm: self.norm(),
            cross: cross.then(|| CrossAttention { attention: self.attention(), norm: self.norm() }),
            feed_forward: self.feed_forward(),
            feed_forward_norm: self.norm(),
            order,
        }
    }
}
