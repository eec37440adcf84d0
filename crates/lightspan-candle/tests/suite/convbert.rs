//! ConvBERT of transformers, with its span-based convolutions loaded by their names, against what transformers computed.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{VarBuilder, embedding, layer_norm, linear, ops};
use lightspan::{Sequences, Window};
use lightspan_candle::nn;

use crate::support::{assert_same_model, fixture};

const FOLDER: &str = "convbert_tiny";
const HIDDEN: usize = 48;
const EMBEDDED: usize = 24;
const INNER: usize = 96;
const WORDS: usize = 120;
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
    let x = layer_norm(HIDDEN, EPS, attended.pp("output.LayerNorm"))?.forward(&(x + both)?)?;
    let inner = linear(HIDDEN, INNER, vb.pp("intermediate.dense"))?.forward(&x)?.gelu_erf()?;
    let outer = linear(INNER, HIDDEN, vb.pp("output.dense"))?.forward(&inner)?;
    layer_norm(HIDDEN, EPS, vb.pp("output.LayerNorm"))?.forward(&(x + outer)?)
}

#[test]
fn masked_language_model() -> Result<()> {
    let expected = candle_core::safetensors::load(fixture(FOLDER, "expected"), &Device::Cpu)?;
    let bytes = std::fs::read(fixture(FOLDER, "model"))?;
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let words = expected["input_ids"].to_dtype(DType::U32)?;
    let (batch, time) = words.dims2()?;
    let all = Sequences::batch(batch, time).unwrap();

    let embeddings = vb.pp("convbert.embeddings");
    let table = embedding(WORDS, EMBEDDED, embeddings.pp("word_embeddings"))?;
    let positions = embedding(64, EMBEDDED, embeddings.pp("position_embeddings"))?
        .forward(&Tensor::arange(0, time as u32, &Device::Cpu)?)?;
    let types = embedding(2, EMBEDDED, embeddings.pp("token_type_embeddings"))?
        .forward(&expected["token_type_ids"].to_dtype(DType::U32)?)?;
    let x = (table.forward(&words)? + types)?.broadcast_add(&positions)?;
    let x = layer_norm(EMBEDDED, EPS, embeddings.pp("LayerNorm"))?.forward(&x)?;
    let mut x = linear(EMBEDDED, HIDDEN, vb.pp("convbert.embeddings_project"))?.forward(&x)?;
    assert_same_model("hidden_state_0", &x, &expected["hidden_state_0"], &all)?;
    for i in 0..2 {
        x = layer(&x, &expected["attention_mask"], &vb.pp(format!("convbert.encoder.layer.{i}")))?;
        let name = format!("hidden_state_{}", i + 1);
        assert_same_model(&name, &x, &expected[&name], &all)?;
    }

    let head = vb.pp("generator_predictions");
    let x = linear(HIDDEN, EMBEDDED, head.pp("dense"))?.forward(&x)?.gelu_erf()?;
    let x = layer_norm(EMBEDDED, EPS, head.pp("LayerNorm"))?.forward(&x)?;
    let bias = vb.get(WORDS, "generator_lm_head.bias")?;
    let logits = x.broadcast_matmul(&table.embeddings().t()?)?.broadcast_add(&bias)?;
    assert_same_model("logits", &logits, &expected["logits"], &all)
}
