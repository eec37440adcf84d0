//! What stands in padding changes no bit of any token, and of no gradient.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use lightspan::{Sequences, Window};
use lightspan_candle::nn;

use crate::support::{Numbers, settled, to_f64};

const CHANNELS: usize = 12;
const HEADS: usize = 4;
const TIME: usize = 9;
const LENGTHS: [usize; 3] = [9, 4, 0];
/// A memory has other lengths; its second sequence has nothing to see.
const MEMORY_TIME: usize = 7;
const MEMORY: [usize; 3] = [5, 0, 7];

/// Tokens that are the same for the same seed, but for what is in their padding.
fn tokens(seed: u64, time: usize, lengths: &[usize], padding: f64) -> Result<Var> {
    let sequences = Sequences::padded(time, lengths).unwrap();
    let mut values = Numbers::new(seed).tokens(&sequences, &[CHANNELS], lightspan::DType::F32, 1.0);
    assert!(values.data.iter().any(|x| x.is_nan()));
    values.data.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = padding);
    Var::from_tensor(&values.tensor()?)
}

/// The tokens of y, without its padding.
fn seen(y: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let rows: Result<Vec<_>> = lengths.iter().enumerate().map(|(b, &n)| y.get(b)?.narrow(0, 0, n)).collect();
    Tensor::cat(&rows?, 0)
}

/// The bits of all tokens of y, of the gradients of the parameters, and of those of x and the memory.
fn bits<L>(
    new: impl Fn(VarBuilder<'static>) -> Result<L>,
    forward: impl Fn(&L, &Tensor, &Tensor) -> Result<Tensor>,
    padding: [f64; 2],
) -> Result<BTreeMap<String, Vec<u32>>> {
    let variables = VarMap::new();
    let layer = new(VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    let mut parameters = settled(&variables, DType::F32)?;
    let x = tokens(1, TIME, &LENGTHS, padding[0])?;
    let memory = tokens(2, MEMORY_TIME, &MEMORY, padding[1])?;
    let y = seen(&forward(&layer, &x, &memory)?, &LENGTHS)?;
    parameters.insert("x".to_owned(), x);
    parameters.insert("memory".to_owned(), memory);

    let gradients = y.powf(3.0)?.sum_all()?.backward()?;
    let mut all = BTreeMap::new();
    for (name, tensor) in parameters.iter().filter_map(|(name, var)| Some((&name[..], gradients.get(var)?))) {
        all.insert(name.to_owned(), tensor.clone());
    }
    all.insert("y".to_owned(), y);
    let bits = |tensor: Tensor| -> Result<Vec<u32>> {
        assert!(to_f64(&tensor)?.iter().all(|x| x.is_finite()), "{padding:?}");
        Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    all.into_iter().map(|(name, tensor)| Ok((name, bits(tensor)?))).collect()
}

/// Fails where numbers in the padding of x or of the memory change a bit.
fn assert_unseen<L>(
    new: impl Fn(VarBuilder<'static>) -> Result<L>,
    forward: impl Fn(&L, &Tensor, &Tensor) -> Result<Tensor>,
    x_has_sequences: bool,
    gradients: usize,
) -> Result<()> {
    let expected = bits(&new, &forward, [0.0, 0.0])?;
    assert_eq!(expected.len(), 1 + gradients, "{:?}", expected.keys());
    for other in [1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3e38] {
        let padding = [if x_has_sequences { other } else { 0.0 }, other];
        let found = bits(&new, &forward, padding)?;
        for (name, expected) in &expected {
            assert!(found[name] == *expected, "{name} is another with {other} in padding");
        }
    }
    Ok(())
}

fn config(glu: bool, normalize_before: bool, window: Window) -> nn::LayerConfig {
    let conv = nn::ConvConfig { bias: true, weight_bias: true, ..Default::default() };
    nn::LayerConfig { glu, normalize_before, conv, ..nn::LayerConfig::new(CHANNELS, HEADS, window, 20) }
}

const KINDS: [nn::ConvKind; 2] = [nn::ConvKind::Light, nn::ConvKind::Dynamic];

#[test]
fn attention_does_not_see_it() -> Result<()> {
    let sources = Sequences::padded(MEMORY_TIME, &MEMORY).unwrap();
    let forward = |layer: &nn::CrossAttention, x: &Tensor, memory: &Tensor| {
        layer.forward_with(x, memory, Some(&sources))
    };
    assert_unseen(|vb| nn::cross_attention(CHANNELS, HEADS, vb), forward, false, 10)
}

#[test]
fn blocks_and_encoder_layers_do_not_see_it() -> Result<()> {
    let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
    for kind in KINDS {
        for (glu, before) in [(false, false), (true, true)] {
            let config = config(glu, before, Window::same(5).unwrap());
            let parameters = if kind == nn::ConvKind::Dynamic { 7 } else { 6 };
            let forward = |layer: &nn::ConvBlock, x: &Tensor, _: &Tensor| {
                layer.forward_with(x, Some(&sequences), false)
            };
            assert_unseen(|vb| nn::conv_block(kind, &config, vb), forward, true, parameters + 1)?;
            let forward = |layer: &nn::EncoderLayer, x: &Tensor, _: &Tensor| {
                layer.forward_with(x, Some(&sequences), false)
            };
            assert_unseen(|vb| nn::encoder_layer(kind, &config, vb), forward, true, parameters + 9)?;
        }
    }
    Ok(())
}

#[test]
fn decoder_layers_do_not_see_it() -> Result<()> {
    let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
    let sources = Sequences::padded(MEMORY_TIME, &MEMORY).unwrap();
    for kind in KINDS {
        for before in [false, true] {
            let config = config(true, before, Window::causal(5).unwrap());
            let parameters = if kind == nn::ConvKind::Dynamic { 7 } else { 6 };
            let forward = |layer: &nn::DecoderLayer, x: &Tensor, memory: &Tensor| {
                let memory = nn::Memory { tokens: memory, sequences: Some(&sources) };
                layer.forward_with(x, Some(&sequences), memory, false)
            };
            assert_unseen(|vb| nn::decoder_layer(kind, &config, vb), forward, true, parameters + 20)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_unseen_is_less_than_any_score() -> Result<()> {
    // One head of one channel: scores are -3 times the memory's numbers, far below -65504 in types that go on below.
    for (dtype, large) in [(DType::F16, 2e4f64), (DType::BF16, 1e30), (DType::F32, 1e30)] {
        let variables = VarMap::new();
        let layer = nn::cross_attention(1, 1, VarBuilder::from_varmap(&variables, dtype, &Device::Cpu))?;
        for (name, var) in variables.data().lock().unwrap().iter() {
            let number = if name.ends_with("bias") { 0f32 } else { 1.0 };
            var.set(&Tensor::full(number, var.shape(), &Device::Cpu)?.to_dtype(dtype)?)?;
        }
        let x = Tensor::full(-3f32, (1, 1, 1), &Device::Cpu)?.to_dtype(dtype)?;
        let memory = Tensor::new(&[[[large], [0.75 * large], [0.0]]], &Device::Cpu)?.to_dtype(dtype)?;
        let sequences = Sequences::padded(3, &[2]).unwrap();
        let y = to_f64(&layer.forward_with(&x, &memory, Some(&sequences))?)?;
        // All attention goes to the second, whose score is the higher by far.
        assert_eq!(y, to_f64(&memory.narrow(1, 1, 1)?)?, "{dtype:?}");
    }
    Ok(())
}

#[test]
fn without_padding_nothing_is_another() -> Result<()> {
    let config = config(true, false, Window::causal(5).unwrap());
    let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    let layer = nn::decoder_layer(nn::ConvKind::Dynamic, &config, vb)?;
    let mut numbers = Numbers::new(5);
    let mut draw = || numbers.draw(&[3, TIME, CHANNELS], lightspan::DType::F32, 1.0).tensor();
    let (x, memory) = (draw()?, draw()?);
    let full = Sequences::padded(TIME, &[TIME; 3]).unwrap();
    let run = |sequences: Option<&Sequences>| {
        let memory = nn::Memory { tokens: &memory, sequences };
        to_f64(&layer.forward_with(&x, sequences, memory, false)?)
    };
    assert_eq!(run(None)?, run(Some(&full))?);
    Ok(())
}
