//! A token after another: steps of greedy decoding, behind more and more tokens that have gone by.
//!
//! A call is one step of all sequences: the embedding of the last token, all layers of the decoder, the logits, and the likeliest
//! next token, which the host waits for. Bytes are what a step has to read: every parameter, the keys and values of an encoder's
//! tokens, and what attention remembers of those that have gone by, or convolutions of the last few.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use criterion::Criterion;
use lightspan::models::{LoadOptions, PretrainedConvConfig, Seq2Seq, Weights, greedy};
use lightspan::nn::{DecoderState, Memory};
use lightspan::{DType, Device, Result, Sequences, Tensor, Tokens};

use crate::encoders::Kind;
use crate::figures::measuring;
use crate::support::{Group, Line, WIDTH, measure_copy, rotate, tensor};

const VOCABULARY: usize = 32_000;

/// Tokens of what an encoder made.
const SOURCE: usize = 64;

/// Tokens that have gone by in the end. Up to such a number a cache does not grow.
const LENGTHS: [usize; 3] = [64, 512, 2048];

/// Steps between two beginnings, at most: those that end at a length.
const STEPS: u64 = 32;

/// A decoder, and how many sequences it goes on with at once.
pub(crate) struct Decoding {
    layers: usize,
    channels: usize,
    heads: usize,
    sequences: usize,
    dtype: DType,
}

pub(crate) const SMALL: Decoding =
    Decoding { layers: 6, channels: 512, heads: 8, sequences: 1, dtype: DType::F32 };

/// The base model of Tay et al. 2021, of some sequences.
pub(crate) const BASE: Decoding =
    Decoding { layers: 12, channels: 768, heads: 12, sequences: 32, dtype: DType::BF16 };

impl Decoding {
    /// A decoder of this kind, which attends to an encoder that is not there.
    fn config(&self, kind: Kind) -> Option<PretrainedConvConfig> {
        let Decoding { layers, channels, heads, .. } = *self;
        let config = PretrainedConvConfig::base(kind.mixer(heads)?);
        Some(PretrainedConvConfig {
            vocab_size: VOCABULARY,
            embed_dim: channels,
            ffn_embed_dim: 4 * channels,
            attention_heads: heads,
            encoder_layers: 0,
            decoder_layers: layers,
            pointwise: false,
            max_positions: LENGTHS[LENGTHS.len() - 1],
            ..config
        })
    }

    /// What a step reads.
    fn bytes(&self, kind: Kind, config: &PretrainedConvConfig, past: usize) -> Result<u64> {
        let tables = 2 * config.max_positions * self.channels;
        let kept = match kind {
            Kind::Transformer => 2 * past,
            Kind::Dilated => 2 * (WIDTH - 1),
            _ => WIDTH - 1,
        };
        let of_sequences = self.layers * self.sequences * (kept + 2 * SOURCE) * self.channels;
        Ok(((config.parameters()? - tables + of_sequences) * self.dtype.size()) as u64)
    }
}

/// Each kind of convolution, and the Transformer.
pub(crate) fn by_length(
    criterion: &mut Criterion,
    device: &Device,
    name: &str,
    shape: Decoding,
) -> Result<()> {
    let mut group = Group::new(criterion, name, device);
    let shape = Decoding { layers: if measuring() { shape.layers } else { 1 }, ..shape };
    measure_copy(&mut group, "64 MiB", 64 << 20);
    for kind in Kind::ALL {
        // ConvBERT is no decoder.
        let Some(config) = shape.config(kind) else { continue };
        // Large: made when something is timed.
        let decoder = OnceCell::new();
        for length in LENGTHS {
            let make = || {
                if decoder.get().is_none() {
                    // There is none, and so it is set.
                    let _ = decoder.set(Decoder::new(&config, &shape, device)?);
                }
                Ok(())
            };
            let line = (Line::new(kind.name(), length), shape.bytes(kind, &config, length)?);
            // All calls share the model, as in use: it is what they read, and more than most caches hold.
            rotate(&mut group, line, make, |_, steps| {
                let decoder = decoder.get().expect("made before anything is timed");
                decoder.time(length, steps)
            });
        }
    }
    group.finish();
    Ok(())
}

struct Decoder {
    model: Seq2Seq,
    sequences: usize,
    /// What an encoder made.
    memory: Tensor,
    sources: Sequences,
}

impl Decoder {
    fn new(config: &PretrainedConvConfig, shape: &Decoding, device: &Device) -> Result<Self> {
        let options = LoadOptions { dtype: Some(shape.dtype), ..Default::default() };
        Ok(Decoder {
            model: config.seq2seq(&Weights::drawn(1, device, options))?,
            sequences: shape.sequences,
            memory: tensor(&[shape.sequences, SOURCE, shape.channels], shape.dtype, device)?,
            sources: Sequences::batch(shape.sequences, SOURCE)?,
        })
    }

    /// The time of so many steps, some of them behind as many tokens as then make `length`.
    fn time(&self, length: usize, steps: u64) -> Result<Duration> {
        let mut time = Duration::ZERO;
        let mut left = steps;
        while left > 0 {
            let some = left.min(STEPS);
            let (mut state, one_each) =
                (self.state(length - some as usize)?, Sequences::batch(self.sequences, 1)?);
            let last = self.tokens(1)?;
            self.memory.device().synchronize()?;
            let begin = Instant::now();
            greedy(&self.model, &mut state, &last, &one_each, None, some as usize)?;
            time += begin.elapsed();
            left -= some;
        }
        Ok(time)
    }

    /// Once `past` tokens have gone by.
    fn state(&self, past: usize) -> Result<DecoderState> {
        let mut state = self.model.begin(Memory { tokens: &self.memory, sequences: &self.sources })?;
        let x = self.tokens(past)?;
        let sequences = Sequences::batch(self.sequences, past)?;
        // The logits of a prompt are not asked for.
        let x = self.model.target.forward(&x, None, &sequences)?;
        self.model.decoder.step(x, &sequences, &mut state)?;
        Ok(state)
    }

    fn tokens(&self, time: usize) -> Result<Tokens> {
        let count = self.sequences * time;
        let ids: Vec<u32> = (0..count).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
        Tokens::from_slice(&ids, &[self.sequences, time], self.memory.device())
    }
}
