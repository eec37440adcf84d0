//! Layers: the names of their parameters, what they compute, what training changes, and that gradients reach everything.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, ModuleT, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap, ops};
use lightspan::{Error, Sequences, Window};
use lightspan_candle::{lightspan_error, nn};

use crate::support::{Numbers, Unfused, settled, to_f64};

const CHANNELS: usize = 12;
const CONV: usize = 8;
const HEADS: usize = 4;
const WIDTH: usize = 5;
const FFN: usize = 20;
const TIME: usize = 9;
const LENGTHS: [usize; 3] = [9, 4, 7];

fn builder(variables: &VarMap) -> VarBuilder<'static> {
    VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu)
}

fn names(parameters: &BTreeMap<String, Var>) -> Vec<(&str, &[usize])> {
    parameters.iter().map(|(name, tensor)| (&name[..], tensor.dims())).collect()
}

fn tokens(seed: u64, channels: usize) -> Result<Tensor> {
    Numbers::new(seed).draw(&[LENGTHS.len(), TIME, channels], lightspan::DType::F32, 1.0).tensor()
}

fn config(glu: bool, normalize_before: bool, window: Window) -> nn::LayerConfig {
    let conv = nn::ConvConfig { bias: true, weight_bias: true, ..Default::default() };
    let base = nn::LayerConfig::new(CHANNELS, HEADS, window, FFN);
    nn::LayerConfig { conv_channels: CONV, glu, normalize_before, conv, ..base }
}

/// What a layer computes, of candle's own operations.
struct Expected<'a> {
    parameters: BTreeMap<String, Var>,
    config: nn::LayerConfig,
    sequences: &'a Sequences,
}

impl Expected<'_> {
    fn get(&self, name: &str) -> &Tensor {
        &self.parameters[name]
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"));
        x.broadcast_matmul(&weight.t()?)?.broadcast_add(self.get(&format!("{name}.bias")))
    }

    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.eps)?.sqrt()?;
        x.broadcast_div(&deviation)?
            .broadcast_mul(self.get(&format!("{name}.weight")))?
            .broadcast_add(self.get(&format!("{name}.bias")))
    }

    fn around(&self, norm: &str, x: &Tensor, part: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        match self.config.normalize_before {
            true => x + part(&self.norm(norm, x)?)?,
            false => self.norm(norm, &(x + part(x)?)?),
        }
    }

    fn block(&self, kind: nn::ConvKind, x: &Tensor) -> Result<Tensor> {
        let mut x = self.linear("linear1", x)?;
        if self.config.glu {
            let gates = ops::sigmoid(&x.narrow(2, CONV, CONV)?)?;
            x = (x.narrow(2, 0, CONV)? * gates)?;
        }
        let (sequences, window) = (self.sequences, self.config.window);
        let unfused = Unfused { sequences, window, normalize: Default::default(), dropout: None };
        let y = match kind {
            nn::ConvKind::Light => {
                let weight = self.get("conv.weight").squeeze(1)?;
                unfused.convolve(&x, &weight, Some(self.get("conv.bias")))?
            }
            nn::ConvKind::Dynamic => {
                let weight = self.get("conv.weight_linear.weight");
                let logits = unfused.generate(&x, weight, Some(self.get("conv.weight_linear.bias")))?;
                unfused.convolve(&x, &logits, Some(self.get("conv.conv_bias")))?
            }
        };
        self.linear("linear2", &y)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear("fc2", &self.linear("fc1", x)?.relu()?)
    }

    /// One query, one head after another.
    fn attention(&self, x: &Tensor, memory: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let [q, k, v] = [("q_proj", x), ("k_proj", memory), ("v_proj", memory)]
            .map(|(name, x)| self.linear(&format!("encoder_attn.{name}"), x));
        let (q, k, v, size) = (q?, k?, v?, CHANNELS / HEADS);
        let mut rows = vec![];
        for (b, &length) in lengths.iter().enumerate() {
            for t in 0..x.dim(1)? {
                for h in 0..HEADS {
                    let part = |x: &Tensor| x.get(b)?.narrow(1, h * size, size);
                    let q = part(&q)?.narrow(0, t, 1)?;
                    let [k, v] = [part(&k)?.narrow(0, 0, length)?, part(&v)?.narrow(0, 0, length)?];
                    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / (size as f64).sqrt())?;
                    rows.push(ops::softmax(&scores, 1)?.matmul(&v.contiguous()?)?);
                }
            }
        }
        self.linear("encoder_attn.out_proj", &Tensor::cat(&rows, 0)?.reshape(x.shape())?)
    }
}

/// Fails unless all tokens of sequences agree to a few roundoffs, in the units of numbers of about one.
fn assert_close(found: &Tensor, expected: &Tensor, sequences: &Sequences) -> Result<()> {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (to_f64(found)?, to_f64(expected)?);
    for sequence in sequences.as_slice() {
        for i in sequence.first * CHANNELS..(sequence.first + sequence.length) * CHANNELS {
            let apart = (found[i] - expected[i]).abs();
            assert!(apart < 1e-5 * (1.0 + expected[i].abs()), "{i}: {} and {}", found[i], expected[i]);
        }
    }
    Ok(())
}

/// Fails unless every parameter has a gradient that is not all zeros; but for what a softmax does not change with: a bias of
/// keys adds the same to all scores of a query.
fn assert_learns(y: &Tensor, parameters: &BTreeMap<String, Var>) -> Result<()> {
    let gradients = y.powf(3.0)?.sum_all()?.backward()?;
    for (name, parameter) in parameters {
        let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("{name} has no gradient"));
        let learns = to_f64(gradient)?.iter().any(|&x| x != 0.0);
        assert!(learns || name == "encoder_attn.k_proj.bias", "{name}");
    }
    Ok(())
}

const KINDS: [nn::ConvKind; 2] = [nn::ConvKind::Light, nn::ConvKind::Dynamic];

#[test]
fn an_encoder_layer_is_what_its_parts_are() -> Result<()> {
    let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
    let x = tokens(1, CHANNELS)?;
    for kind in KINDS {
        for (glu, before) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = config(glu, before, Window::same(WIDTH).unwrap());
            let variables = VarMap::new();
            let layer = nn::encoder_layer(kind, &config, builder(&variables))?;
            let expected =
                Expected { parameters: settled(&variables, DType::F32)?, config, sequences: &sequences };
            let y = layer.forward_with(&x, Some(&sequences), false)?;
            let z = expected.around("layer_norms.0", &x, |x| expected.block(kind, x))?;
            let z = expected.around("layer_norms.1", &z, |x| expected.feed_forward(x))?;
            assert_close(&y, &z, &sequences)?;

            assert_learns(&y, &expected.parameters)?;
        }
    }
    Ok(())
}

#[test]
fn a_decoder_layer_is_what_its_parts_are() -> Result<()> {
    let all = Sequences::batch(LENGTHS.len(), TIME).unwrap();
    let sources = Sequences::padded(TIME, &LENGTHS).unwrap();
    let (x, memory) = (tokens(1, CHANNELS)?, tokens(2, CHANNELS)?);
    for kind in KINDS {
        for before in [false, true] {
            let config = config(true, before, Window::causal(WIDTH).unwrap());
            let variables = VarMap::new();
            let layer = nn::decoder_layer(kind, &config, builder(&variables))?;
            let expected = Expected { parameters: settled(&variables, DType::F32)?, config, sequences: &all };
            let given = nn::Memory { tokens: &memory, sequences: Some(&sources) };
            let y = layer.forward_with(&x, None, given, false)?;
            let z = expected.around("conv_layer_norm", &x, |x| expected.block(kind, x))?;
            let z = expected
                .around("encoder_attn_layer_norm", &z, |x| expected.attention(x, &memory, &LENGTHS))?;
            let z = expected.around("final_layer_norm", &z, |x| expected.feed_forward(x))?;
            assert_close(&y, &z, &all)?;
            assert_learns(&y, &expected.parameters)?;

            // What comes later is not seen.
            let later = Tensor::cat(&[x.narrow(1, 0, 6)?, tokens(3, CHANNELS)?.narrow(1, 6, 3)?], 1)?;
            let same = layer.forward_with(&later, None, given, false)?.narrow(1, 0, 6)?;
            assert_eq!(to_f64(&same)?, to_f64(&y.narrow(1, 0, 6)?)?);
            assert_ne!(to_f64(&layer.forward_with(&later, None, given, false)?)?, to_f64(&y)?);
        }
    }
    let config = config(true, false, Window::same(WIDTH).unwrap());
    let error = nn::decoder_layer(nn::ConvKind::Light, &config, builder(&VarMap::new())).unwrap_err();
    let expected = Error::HistoryNotCausal { left: 2, width: WIDTH, dilation: 1, reach: WIDTH - 1 };
    assert_eq!(lightspan_error(&error), Some(&expected));
    Ok(())
}

#[test]
fn parameters_have_the_names_of_fairseq() -> Result<()> {
    let config = config(true, false, Window::causal(WIDTH).unwrap());
    let variables = VarMap::new();
    nn::encoder_layer(nn::ConvKind::Light, &config, builder(&variables))?;
    let expected: [(&str, &[usize]); 14] = [
        ("conv.bias", &[CONV]),
        ("conv.weight", &[HEADS, 1, WIDTH]),
        ("fc1.bias", &[FFN]),
        ("fc1.weight", &[FFN, CHANNELS]),
        ("fc2.bias", &[CHANNELS]),
        ("fc2.weight", &[CHANNELS, FFN]),
        ("layer_norms.0.bias", &[CHANNELS]),
        ("layer_norms.0.weight", &[CHANNELS]),
        ("layer_norms.1.bias", &[CHANNELS]),
        ("layer_norms.1.weight", &[CHANNELS]),
        ("linear1.bias", &[2 * CONV]),
        ("linear1.weight", &[2 * CONV, CHANNELS]),
        ("linear2.bias", &[CHANNELS]),
        ("linear2.weight", &[CHANNELS, CONV]),
    ];
    assert_eq!(names(&settled(&variables, DType::F32)?), expected);

    let variables = VarMap::new();
    nn::decoder_layer(nn::ConvKind::Dynamic, &config, builder(&variables))?;
    let found = settled(&variables, DType::F32)?;
    let found: Vec<&str> = found.keys().map(|name| &name[..]).collect();
    let mut expected = vec!["conv.conv_bias".to_owned()];
    for layer in [
        "conv.weight_linear",
        "conv_layer_norm",
        "encoder_attn.k_proj",
        "encoder_attn.out_proj",
        "encoder_attn.q_proj",
        "encoder_attn.v_proj",
        "encoder_attn_layer_norm",
        "fc1",
        "fc2",
        "final_layer_norm",
        "linear1",
        "linear2",
    ] {
        expected.extend([format!("{layer}.bias"), format!("{layer}.weight")]);
    }
    expected.sort();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn span_conv_has_the_names_of_transformers_and_is_the_operator() -> Result<()> {
    const OUTPUTS: usize = 8;
    let (variables, window) = (VarMap::new(), Window::same(WIDTH).unwrap());
    let config = nn::ConvConfig { bias: true, ..Default::default() };
    let layer = nn::span_conv(CHANNELS, OUTPUTS, HEADS, window, config, builder(&variables))?;
    let parameters = settled(&variables, DType::F32)?;
    let expected: [(&str, &[usize]); 6] = [
        ("bias", &[OUTPUTS]),
        ("conv_kernel_layer.bias", &[HEADS * WIDTH]),
        ("conv_kernel_layer.weight", &[HEADS * WIDTH, OUTPUTS]),
        ("key_conv_attn_layer.bias", &[OUTPUTS, 1]),
        ("key_conv_attn_layer.depthwise.weight", &[CHANNELS, 1, WIDTH]),
        ("key_conv_attn_layer.pointwise.weight", &[OUTPUTS, CHANNELS, 1]),
    ];
    assert_eq!(names(&parameters), expected);

    let sequences = Sequences::padded(TIME, &LENGTHS).unwrap();
    let (x, query, value) = (tokens(1, CHANNELS)?, tokens(2, OUTPUTS)?, tokens(3, OUTPUTS)?);
    let y = layer.forward_with(&x, &query, &value, Some(&sequences), false)?;
    let unfused = Unfused { sequences: &sequences, window, normalize: Default::default(), dropout: None };
    let key = |name: &str| &parameters[&format!("key_conv_attn_layer.{name}")];
    let (depthwise, pointwise) = (key("depthwise.weight").squeeze(1)?, key("pointwise.weight").squeeze(2)?);
    let key_bias = key("bias").squeeze(1)?;
    let z = unfused.key(&x, &query, &depthwise, &pointwise, Some(&key_bias))?;
    let (weight, weight_bias) =
        (&parameters["conv_kernel_layer.weight"], &parameters["conv_kernel_layer.bias"]);
    let logits = unfused.generate(&z, weight, Some(weight_bias))?;
    let expected = unfused.convolve(&value, &logits, Some(&parameters["bias"]))?;
    let apart = (&y - &expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(apart < 1e-5, "{apart}");

    assert_learns(&y, &parameters)
}

#[test]
fn training_drops_other_weights_in_each_call_and_the_same_in_each_run() -> Result<()> {
    let window = Window::causal(WIDTH).unwrap();
    let config = nn::ConvConfig { weight_dropout: 0.5, seed: 3, ..Default::default() };
    let x = tokens(1, CHANNELS)?;
    let runs = |name: &str, seed: u64| -> Result<[Vec<f64>; 3]> {
        let variables = VarMap::new();
        let config = nn::ConvConfig { seed, ..config };
        let layer = nn::dynamic_conv(CHANNELS, HEADS, window, config, builder(&variables).pp(name))?;
        settled(&variables, DType::F32)?;
        let run = |train| to_f64(&layer.forward_t(&x, train)?);
        Ok([run(false)?, run(true)?, run(true)?])
    };
    let one = runs("layers.0.conv", 3)?;
    assert_eq!(one, runs("layers.0.conv", 3)?);
    assert_ne!(one[0], one[1]);
    assert_ne!(one[1], one[2]);
    for other in [runs("layers.1.conv", 3)?, runs("layers.0.conv", 4)?] {
        assert_eq!(one[0], other[0]);
        assert_ne!(one[1], other[1]);
    }
    Ok(())
}

#[test]
fn what_makes_no_layer_is_refused() {
    let window = Window::causal(WIDTH).unwrap();
    let config = nn::ConvConfig::default();
    let vb = || builder(&VarMap::new());
    let error = nn::light_conv(CHANNELS, 5, window, config, vb()).unwrap_err();
    assert_eq!(lightspan_error(&error), Some(&Error::Heads { heads: 5, channels: CHANNELS }));
    let error = nn::dynamic_conv(CHANNELS, 0, window, config, vb()).unwrap_err();
    assert_eq!(lightspan_error(&error), Some(&Error::ZeroSize { what: "heads" }));
    let dropped = nn::ConvConfig { weight_dropout: 1.0, ..config };
    let error = nn::light_conv(CHANNELS, HEADS, window, dropped, vb()).unwrap_err();
    assert_eq!(lightspan_error(&error), Some(&Error::DropoutRate { got: 1.0 }));
    for rate in [1.0, -0.1, f32::NAN] {
        let layer = nn::LayerConfig { dropout: rate, ..nn::LayerConfig::new(CHANNELS, HEADS, window, FFN) };
        let error = nn::encoder_layer(nn::ConvKind::Light, &layer, vb()).unwrap_err();
        assert!(matches!(lightspan_error(&error), Some(Error::DropoutRate { .. })), "{error}");
        let error = nn::decoder_layer(nn::ConvKind::Light, &layer, vb()).unwrap_err();
        assert!(matches!(lightspan_error(&error), Some(Error::DropoutRate { .. })), "{error}");
    }
    let attention = nn::cross_attention(CHANNELS, HEADS, vb()).unwrap();
    let x = tokens(1, CHANNELS).unwrap();
    for sequences in [Sequences::packed(&[0, 27]).unwrap(), Sequences::padded(8, &[1, 2, 3]).unwrap()] {
        let error = attention.forward_with(&x, &x, Some(&sequences)).unwrap_err();
        assert!(matches!(lightspan_error(&error), Some(Error::Shape { tensor: "memory", .. })), "{error}");
    }
    // A token that has nothing to see gets what a sum of nothing gives.
    let none = Sequences::padded(TIME, &[0, 0, 0]).unwrap();
    let y = attention.forward_with(&x, &x, Some(&none)).unwrap();
    assert!(to_f64(&y).unwrap().iter().all(|y| y.is_finite()));
}
