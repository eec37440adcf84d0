//! Layers of encoders and whole ones: convolutions of each kind, ConvBERT's mixed attention, and the Transformer.
//!
//! On tensors, as they are used: times include what the host does for each operator and making what it gives, and on a GPU they
//! are those of the clock on the wall, until all calls are done. Bytes are those of the operators one after another, each of its
//! inputs and outputs once: the speed is what all of them reach together.

use std::cell::OnceCell;

use criterion::Criterion;
use lightspan::models::{
    ConvBert, ConvBertConfig, LoadOptions, PretrainedConvConfig, PretrainedMixer, Weights,
};
use lightspan::nn::{Embeddings, Encoder, EncoderLayer};
use lightspan::{DType, Device, Result, Sequences, Tensor, Tokens};

use crate::cost::{Call, Work};
use crate::figures::measuring;
use crate::support::{Group, Line, Size, WIDTH, measure_copy, measure_until_done};

/// Rows of the tables of whole encoders.
const VOCABULARY: usize = 32_000;

/// Taps of ConvBERT's convolutions, as published.
const SPAN_WIDTH: usize = 9;

/// Whole encoders of one shape, in one type, over as many tokens in sequences of each length.
pub(crate) struct Encoders {
    layers: usize,
    channels: usize,
    heads: usize,
    /// Rows of the table of tokens.
    vocabulary: usize,
    /// Of a call, in all.
    tokens: usize,
    dtype: DType,
}

/// The channels of the base models of Wu et al. 2019.
pub(crate) const SMALL: Encoders = Encoders {
    layers: 6,
    channels: 512,
    heads: 8,
    vocabulary: VOCABULARY,
    tokens: 8 * 512,
    dtype: DType::F32,
};

/// The base model of Tay et al. 2021, of as many tokens as fill any GPU.
pub(crate) const BASE: Encoders = Encoders {
    layers: 12,
    channels: 768,
    heads: 12,
    vocabulary: VOCABULARY,
    tokens: 8 * 4096,
    dtype: DType::BF16,
};

/// Lengths of their sequences.
const ENCODER_LENGTHS: [usize; 3] = [128, 512, 2048];

/// What mixes the tokens of a layer.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Depthwise,
    /// Taps two tokens apart.
    Dilated,
    Light,
    Dynamic,
    /// Heads of attention and of span-based convolution, half as many of each.
    ConvBert,
    Transformer,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] =
        [Kind::Depthwise, Kind::Dilated, Kind::Light, Kind::Dynamic, Kind::ConvBert, Kind::Transformer];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Depthwise => "depthwise",
            Kind::Dilated => "dilated",
            Kind::Light => "light",
            Kind::Dynamic => "dynamic",
            Kind::ConvBert => "ConvBERT",
            Kind::Transformer => "Transformer",
        }
    }

    /// None for ConvBERT, whose layers are others.
    pub(crate) fn mixer(self, heads: usize) -> Option<PretrainedMixer> {
        Some(match self {
            Kind::Depthwise => PretrainedMixer::Depthwise { width: WIDTH },
            Kind::Dilated => PretrainedMixer::Dilated { widths: vec![WIDTH], dilation: 2 },
            Kind::Light => PretrainedMixer::Light { width: WIDTH, heads },
            Kind::Dynamic => PretrainedMixer::Dynamic { width: WIDTH, heads },
            Kind::ConvBert => return None,
            Kind::Transformer => PretrainedMixer::Attention,
        })
    }

    /// The encoder of this kind with weights that are drawn, for sequences of up to `longest` tokens.
    fn model(self, shape: &Encoders, longest: usize, device: &Device) -> Result<Model> {
        let Encoders { layers, channels, heads, vocabulary, dtype, .. } = *shape;
        let options = LoadOptions { dtype: Some(dtype), ..Default::default() };
        let weights = Weights::drawn(1, device, options);
        let Some(mixer) = self.mixer(heads) else {
            let config = ConvBertConfig {
                vocab_size: vocabulary,
                hidden_size: channels,
                embedding_size: channels,
                num_hidden_layers: layers,
                num_attention_heads: heads,
                intermediate_size: 4 * channels,
                max_position_embeddings: longest,
                conv_kernel_size: SPAN_WIDTH,
                ..Default::default()
            };
            return ConvBert::new(&config, &weights).map(Model::ConvBert);
        };
        let config = PretrainedConvConfig {
            vocab_size: vocabulary,
            embed_dim: channels,
            ffn_embed_dim: 4 * channels,
            attention_heads: heads,
            encoder_layers: layers,
            decoder_layers: 0,
            pointwise: false,
            max_positions: longest,
            ..PretrainedConvConfig::base(mixer)
        };
        let model = config.seq2seq(&weights)?;
        Ok(Model::Pretrained(model.source, model.encoder))
    }
}

enum Model {
    Pretrained(Embeddings, Encoder),
    ConvBert(ConvBert),
}

impl Model {
    fn forward(&self, tokens: &Tokens, sequences: &Sequences) -> Result<Tensor> {
        match self {
            Model::Pretrained(embeddings, encoder) => {
                encoder.forward(embeddings.forward(tokens, None, sequences)?, sequences, sequences)
            }
            Model::ConvBert(model) => model.forward(tokens, None, sequences),
        }
    }

    fn encoder(&self) -> &Encoder {
        match self {
            Model::Pretrained(_, encoder) => encoder,
            Model::ConvBert(model) => &model.encoder,
        }
    }

    /// Bytes of a model that has `layers` layers like its first.
    fn bytes(&self, call: Call, layers: usize) -> Result<u64> {
        let embeddings = match self {
            Model::Pretrained(embeddings, _) => vec![call.embeddings(embeddings)?],
            Model::ConvBert(model) => {
                let norm = call.norm(&model.embeddings_norm, Default::default())?;
                vec![call.embeddings(&model.embeddings)?, norm]
            }
        };
        let all = bytes(&call.encoder(self.encoder())?);
        let layer = bytes(&call.layer(&self.encoder().layers[0])?);
        Ok(bytes(&embeddings) + all - self.encoder().layers.len() as u64 * layer + layers as u64 * layer)
    }
}

fn bytes(work: &[Work]) -> u64 {
    work.iter().map(|work| work.bytes).sum()
}

/// A layer of each kind.
pub(crate) fn layer_by_length(
    criterion: &mut Criterion,
    device: &Device,
    name: &str,
    sizes: [Size; 7],
    dtype: DType,
) -> Result<()> {
    let mut group = Group::new(criterion, name, device);
    let Size { channels, heads, .. } = sizes[0];
    let one = Encoders { layers: 1, channels, heads, vocabulary: 1, tokens: sizes[0].all(), dtype };
    let layer = |kind: Kind| -> Result<(Kind, EncoderLayer)> {
        let model = kind.model(&one, 1, device)?;
        Ok((kind, model.encoder().layers[0].clone()))
    };
    let layers = Kind::ALL.into_iter().map(layer).collect::<Result<Vec<_>>>()?;
    for size in sizes {
        measure_copy(&mut group, size.time, size.bytes(dtype));
        let sequences = size.sequences()?;
        for (kind, layer) in &layers {
            let work = Call { sequences: sequences.shape(), dtype }.layer(layer)?;
            let line = (Line::new(kind.name(), size.time), bytes(&work));
            let make = || size.tokens(dtype, device);
            measure_until_done(&mut group, line.0, line.1, make, |x| {
                layer.forward(x, &sequences, &sequences).map(drop)
            });
        }
    }
    group.finish();
    Ok(())
}

/// Whole encoders, from the ids of tokens.
pub(crate) fn by_length(
    criterion: &mut Criterion,
    device: &Device,
    name: &str,
    shape: Encoders,
) -> Result<()> {
    let mut group = Group::new(criterion, name, device);
    // To see that they run, one layer does.
    let shape = Encoders { layers: if measuring() { shape.layers } else { 1 }, ..shape };
    let longest = ENCODER_LENGTHS[ENCODER_LENGTHS.len() - 1];
    for time in ENCODER_LENGTHS {
        measure_copy(&mut group, time, shape.tokens * shape.channels * shape.dtype.size());
    }
    for kind in Kind::ALL {
        // Large: made when something is timed. One of a layer says what must move.
        let model = OnceCell::new();
        let small = kind.model(&Encoders { layers: 1, ..shape }, longest, device)?;
        for time in ENCODER_LENGTHS {
            let sequences = Sequences::batch(shape.tokens / time, time)?;
            let call = Call { sequences: sequences.shape(), dtype: shape.dtype };
            let bytes = small.bytes(call, shape.layers)?;
            // No two near one another are neighbours in the table.
            let ids: Vec<u32> = (0..shape.tokens).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
            let make = || {
                if model.get().is_none() {
                    // There is none, and so it is set.
                    let _ = model.set(kind.model(&shape, longest, device)?);
                }
                Tokens::from_slice(&ids, &[shape.tokens / time, time], device)
            };
            measure_until_done(&mut group, Line::new(kind.name(), time), bytes, make, |tokens| {
                let model = model.get().expect("made with the tokens");
                model.forward(tokens, &sequences).map(drop)
            });
        }
    }
    group.finish();
    Ok(())
}
