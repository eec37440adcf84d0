//! Whole models of fairseq, loaded by the names that its parameters have, against what fairseq computed.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Embedding, Linear, VarBuilder, embedding, linear_no_bias};
use lightspan::{Sequences, Window};
use lightspan_candle::nn;

use crate::support::{assert_same_model, fixture, normalized};

pub const WORDS: usize = 60;
const CHANNELS: usize = 32;
const FFN: usize = 64;
pub const PADDING: u32 = 1;
const EPS: f64 = 1e-5;

/// What `config.json` says of a model.
pub struct Config {
    pub folder: &'static str,
    kind: nn::ConvKind,
    heads: usize,
    encoder: &'static [usize],
    decoder: &'static [usize],
    glu: bool,
    normalize_before: bool,
    /// Whether there is one table, which makes the logits too.
    shared: bool,
}

pub const LIGHT: Config = Config {
    folder: "seq2seq_light_tiny",
    kind: nn::ConvKind::Light,
    heads: 4,
    encoder: &[3, 7, 15],
    decoder: &[3, 7],
    glu: true,
    normalize_before: false,
    shared: true,
};

pub const DYNAMIC: Config = Config {
    folder: "seq2seq_dynamic_tiny",
    kind: nn::ConvKind::Dynamic,
    heads: 2,
    encoder: &[3, 7],
    decoder: &[3, 7, 15],
    glu: false,
    normalize_before: true,
    shared: false,
};

impl Config {
    fn layer(&self, window: Window) -> nn::LayerConfig {
        let Config { glu, normalize_before, .. } = *self;
        nn::LayerConfig { glu, normalize_before, ..nn::LayerConfig::new(CHANNELS, self.heads, window, FFN) }
    }

    /// What the encoder makes of the source, and the logits of the target.
    pub fn forward(
        &self,
        vb: &VarBuilder<'_>,
        source: &Tensor,
        target: &Tensor,
        train: bool,
    ) -> Result<[Tensor; 2]> {
        let (encoder, decoder) = (vb.pp("encoder"), vb.pp("decoder"));
        let sources = sequences(source)?;
        let targets = embedding(WORDS, CHANNELS, decoder.pp("embed_tokens"))?;
        let of_source = || embedding(WORDS, CHANNELS, encoder.pp("embed_tokens"));
        let mut x = embedded(&if self.shared { targets.clone() } else { of_source()? }, source)?;
        for (i, &width) in self.encoder.iter().enumerate() {
            let layer = self.layer(Window::same(width).unwrap());
            let layer = nn::encoder_layer(self.kind, &layer, encoder.pp(format!("layers.{i}")))?;
            x = layer.forward_with(&x, Some(&sources), train)?;
        }
        if self.normalize_before {
            x = normalized(&x, EPS, encoder.pp("layer_norm"))?;
        }
        let memory = nn::Memory { tokens: &x, sequences: Some(&sources) };
        let mut y = embedded(&targets, target)?;
        for (i, &width) in self.decoder.iter().enumerate() {
            let layer = self.layer(Window::causal(width).unwrap());
            let layer = nn::decoder_layer(self.kind, &layer, decoder.pp(format!("layers.{i}")))?;
            y = layer.forward_with(&y, None, memory, train)?;
        }
        if self.normalize_before {
            y = normalized(&y, EPS, decoder.pp("layer_norm"))?;
        }
        let output = match self.shared {
            true => Linear::new(targets.embeddings().clone(), None),
            false => linear_no_bias(CHANNELS, WORDS, decoder.pp("output_projection"))?,
        };
        let logits = output.forward(&y)?;
        Ok([x, logits])
    }
}

/// Tokens with their positions: those of padding have none.
fn embedded(words: &Embedding, tokens: &Tensor) -> Result<Tensor> {
    let half = CHANNELS / 2;
    let mut positions = vec![];
    for row in tokens.to_vec2::<u32>()? {
        let mut position = PADDING;
        for token in row {
            position += u32::from(token != PADDING);
            for channel in 0..CHANNELS {
                let rate = (-((channel % half) as f64) * 10_000f64.ln() / (half - 1) as f64).exp();
                let angle = f64::from(position) * rate;
                let number = if channel < half { angle.sin() } else { angle.cos() };
                positions.push(if token == PADDING { 0.0 } else { number as f32 });
            }
        }
    }
    let embedded = (words.forward(tokens)? * (CHANNELS as f64).sqrt())?;
    let shape = embedded.shape().clone();
    embedded + Tensor::from_vec(positions, shape, &Device::Cpu)?
}

/// The sequences of tokens that are padded on the right.
pub fn sequences(tokens: &Tensor) -> Result<Sequences> {
    let rows = tokens.to_vec2::<u32>()?;
    let lengths: Vec<usize> =
        rows.iter().map(|row| row.iter().filter(|&&token| token != PADDING).count()).collect();
    for (row, &length) in rows.iter().zip(&lengths) {
        assert!(row[..length].iter().all(|&token| token != PADDING));
    }
    Ok(Sequences::padded(tokens.dim(1)?, &lengths).unwrap())
}

fn equals_fairseq(config: &Config) -> Result<()> {
    let expected = candle_core::safetensors::load(fixture(config.folder, "expected"), &Device::Cpu)?;
    let bytes = std::fs::read(fixture(config.folder, "model"))?;
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let tokens = |name: &str| expected[name].to_dtype(DType::U32);
    let (source, target) = (tokens("source_tokens")?, tokens("previous_output_tokens")?);
    let [encoded, logits] = config.forward(&vb, &source, &target, false)?;
    assert_same_model("encoder_out", &encoded, &expected["encoder_out"], &sequences(&source)?)?;
    assert_same_model("logits", &logits, &expected["logits"], &sequences(&target)?)
}

#[test]
fn light_model() -> Result<()> {
    equals_fairseq(&LIGHT)
}

#[test]
fn dynamic_model() -> Result<()> {
    equals_fairseq(&DYNAMIC)
}
