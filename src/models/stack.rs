//! Encoders and decoders from parameters by the names that fairseq gives them.

use crate::models::Weights;
use crate::nn::{
    Conv, ConvBlock, CrossAttention, Decoder, DecoderLayer, DecoderMixer, DynamicConv, Encoder, EncoderLayer,
    EncoderMixer, FeedForward, LightConv, Linear, MultiHeadAttention, Norm, NormOrder, Parameter,
    SelfAttention,
};
use crate::problem::{Activation, NormKind};
use crate::{Normalize, Result, Tensor, Window};

/// The sizes of a stack of layers.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// Channels of a token between layers.
    pub(crate) channels: usize,
    /// Channels of a token in a convolution.
    pub(crate) conv_channels: usize,
    /// Channels of a feed-forward layer.
    pub(crate) ffn: usize,
    /// Heads of attention.
    pub(crate) attention_heads: usize,
    /// Whether a convolution has a gated linear unit before it.
    pub(crate) glu: bool,
    /// Whether the linear layers beside a convolution, and those of feed-forward layers, have biases.
    pub(crate) bias: bool,
    /// Whether those of attention have.
    pub(crate) attention_bias: bool,
    pub(crate) order: NormOrder,
    pub(crate) norm: NormShape,
    /// Whether what the last layer gives is normalised.
    pub(crate) last_norm: bool,
    /// What mixes tokens, for each layer.
    pub(crate) mixers: Vec<MixerShape>,
}

/// What a norm is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormShape {
    pub(crate) kind: NormKind,
    pub(crate) bias: bool,
    pub(crate) eps: f32,
}

/// What mixes the tokens of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MixerShape {
    Attention,
    Conv(ConvShape),
}

/// What a convolution is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvShape {
    /// Whether each token makes its own filters.
    pub(crate) dynamic: bool,
    /// Whether what makes them has a bias for certain; otherwise it has one if the weights do.
    pub(crate) weight_bias: bool,
    /// Whether a linear layer of as many channels follows.
    pub(crate) pointwise: bool,
    pub(crate) heads: usize,
    pub(crate) window: Window,
    pub(crate) normalize: Normalize,
}

impl Weights<'_> {
    /// A linear layer: `weight` `[outputs, inputs]` and `bias`.
    pub(crate) fn linear(&self, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        let bias = bias.then(|| self.get("bias", &[outputs])).transpose()?;
        Ok(Linear { bias, ..Linear::new(self.get("weight", &[outputs, inputs])?) })
    }

    /// Linear layers of the same inputs as one, their outputs one after another.
    pub(crate) fn side_by_side(
        &self,
        names: &[&str],
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear> {
        let all = |name: &str, shape: &[usize]| -> Result<Parameter> {
            let mut values = vec![];
            for layer in names {
                values.extend(self.at(layer).values(name, shape)?);
            }
            let mut shape = shape.to_vec();
            shape[0] *= names.len();
            Tensor::from_f32(&values, &shape, self.dtype(), self.device()).map(Parameter::new)
        };
        let bias = bias.then(|| all("bias", &[outputs])).transpose()?;
        Ok(Linear { bias, ..Linear::new(all("weight", &[outputs, inputs])?) })
    }

    /// A norm: `weight` and `bias`.
    pub(crate) fn norm(&self, shape: NormShape, channels: usize) -> Result<Norm> {
        let NormShape { kind, bias, eps } = shape;
        let bias = bias.then(|| self.get("bias", &[channels])).transpose()?;
        Ok(Norm { kind, weight: self.get("weight", &[channels])?, bias, eps })
    }
}

impl Stack {
    /// `layers.0` and so on, and `layer_norm`.
    pub(crate) fn encoder(&self, weights: &Weights<'_>) -> Result<Encoder> {
        let layer = |(i, &mixer): (usize, &MixerShape)| {
            let weights = weights.at("layers").at(i);
            let (mixer, mixer_norm, ffn_norm) = match mixer {
                MixerShape::Attention => {
                    let attention = self.self_attention(&weights.at("self_attn"))?;
                    (EncoderMixer::Attention(attention), "self_attn_layer_norm", "final_layer_norm")
                }
                MixerShape::Conv(conv) => {
                    // fairseq had the norms in a list before it had them by name.
                    let norm = |name, before| weights.first_of(&[name, before]).trim_end_matches(".weight");
                    let block = EncoderMixer::Conv(self.conv_block(conv, &weights)?);
                    let first = norm("layer_norm1.weight", "layer_norms.0.weight");
                    (block, first, norm("layer_norm2.weight", "layer_norms.1.weight"))
                }
            };
            Ok(EncoderLayer {
                mixer,
                mixer_norm: weights.at(mixer_norm).norm(self.norm, self.channels)?,
                feed_forward: self.feed_forward(&weights)?,
                feed_forward_norm: weights.at(ffn_norm).norm(self.norm, self.channels)?,
                order: self.order,
            })
        };
        let layers = self.mixers.iter().enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Encoder { layers, norm: self.last_norm(weights)? })
    }

    /// The same for a decoder, whose layers attend to an encoder where `cross` says so.
    pub(crate) fn decoder(&self, weights: &Weights<'_>, cross: bool) -> Result<Decoder> {
        let layer = |(i, &mixer): (usize, &MixerShape)| {
            let weights = weights.at("layers").at(i);
            let norm = |name| weights.at(name).norm(self.norm, self.channels);
            let (mixer, mixer_norm) = match mixer {
                MixerShape::Attention => {
                    let attention = self.self_attention(&weights.at("self_attn"))?;
                    (DecoderMixer::Attention(attention), norm("self_attn_layer_norm")?)
                }
                MixerShape::Conv(conv) => {
                    (DecoderMixer::Conv(self.conv_block(conv, &weights)?), norm("conv_layer_norm")?)
                }
            };
            let attention = || {
                Ok(CrossAttention {
                    attention: self.attention(&weights.at("encoder_attn"))?,
                    norm: norm("encoder_attn_layer_norm")?,
                })
            };
            Ok(DecoderLayer {
                mixer,
                mixer_norm,
                cross: cross.then(attention).transpose()?,
                feed_forward: self.feed_forward(&weights)?,
                feed_forward_norm: norm("final_layer_norm")?,
                order: self.order,
            })
        };
        let layers = self.mixers.iter().enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Decoder { layers, norm: self.last_norm(weights)? })
    }

    fn last_norm(&self, weights: &Weights<'_>) -> Result<Option<Norm>> {
        self.last_norm.then(|| weights.at("layer_norm").norm(self.norm, self.channels)).transpose()
    }

    fn feed_forward(&self, weights: &Weights<'_>) -> Result<FeedForward> {
        let input = weights.at("fc1").linear(self.channels, self.ffn, self.bias)?;
        Ok(FeedForward {
            input: Linear { activation: Activation::Relu, ..input },
            output: weights.at("fc2").linear(self.ffn, self.channels, self.bias)?,
        })
    }

    fn attention(&self, weights: &Weights<'_>) -> Result<MultiHeadAttention> {
        let projection = |name| weights.at(name).linear(self.channels, self.channels, self.attention_bias);
        Ok(MultiHeadAttention {
            query: projection("q_proj")?,
            key: projection("k_proj")?,
            value: projection("v_proj")?,
            output: projection("out_proj")?,
            heads: self.attention_heads,
            scale: None,
        })
    }

    fn self_attention(&self, weights: &Weights<'_>) -> Result<SelfAttention> {
        let (channels, bias) = (self.channels, self.attention_bias);
        let names = ["q_proj", "k_proj", "v_proj"];
        Ok(SelfAttention {
            input: weights.side_by_side(&names, channels, channels, bias)?,
            output: weights.at("out_proj").linear(channels, channels, bias)?,
            heads: self.attention_heads,
            scale: None,
        })
    }

    fn conv_block(&self, conv: ConvShape, weights: &Weights<'_>) -> Result<ConvBlock> {
        let channels = self.conv_channels;
        let rows = if self.glu { 2 * channels } else { channels };
        let input = weights.at("linear1").linear(self.channels, rows, self.bias)?;
        let activation = if self.glu { Activation::Glu } else { Activation::Identity };
        let pointwise = || weights.at("conv.pointwise").linear(channels, channels, self.bias);
        Ok(ConvBlock {
            input: Linear { activation, ..input },
            conv: self.conv(conv, &weights.at("conv"))?,
            pointwise: conv.pointwise.then(pointwise).transpose()?,
            output: weights.at("linear2").linear(channels, self.channels, self.bias)?,
        })
    }

    fn conv(&self, shape: ConvShape, weights: &Weights<'_>) -> Result<Conv> {
        let ConvShape { dynamic, weight_bias, heads, window, normalize, .. } = shape;
        let (channels, width) = (self.conv_channels, window.width());
        if dynamic {
            let (linear, logits) = (weights.at("weight_linear"), heads * width);
            let bias = if weight_bias { Some(linear.get("bias", &[logits])?) } else { None };
            return Ok(Conv::Dynamic(DynamicConv {
                weight: linear.get("weight", &[logits, channels])?,
                weight_bias: bias
                    .map_or_else(|| linear.optional("bias", &[logits]), |bias| Ok(Some(bias)))?,
                bias: weights.optional("conv_bias", &[channels])?,
                heads,
                window,
                normalize,
            }));
        }
        Ok(Conv::Light(LightConv {
            weight: weights.get_as("weight", &[heads, 1, width], &[heads, width])?,
            bias: weights.optional("bias", &[channels])?,
            window,
            normalize,
        }))
    }

    /// Numbers that the parameters have in all, of those that are always there.
    pub(crate) fn parameters(&self, cross: bool) -> usize {
        let (channels, conv_channels) = (self.channels, self.conv_channels);
        let with =
            |bias: bool, inputs: usize, outputs: usize| inputs * outputs + if bias { outputs } else { 0 };
        let linear = |inputs, outputs| with(self.bias, inputs, outputs);
        let norm = channels * if self.norm.bias { 2 } else { 1 };
        let attention = 4 * with(self.attention_bias, channels, channels);
        let mixer = |mixer: &MixerShape| match *mixer {
            MixerShape::Attention => attention,
            MixerShape::Conv(ConvShape { dynamic, weight_bias, pointwise, heads, window, .. }) => {
                let filters = heads * window.width();
                let filters = if dynamic { with(weight_bias, conv_channels, filters) } else { filters };
                let rows = if self.glu { 2 * conv_channels } else { conv_channels };
                let pointwise = if pointwise { linear(conv_channels, conv_channels) } else { 0 };
                linear(channels, rows) + filters + pointwise + linear(conv_channels, channels)
            }
        };
        let feed_forward = linear(channels, self.ffn) + linear(self.ffn, channels);
        let each = feed_forward + 2 * norm + if cross { attention + norm } else { 0 };
        let mixers: usize = self.mixers.iter().map(mixer).sum();
        mixers + each * self.mixers.len() + if self.last_norm { norm } else { 0 }
    }
}
