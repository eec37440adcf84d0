use std::collections::BTreeMap;

use lightspan::models::{
    ConvBert, ConvBertDiscriminator, ConvBertForMaskedLm, ConvBertForSequenceClassification, LightConvConfig,
    LightConvKind, LoadOptions, Weights,
};
use lightspan::{DType, Device, Error, Sequences, Tensor, Tokens, bf16, f16};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::{taken, tiny_convbert, tiny_light_conv};
use crate::support::{Numbers, config};

/// A file's tensors: type, shape and bytes.
type File = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A file of all that `names` asks for, in f32.
fn file(names: &BTreeMap<String, Vec<usize>>) -> File {
    let mut numbers = Numbers::new(3);
    let tensor = |(name, shape): (&String, &Vec<usize>)| {
        let values = numbers.draw(shape, DType::F32, 0.3).data;
        let bytes = values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        (name.clone(), (Dtype::F32, shape.clone(), bytes))
    };
    names.iter().map(tensor).collect()
}

fn written(file: &File) -> Vec<u8> {
    let views = file.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

fn masked_lm_file() -> File {
    file(&taken(|weights| ConvBertForMaskedLm::new(&tiny_convbert(), weights).map(drop)))
}

fn load(bytes: Vec<u8>, options: LoadOptions<'_>) -> Result<ConvBertForMaskedLm, Error> {
    let weights = Weights::from_bytes(bytes, &Device::cpu(), options)?;
    ConvBertForMaskedLm::new(&tiny_convbert(), &weights)
}

fn logits(model: &ConvBertForMaskedLm) -> Tensor {
    let tokens = Tokens::from_slice(&[3, 1, 4, 1, 5, 9], &[2, 3], &Device::cpu()).unwrap();
    model.forward(&tokens, None, &Sequences::batch(2, 3).unwrap()).unwrap()
}

#[test]
fn whole_files_load_in_every_type() {
    let exact = file_rounded(DType::F32);
    let expected = logits(&load(written(&exact), LoadOptions::default()).unwrap()).to_f32().unwrap();
    for stored in DType::ALL {
        let bytes = written(&file_rounded(stored));
        for dtype in DType::ALL {
            let options = LoadOptions { dtype: Some(dtype), ..Default::default() };
            let model = load(bytes.clone(), options).unwrap();
            assert_eq!(model.convbert.embeddings.table.dtype(), dtype);
            let got = logits(&model);
            assert_eq!(got.dtype(), dtype);
            let largest = expected.iter().fold(0.0f32, |largest, y| largest.max(y.abs()));
            for (got, expected) in got.to_f32().unwrap().iter().zip(&expected) {
                // The numbers of the file are those that bf16 has exactly.
                let off = f64::from((got - expected).abs());
                assert!(
                    off <= 20.0 * dtype.unit_roundoff() * f64::from(largest),
                    "{stored} as {dtype}: {off}"
                );
            }
        }
    }
}

/// The file with numbers that bf16 has exactly, stored in a type.
fn file_rounded(dtype: DType) -> File {
    let mut file = masked_lm_file();
    for (stored, _, bytes) in file.values_mut() {
        let values = bytes.as_chunks().0.iter().map(|&bytes| {
            // Eight bits, of a size that f16 has as a normal number.
            bf16::from_f32((f32::from_le_bytes(bytes) * 64.0).round() / 64.0).to_f32()
        });
        let values: Vec<f32> = values.collect();
        (*stored, *bytes) = match dtype {
            DType::F16 => (Dtype::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
            DType::BF16 => {
                (Dtype::BF16, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect())
            }
            _ => (Dtype::F32, values.iter().flat_map(|&x| x.to_le_bytes()).collect()),
        };
    }
    file
}

#[test]
fn each_tensor_is_wanted_in_its_shape_and_type() {
    let file = masked_lm_file();
    load(written(&file), LoadOptions::default()).unwrap();
    for name in file.keys() {
        let mut missing = file.clone();
        missing.remove(name);
        match load(written(&missing), LoadOptions::default()).unwrap_err() {
            Error::MissingWeight { name: found, expected } => {
                assert_eq!((&found, expected), (name, file[name].1.as_slice().into()));
            }
            other => panic!("{name}: {other}"),
        }
        let mut deeper = file.clone();
        deeper.entry(name.clone()).and_modify(|tensor| tensor.1.push(1));
        match load(written(&deeper), LoadOptions::default()).unwrap_err() {
            Error::WeightShape { name: found, expected, got } => {
                assert_eq!((&found, expected), (name, file[name].1.as_slice().into()));
                assert_eq!(got, deeper[name].1.as_slice().into());
            }
            other => panic!("{name}: {other}"),
        }
        let mut integers = file.clone();
        integers.entry(name.clone()).and_modify(|tensor| tensor.0 = Dtype::I32);
        let refused = load(written(&integers), LoadOptions::default()).unwrap_err();
        assert_eq!(refused, Error::WeightType { name: name.clone(), got: "I32".to_owned() });
    }
}

#[test]
fn what_is_left_over_is_named() {
    let mut file = masked_lm_file();
    let one = (Dtype::F32, vec![1], vec![0; 4]);
    // The first is no parameter, the second the table once more.
    file.insert("convbert.embeddings.position_ids".to_owned(), one.clone());
    let table = file["convbert.embeddings.word_embeddings.weight"].clone();
    file.insert("generator_lm_head.weight".to_owned(), table);
    load(written(&file), LoadOptions::default()).unwrap();
    let names: Vec<String> = (0..7).map(|i| format!("convbert.surplus.{i}")).collect();
    for name in &names {
        file.insert(name.clone(), one.clone());
    }
    let error = load(written(&file), LoadOptions::default()).unwrap_err();
    assert_eq!(error, Error::SurplusWeights { names });
    assert!(error.to_string().contains("7 of the weights"), "{error}");
    assert!(error.to_string().ends_with("and 2 more"), "{error}");
    load(written(&file), LoadOptions { allow_surplus: true, ..Default::default() }).unwrap();
}

/// A table that is stored twice has the same numbers twice, or the configuration is not that of the weights.
#[test]
fn tied_tables_are_the_same() {
    let mut stored = masked_lm_file();
    let mut table = stored["convbert.embeddings.word_embeddings.weight"].clone();
    table.2[5] ^= 1;
    stored.insert("generator_lm_head.weight".to_owned(), table);
    let error = load(written(&stored), LoadOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration tie_word_embeddings must be false for weights whose generator_lm_head.weight is not \
         convbert.embeddings.word_embeddings.weight, got true"
    );

    let config = tiny_light_conv(LightConvKind::Lightweight);
    let names = taken(|weights| config.seq2seq(weights).map(drop));
    for (name, key) in [
        ("encoder.embed_tokens.weight", "share_all_embeddings"),
        ("decoder.output_projection.weight", "share_decoder_input_output_embed"),
    ] {
        let mut stored = file(&names);
        let load = |file: &File| {
            let weights = Weights::from_bytes(written(file), &Device::cpu(), LoadOptions::default())?;
            config.seq2seq(&weights)
        };
        stored.insert(name.to_owned(), stored["decoder.embed_tokens.weight"].clone());
        load(&stored).unwrap();
        stored.entry(name.to_owned()).and_modify(|table| table.2[5] ^= 1);
        match load(&stored).unwrap_err() {
            Error::Config { key: found, .. } => assert_eq!(found, key),
            other => panic!("{name}: {other}"),
        }
    }
}

/// fairseq wrote norms in a list before it wrote them by name, and keeps other things beside parameters.
#[test]
fn names_of_other_versions_are_known() {
    let config = LightConvConfig {
        share_decoder_input_output_embed: false,
        ..tiny_light_conv(LightConvKind::Dynamic)
    };
    let names = taken(|weights| config.seq2seq(weights).map(drop));
    let mut file = file(&names);
    let renamed = |name: &str| {
        let name = name.replace("layer_norm1", "layer_norms.0").replace("layer_norm2", "layer_norms.1");
        name.replace("output_projection.weight", "embed_out")
    };
    file = file.into_iter().map(|(name, tensor)| (renamed(&name), tensor)).collect();
    for known in ["encoder.version", "decoder.version", "encoder.embed_positions._float_tensor"] {
        file.insert(known.to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    }
    let load = |file: &File| {
        let weights = Weights::from_bytes(written(file), &Device::cpu(), LoadOptions::default())?;
        config.seq2seq(&weights)
    };
    load(&file).unwrap();
    // Biases that candle's layers may have.
    for (layer, name, shape) in [(0, "conv_bias", vec![12]), (1, "weight_linear.bias", vec![3 * 6])] {
        let bytes = vec![0; 4 * shape[0]];
        file.insert(format!("encoder.layers.{layer}.conv.{name}"), (Dtype::F32, shape, bytes));
    }
    let model = load(&file).unwrap();
    let lightspan::nn::EncoderMixer::Conv(block) = &model.encoder.layers[1].mixer else { panic!() };
    let lightspan::nn::Conv::Dynamic(conv) = &block.conv else { panic!() };
    assert!(conv.weight_bias.is_some() && conv.bias.is_none());
}

#[test]
fn heads_find_the_encoder_within() {
    let config = tiny_convbert();
    let device = Device::cpu();
    let folder = std::env::temp_dir().join(format!("lightspan-models-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let json = format!(
        r#"{{"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 19, "embedding_size": 10, "conv_kernel_size": 5, "num_groups": 2, "num_labels": {}}}"#,
        config.labels()
    );
    std::fs::write(folder.join("config.json"), json).unwrap();
    let classification = taken(|weights| ConvBertForSequenceClassification::new(&config, weights).map(drop));
    let discriminator = taken(|weights| ConvBertDiscriminator::new(&config, weights).map(drop));
    let alone = taken(|weights| ConvBert::new(&config, weights).map(drop));
    let save = |names| std::fs::write(folder.join("model.safetensors"), written(&file(names))).unwrap();
    let tokens = Tokens::from_slice(&[3, 1, 4, 1, 5, 9], &[2, 3], &device).unwrap();
    let sequences = Sequences::padded(3, &[3, 1]).unwrap();

    save(&classification);
    let options = LoadOptions::default();
    let (_, model) = ConvBertForSequenceClassification::load(&folder, &device, options).unwrap();
    assert_eq!(model.forward(&tokens, None, &sequences).unwrap().shape(), [2, 2]);
    let empty = Sequences::padded(3, &[3, 0]).unwrap();
    let refused = model.forward(&tokens, None, &empty).unwrap_err();
    assert_eq!(refused, Error::EmptyPrompt { sequence: 1 });
    // The encoder of a model with a head, and one of its own, which has no name before its names.
    let (_, inside) = ConvBert::load(&folder, &device, options).unwrap();
    let hidden = inside.forward(&tokens, None, &sequences).unwrap();
    let same = model.convbert.forward(&tokens, None, &sequences).unwrap();
    assert_eq!(hidden.to_f32().unwrap(), same.to_f32().unwrap());
    save(&alone);
    let (_, model) = ConvBert::load(&folder, &device, options).unwrap();
    assert_eq!(model.forward(&tokens, None, &sequences).unwrap().shape(), [2, 3, 16]);

    save(&discriminator);
    let (_, model) = ConvBertDiscriminator::load(&folder, &device, options).unwrap();
    assert_eq!(model.forward(&tokens, None, &sequences).unwrap().shape(), [2, 3]);

    // What cannot be read is named.
    std::fs::write(folder.join("model.safetensors"), [1, 2, 3]).unwrap();
    let error = ConvBert::load(&folder, &device, options).unwrap_err();
    assert!(matches!(&error, Error::File { file, .. } if file.ends_with("model.safetensors")), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
    let error = ConvBert::load(&folder, &device, options).unwrap_err();
    assert!(matches!(&error, Error::File { file, .. } if file.ends_with("config.json")), "{error}");
}

#[test]
fn no_cut_file_loads() {
    let bytes = written(&masked_lm_file());
    let ends = (0..200).chain((200..bytes.len()).step_by(997)).chain(bytes.len() - 9..bytes.len());
    for end in ends {
        let error = load(bytes[..end].to_vec(), LoadOptions::default()).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{end} of {} bytes: {error}", bytes.len());
    }
}

proptest! {
    #![proptest_config(config(10_000))]

    /// A file with some bytes changed, most of them in its header, loads or is refused; either way nothing panics.
    #[test]
    fn mutated_files_are_refused_or_loaded(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..5),
    ) {
        static BYTES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| written(&masked_lm_file()));
        let mut bytes = BYTES.clone();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte, kind) in changes {
            match kind {
                // Somewhere in the length or the header: another character, or one that is likely there.
                0 => bytes[at.index(header)] = byte,
                1 => bytes[8 + at.index(header - 8)] = b"0123456789[]{},:\"-"[usize::from(byte) % 18],
                _ => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
        }
        if let Err(error) = load(bytes, LoadOptions::default()) {
            prop_assert!(
                matches!(
                    error,
                    Error::File { .. }
                        | Error::MissingWeight { .. }
                        | Error::WeightShape { .. }
                        | Error::WeightType { .. }
                        | Error::SurplusWeights { .. }
                        | Error::Config { .. }
                ),
                "{}", error
            );
        }
    }
}
