//! ConvBERT of transformers, with its span-based convolutions loaded by their names, against what transformers computed.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{VarBuilder, embedding, linear, ops};
use lightspan::{Sequences, Window};
use lightspan_candle::nn;

use crate::support::{assert_same_model, fixture, normalized};

pub const FOLDER: &str = "convbert_tiny";
const HIDDEN: usize = 48;
const EMBEDDED: usize = 24;
const INNER: usize = 96;
pub const WORDS: usize = 120;
const POSITIONS: usize = 64;
const LAYERS: usize = 2;
const WIDTH: usize = 9;
/// Four heads, of which the convolutions take half, with half of the channels.
const HEADS: usize = 2;
const OUTPUTS: usize = HIDDEN / 2;
const EPS: f64 = 1e-12;

/// Attention to the tokens that are not masked.
fn attention([q, k, v]: [Tensor; 3], mask: &Tensor) -> Result<Tensor> {
    let (batch, time, channels) = q.dims3()?;
    let size = channels / HEADS;
    let heads = |x: &Tensor| x.reshape((batch, time, HEADS, size))?.transpose(1, 2)?.contiguous();
    let scores = (heads(&q)?.matmul(&heads(&k)?.t()?.contiguous()?)? / (size as f64).sqrt())?;
    let masked = ((mask.to_dtype(DType::F32)? - 1.0)? * 1e30)?.reshape((batch, 1, 1, time))?;
    let weights = ops::softmax(&scores.broadcast_add(&masked)?, D::Minus1)?;
    weights.matmul(&heads(&v)?)?.transpose(1, 2)?.reshape((batch, time, channels))
}

fn layer(x: &Tensor, mask: &Tensor, vb: &VarBuilder<'_>) -> Result<Tensor> {
    let (attended, own) = (vb.pp("attention"), vb.pp("attention.self"));
    let project = |name: &str| linear(HIDDEN, OUTPUTS, own.pp(name))?.forward(x);
    let (query, value) = (project("query")?, project("conv_out_layer")?);
    let window = Window::same(WIDTH).unwrap();
    let conv = nn::span_conv(HIDDEN, OUTPUTS, HEADS, window, Default::default(), own.clone())?;
    // As published, the convolution sees padding.
    let convolved = conv.forward_with(x, &query, &value, None, false)?;
    let attended_to = attention([query, project("key")?, project("value")?], mask)?;
    let both = Tensor::cat(&[attended_to, convolved], 2)?;
    let both = linear(HIDDEN, HIDDEN, attended.pp("output.dense"))?.forward(&both)?;
    let x = normalized(&(x + both)?, EPS, attended.pp("output.LayerNorm"))?;
    let inner = linear(HIDDEN, INNER, vb.pp("intermediate.dense"))?.forward(&x)?.gelu_erf()?;
    let outer = linear(INNER, HIDDEN, vb.pp("output.dense"))?.forward(&inner)?;
    normalized(&(x + outer)?, EPS, vb.pp("output.LayerNorm"))
}

/// What the embeddings and each layer give, and the logits.
pub fn forward(vb: &VarBuilder<'_>, words: &Tensor, types: &Tensor, mask: &Tensor) -> Result<Vec<Tensor>> {
    let embeddings = vb.pp("convbert.embeddings");
    let table = embedding(WORDS, EMBEDDED, embeddings.pp("word_embeddings"))?;
    let positions = embedding(POSITIONS, EMBEDDED, embeddings.pp("position_embeddings"))?
        .forward(&Tensor::arange(0, words.dim(1)? as u32, &Device::Cpu)?)?;
    let types = embedding(2, EMBEDDED, embeddings.pp("token_type_embeddings"))?.forward(types)?;
    let x = (table.forward(words)? + types)?.broadcast_add(&positions)?;
    let x = normalized(&x, EPS, embeddings.pp("LayerNorm"))?;
    let mut found = vec![linear(EMBEDDED, HIDDEN, vb.pp("convbert.embeddings_project"))?.forward(&x)?];
    for i in 0..LAYERS {
        found.push(layer(&found[i], mask, &vb.pp(format!("convbert.encoder.layer.{i}")))?);
    }

    let head = vb.pp("generator_predictions");
    let x = linear(HIDDEN, EMBEDDED, head.pp("dense"))?.forward(&found[LAYERS])?.gelu_erf()?;
    let x = normalized(&x, EPS, head.pp("LayerNorm"))?;
    let bias = vb.get(WORDS, "generator_lm_head.bias")?;
    found.push(x.broadcast_matmul(&table.embeddings().t()?)?.broadcast_add(&bias)?);
    Ok(found)
}

#[test]
fn masked_language_model() -> Result<()> {
    let expected = candle_core::safetensors::load(fixture(FOLDER, "expected"), &Device::Cpu)?;
    let bytes = std::fs::read(fixture(FOLDER, "model"))?;
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let words = expected["input_ids"].to_dtype(DType::U32)?;
    let types = expected["token_type_ids"].to_dtype(DType::U32)?;
    let (batch, time) = words.dims2()?;
    let all = Sequences::batch(batch, time).unwrap();
    let found = forward(&vb, &words, &types, &expected["attention_mask"])?;
    for (i, x) in found[..=LAYERS].iter().enumerate() {
        let name = format!("hidden_state_{i}");
        assert_same_model(&name, x, &expected[&name], &all)?;
    }
    assert_same_model("logits", &found[LAYERS + 1], &expected["logits"], &all)
}
