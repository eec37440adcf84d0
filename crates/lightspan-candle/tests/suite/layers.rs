//! Layers in all the ways that they are called: what they begin with, when they drop, how tokens group, and in which types.

use std::collections::BTreeMap;

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use lightspan::{Error, Sequences, Window};
use lightspan_candle::{DynamicConvOptions, dynamic_conv, lightspan_error, nn};

use crate::support::{Numbers, parameters, settled, to_f64};

const CHANNELS: usize = 12;
const HEADS: usize = 4;
const WIDTH: usize = 5;
const TIME: usize = 9;
const LENGTHS: [usize; 3] = [9, 4, 7];
const KINDS: [nn::ConvKind; 2] = [nn::ConvKind::Light, nn::ConvKind::Dynamic];

fn builder(variables: &VarMap) -> VarBuilder<'static> {
    VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu)
}

fn tokens(seed: u64) -> Result<Tensor> {
    let drawn =
        Numbers::new(seed).draw(&[LENGTHS.len(), TIME, CHANNELS], lightspan::DType::F32, 1.0).tensor()?;
    drawn.to_dtype(DType::BF16)?.to_dtype(DType::F16)?.to_dtype(DType::F32)
}

fn config(window: Window, dropout: f32, weight_dropout: f32) -> nn::LayerConfig {
    let conv = nn::ConvConfig { bias: true, weight_bias: true, weight_dropout, ..Default::default() };
    nn::LayerConfig { glu: true, dropout, conv, ..nn::LayerConfig::new(CHANNELS, HEADS, window, 20) }
}

fn causal() -> Window {
    Window::causal(WIDTH).unwrap()
}

/// A layer with numbers of our own, and them.
fn built<L>(
    dtype: DType,
    new: impl FnOnce(VarBuilder<'static>) -> Result<L>,
) -> Result<(L, BTreeMap<String, Var>)> {
    let variables = VarMap::new();
    let layer = new(VarBuilder::from_varmap(&variables, dtype, &Device::Cpu))?;
    Ok((layer, settled(&variables, dtype)?))
}

type Forward = Box<dyn Fn(bool) -> Result<Tensor>>;

/// Every layer with these rates, over the same numbers, and whether it drops more than weights.
fn layers(
    kind: nn::ConvKind,
    dropout: f32,
    weight_dropout: f32,
) -> Result<Vec<(&'static str, bool, Forward)>> {
    let config = config(causal(), dropout, weight_dropout);
    let (x, query, memory) = (tokens(1)?, tokens(2)?, tokens(3)?);
    let new_light = |vb| nn::light_conv(CHANNELS, HEADS, causal(), config.conv, vb);
    let new_dynamic = |vb| nn::dynamic_conv(CHANNELS, HEADS, causal(), config.conv, vb);
    let new_span = |vb| nn::span_conv(CHANNELS, CHANNELS, HEADS, causal(), config.conv, vb);
    let (light, _) = built(DType::F32, new_light)?;
    let (dynamic, _) = built(DType::F32, new_dynamic)?;
    let (span, _) = built(DType::F32, new_span)?;
    let (block, _) = built(DType::F32, |vb| nn::conv_block(kind, &config, vb))?;
    let (encoder, _) = built(DType::F32, |vb| nn::encoder_layer(kind, &config, vb))?;
    let (decoder, _) = built(DType::F32, |vb| nn::decoder_layer(kind, &config, vb))?;
    let [x0, x1, x2, x3, x4, x5] = std::array::from_fn(|_| x.clone());
    let tokens = memory.clone();
    Ok(vec![
        ("light_conv", false, Box::new(move |train| light.forward_t(&x0, train))),
        ("dynamic_conv", false, Box::new(move |train| dynamic.forward_t(&x1, train))),
        ("span_conv", false, Box::new(move |train| span.forward_with(&x2, &query, &memory, None, train))),
        ("conv_block", false, Box::new(move |train| block.forward_t(&x3, train))),
        ("encoder_layer", true, Box::new(move |train| encoder.forward_t(&x4, train))),
        (
            "decoder_layer",
            true,
            Box::new(move |train| {
                let memory = nn::Memory { tokens: &tokens, sequences: None };
                decoder.forward_with(&x5, None, memory, train)
            }),
        ),
    ])
}

#[test]
fn layers_drop_in_training_and_not_otherwise() -> Result<()> {
    for kind in KINDS {
        let plain = layers(kind, 0.0, 0.0)?;
        for (dropout, weight_dropout) in [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)] {
            let dropping = layers(kind, dropout, weight_dropout)?;
            for ((name, more, dropping), (_, _, plain)) in dropping.iter().zip(&plain) {
                let drops = weight_dropout > 0.0 || *more && dropout > 0.0;
                let run = |layer: &Forward, train| to_f64(&layer(train)?);
                let expected = run(plain, false)?;
                // Once before and once after a call that trains.
                assert_eq!(run(plain, true)?, expected, "{name}");
                assert_eq!(run(dropping, false)?, expected, "{name}");
                let (one, two) = (run(dropping, true)?, run(dropping, true)?);
                assert_eq!(one != expected, drops, "{name} {kind:?} {dropout} {weight_dropout}");
                assert_eq!(one != two, drops, "{name} {kind:?} {dropout} {weight_dropout}");
                assert_eq!(run(dropping, false)?, expected, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn kernels_may_be_generated_from_a_query() -> Result<()> {
    let conv = config(causal(), 0.0, 0.0).conv;
    let (layer, parameters) = built(DType::F32, |vb| nn::dynamic_conv(CHANNELS, HEADS, causal(), conv, vb))?;
    let (x, query) = (Var::from_tensor(&tokens(1)?)?, Var::from_tensor(&tokens(2)?)?);
    let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
    let options = DynamicConvOptions {
        query: Some(&query),
        weight_bias: Some(&parameters["weight_linear.bias"]),
        bias: Some(&parameters["conv_bias"]),
        sequences: Some(&sequences),
        ..Default::default()
    };
    let y = layer.forward_query(&x, Some(&query), Some(&sequences), false)?;
    let expected = dynamic_conv(&x, &parameters["weight_linear.weight"], HEADS, causal(), &options)?;
    assert_eq!(to_f64(&y)?, to_f64(&expected)?);
    let (found, expected) = (y.sum_all()?.backward()?, expected.sum_all()?.backward()?);
    for var in parameters.values().chain([&x, &query]) {
        assert_eq!(to_f64(found.get(var).unwrap())?, to_f64(expected.get(var).unwrap())?);
    }
    // Without one from x itself.
    let own = to_f64(&layer.forward_query(&x, None, Some(&sequences), false)?)?;
    assert_eq!(own, to_f64(&layer.forward_with(&x, Some(&sequences), false)?)?);
    assert_ne!(own, to_f64(&y)?);
    Ok(())
}

/// Fails unless numbers agree to some roundings of the largest of them.
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, roundings: f64) -> Result<()> {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (to_f64(found)?, to_f64(expected)?);
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= roundings * largest, "{what}: {found} and {expected}");
    }
    Ok(())
}

/// The tokens of a padded batch, one sequence after another.
fn packed(padded: &Tensor) -> Result<Tensor> {
    let rows: Result<Vec<_>> =
        LENGTHS.iter().enumerate().map(|(b, &length)| padded.get(b)?.narrow(0, 0, length)).collect();
    Tensor::cat(&rows?, 0)
}

#[test]
fn packed_sequences_are_what_padded_ones_are() -> Result<()> {
    let ends = LENGTHS.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    let in_row = Sequences::packed(&std::iter::once(0).chain(ends).collect::<Vec<_>>()).unwrap();
    let in_batch = Sequences::padded(TIME, &LENGTHS).unwrap();
    let x = tokens(1)?;
    for kind in KINDS {
        let config = config(Window::same(WIDTH).unwrap(), 0.0, 0.0);
        let (block, of_block) = built(DType::F32, |vb| nn::conv_block(kind, &config, vb))?;
        let (layer, of_layer) = built(DType::F32, |vb| nn::encoder_layer(kind, &config, vb))?;
        for (name, parameters, forward) in [
            (
                "conv_block",
                of_block,
                &(|x: &Tensor, s: &Sequences| block.forward_with(x, Some(s), false))
                    as &dyn Fn(&Tensor, &Sequences) -> Result<Tensor>,
            ),
            ("encoder_layer", of_layer, &|x, s| layer.forward_with(x, Some(s), false)),
        ] {
            let y = forward(&packed(&x)?, &in_row)?;
            let expected = packed(&forward(&x, &in_batch)?)?;
            assert_close(name, &y, &expected, 1e-5)?;
            let gradients = |y: Tensor| y.powf(3.0)?.sum_all()?.backward();
            let (found, expected) = (gradients(y)?, gradients(expected)?);
            for (parameter, var) in &parameters {
                let (found, expected) = (found.get(var).unwrap(), expected.get(var).unwrap());
                assert_close(&format!("{name}: {parameter}"), found, expected, 1e-5)?;
            }
            // Tokens of other sequences are refused.
            let error = forward(&x, &in_row).unwrap_err();
            assert!(matches!(lightspan_error(&error), Some(Error::Shape { tensor: "x", .. })), "{error}");
        }
    }
    Ok(())
}

#[test]
fn a_padded_target_is_what_it_is_alone() -> Result<()> {
    let sources = [3, 9, 5];
    let (x, memory) = (tokens(1)?, tokens(2)?);
    for kind in KINDS {
        let config = config(causal(), 0.0, 0.0);
        let (layer, _) = built(DType::F32, |vb| nn::decoder_layer(kind, &config, vb))?;
        let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
        let seen = Sequences::padded(TIME, &sources).unwrap();
        let given = nn::Memory { tokens: &memory, sequences: Some(&seen) };
        let y = layer.forward_with(&x, Some(&sequences), given, false)?;
        for (b, (&length, &source)) in LENGTHS.iter().zip(&sources).enumerate() {
            let part = |all: &Tensor, length| all.narrow(0, b, 1)?.narrow(1, 0, length);
            let memory = part(&memory, source)?;
            let alone = nn::Memory { tokens: &memory, sequences: None };
            let expected = layer.forward_with(&part(&x, length)?, None, alone, false)?;
            assert_close("y", &part(&y, length)?, &expected, 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn convolutions_run_in_16_bits_with_parameters_in_the_same_or_in_f32() -> Result<()> {
    let conv = config(causal(), 0.0, 0.0).conv;
    for (dtype, unit) in [(DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))] {
        for parameters in [dtype, DType::F32] {
            let x = Var::from_tensor(&tokens(1)?.to_dtype(dtype)?)?;
            let wide = x.to_dtype(DType::F32)?;
            let check = |y: Tensor, expected: Tensor, vars: BTreeMap<String, Var>| -> Result<()> {
                assert_eq!(y.dtype(), dtype);
                assert_close("y", &y.to_dtype(DType::F32)?, &expected, 8.0 * unit)?;
                let gradients = y.sqr()?.sum_all()?.backward()?;
                assert_eq!(gradients.get(&x).unwrap().dtype(), dtype);
                for (name, var) in vars {
                    let gradient = gradients.get(&var).unwrap();
                    assert_eq!(gradient.dtype(), parameters, "{name}");
                    assert!(to_f64(gradient)?.iter().any(|&x| x != 0.0), "{name}");
                }
                Ok(())
            };
            let new = |vb| nn::light_conv(CHANNELS, HEADS, causal(), conv, vb);
            let ((layer, vars), (exact, _)) = (built(parameters, new)?, built(DType::F32, new)?);
            check(layer.forward_t(&x, false)?, exact.forward_t(&wide, false)?, vars)?;
            let new = |vb| nn::dynamic_conv(CHANNELS, HEADS, causal(), conv, vb);
            let ((layer, vars), (exact, _)) = (built(parameters, new)?, built(DType::F32, new)?);
            check(layer.forward_t(&x, false)?, exact.forward_t(&wide, false)?, vars)?;
            let new = |vb| nn::span_conv(CHANNELS, CHANNELS, HEADS, causal(), conv, vb);
            let ((layer, vars), (exact, _)) = (built(parameters, new)?, built(DType::F32, new)?);
            let y = layer.forward_with(&x, &x, &x, None, false)?;
            check(y, exact.forward_with(&wide, &wide, &wide, None, false)?, vars)?;
        }
    }
    Ok(())
}

#[test]
fn whole_layers_run_in_16_bits() -> Result<()> {
    let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
    let (x, memory) = (tokens(1)?, tokens(2)?);
    for kind in KINDS {
        for normalize_before in [false, true] {
            let config = nn::LayerConfig { normalize_before, ..config(causal(), 0.1, 0.1) };
            let mut found = vec![];
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let (x, tokens) = (x.to_dtype(dtype)?, memory.to_dtype(dtype)?);
                let (encoder, of_encoder) = built(dtype, |vb| nn::encoder_layer(kind, &config, vb))?;
                let (decoder, of_decoder) = built(dtype, |vb| nn::decoder_layer(kind, &config, vb))?;
                let run = |train| -> Result<Tensor> {
                    let tokens = encoder.forward_with(&tokens, Some(&sequences), train)?;
                    let memory = nn::Memory { tokens: &tokens, sequences: Some(&sequences) };
                    packed(&decoder.forward_with(&x, Some(&sequences), memory, train)?)
                };
                let y = run(false)?;
                assert_eq!(y.dtype(), dtype);
                found.push(y.to_dtype(DType::F32)?);
                for train in [false, true] {
                    let gradients = run(train)?.sqr()?.mean_all()?.backward()?;
                    for (name, var) in of_encoder.iter().chain(&of_decoder) {
                        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
                        assert_eq!(gradient.dtype(), dtype, "{name}");
                        assert!(to_f64(gradient)?.iter().all(|x| x.is_finite()), "{name}");
                    }
                }
            }
            // Two layers of some ten roundings each, which normalisation makes more of.
            assert_close("f16", &found[1], &found[0], 32.0 * 2f64.powi(-11))?;
            assert_close("bf16", &found[2], &found[0], 32.0 * 2f64.powi(-8))?;
        }
    }
    Ok(())
}

#[test]
fn norms_may_have_their_newer_names() -> Result<()> {
    let config = config(causal(), 0.0, 0.0);
    let x = tokens(1)?;
    let (layer, parameters) = built(DType::F32, |vb| nn::encoder_layer(nn::ConvKind::Light, &config, vb))?;
    let newer =
        |name: &str| name.replace("layer_norms.0", "layer_norm1").replace("layer_norms.1", "layer_norm2");
    let renamed = |leave: &str| {
        let parameters = parameters.iter().map(|(name, var)| (newer(name), var.as_tensor().clone()));
        parameters.filter(|(name, _)| name != leave).collect()
    };
    let load = |tensors| {
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        nn::encoder_layer(nn::ConvKind::Light, &config, vb)
    };
    let loaded = load(renamed(""))?;
    assert_eq!(to_f64(&loaded.forward_t(&x, false)?)?, to_f64(&layer.forward_t(&x, false)?)?);
    for missing in ["layer_norm1.weight", "layer_norm2.weight", "layer_norm2.bias"] {
        assert!(load(renamed(missing)).is_err(), "{missing}");
    }
    Ok(())
}

/// What a parameter begins with.
#[derive(Clone, Copy, Debug)]
enum Begins {
    All(f64),
    Within(f64),
}

#[test]
fn layers_begin_as_those_of_fairseq() -> Result<()> {
    const C: usize = 64;
    const H: usize = 8;
    const FFN: usize = 96;
    let xavier = |inputs: usize, outputs: usize| (6.0 / (inputs + outputs) as f64).sqrt();
    for kind in KINDS {
        let config = nn::LayerConfig {
            ffn: FFN,
            channels: C,
            conv_channels: 48,
            heads: H,
            ..config(causal(), 0.0, 0.0)
        };
        let variables = VarMap::new();
        nn::encoder_layer(kind, &config, builder(&variables).pp("encoder"))?;
        nn::decoder_layer(kind, &config, builder(&variables).pp("decoder"))?;
        for (name, var) in parameters(&variables) {
            let name = name.split_once('.').unwrap().1;
            let begins = match name {
                "linear1.weight" => Begins::Within(xavier(C, 96)),
                "linear2.weight" => Begins::Within(xavier(48, C)),
                "fc1.weight" | "fc2.weight" => Begins::Within(xavier(C, FFN)),
                "conv.weight" => Begins::Within(xavier(WIDTH, H * WIDTH)),
                "conv.weight_linear.weight" | "conv.weight_linear.bias" => Begins::Within(1.0 / 48f64.sqrt()),
                "encoder_attn.out_proj.weight" => Begins::Within(xavier(C, C)),
                "encoder_attn.out_proj.bias" => Begins::All(0.0),
                _ if name.starts_with("encoder_attn.") && name.ends_with("weight") => {
                    Begins::Within(xavier(C, C) / 2f64.sqrt())
                }
                _ if name.starts_with("encoder_attn.") => Begins::Within(1.0 / (C as f64).sqrt()),
                _ if name.contains("norm") && name.ends_with("weight") => Begins::All(1.0),
                _ if name.ends_with("bias") => Begins::All(0.0),
                _ => panic!("{name} is not known"),
            };
            let numbers = to_f64(&var)?;
            match begins {
                Begins::All(value) => assert!(numbers.iter().all(|&x| x == value), "{name}"),
                Begins::Within(limit) => {
                    let largest = numbers.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
                    // Some 40 numbers at least: all would be in one half of the interval less than once in 10^11.
                    assert!(
                        largest <= limit * 1.000001 && largest > limit / 2.0,
                        "{name}: {largest} {limit}"
                    );
                    let count = numbers.len() as f64;
                    let mean = numbers.iter().sum::<f64>() / count;
                    let deviation = (numbers.iter().map(|x| x * x).sum::<f64>() / count).sqrt();
                    // Seven of their own deviations.
                    assert!(mean.abs() < 7.0 * limit / (3.0 * count).sqrt(), "{name}: {mean}");
                    let expected = limit / 3f64.sqrt();
                    let apart = (deviation / expected - 1.0).abs();
                    assert!(apart < 7.0 * 0.45 / count.sqrt(), "{name}: {deviation} and {expected}");
                }
            }
        }
    }
    Ok(())
}
