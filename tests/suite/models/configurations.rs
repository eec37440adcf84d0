use std::collections::BTreeMap;

use lightspan::models::{
    ConvBert, ConvBertConfig, ConvBertForSequenceClassification, LightConvConfig, LightConvKind,
    PositionKind, PretrainedConvConfig, PretrainedMixer, Weights,
};
use lightspan::{Device, Error, Result};

use super::{mixers, taken, tiny_convbert, tiny_light_conv, tiny_pretrained};

fn count(parameters: &BTreeMap<String, Vec<usize>>) -> usize {
    parameters.values().map(|shape| shape.iter().product::<usize>()).sum()
}

/// The numbers of `ConvBertModel` in transformers (Jiang et al. 2020, table 3, has 14M, 17M and 106M).
#[test]
fn published_models_have_their_parameters() {
    assert_eq!(ConvBertConfig::small().parameters().unwrap(), 13_143_768);
    assert_eq!(ConvBertConfig::medium_small().parameters().unwrap(), 17_475_888);
    assert_eq!(ConvBertConfig::base().parameters().unwrap(), 105_680_520);

    // Tay et al. 2021, section 5.2.
    let millions = |config: PretrainedConvConfig| (config.parameters().unwrap() as f64 / 1e6).round();
    assert_eq!(millions(PretrainedConvConfig::light_base()), 210.0);
    assert_eq!(millions(PretrainedConvConfig::dynamic_base()), 324.0);
    assert_eq!(millions(PretrainedConvConfig::light_large()), 741.0);
    assert_eq!((millions(PretrainedConvConfig::dynamic_large()) / 100.0).round(), 12.0);
}

#[test]
fn models_take_as_many_parameters_as_they_say() {
    let one_size = ConvBertConfig { embedding_size: 16, num_groups: 1, ..tiny_convbert() };
    for config in [tiny_convbert(), one_size] {
        let parameters = taken(|weights| ConvBert::new(&config, weights).map(drop));
        assert_eq!(count(&parameters), config.parameters().unwrap(), "{config:?}");
    }
    for kind in [LightConvKind::Lightweight, LightConvKind::Dynamic] {
        let tied = tiny_light_conv(kind);
        let apart = LightConvConfig {
            source_vocab_size: Some(19),
            share_all_embeddings: false,
            share_decoder_input_output_embed: false,
            positions: PositionKind::Learned,
            normalize_before: true,
            glu: false,
            conv_dim: Some(24),
            ..tied.clone()
        };
        for config in [tied, apart] {
            let parameters = taken(|weights| config.seq2seq(weights).map(drop));
            assert_eq!(count(&parameters), config.parameters().unwrap(), "{config:?}");
            let config =
                LightConvConfig { model: "lightconv_lm".to_owned(), source_vocab_size: None, ..config };
            let parameters = taken(|weights| config.language_model(weights).map(drop));
            assert_eq!(count(&parameters), config.parameters().unwrap(), "{config:?}");
        }
    }
    for mixer in mixers() {
        let config = tiny_pretrained(mixer);
        let layer_norm = PretrainedConvConfig { rms_norm: false, pointwise: true, ..config.clone() };
        for config in [config, layer_norm] {
            let parameters = taken(|weights| config.seq2seq(weights).map(drop));
            assert_eq!(count(&parameters), config.parameters().unwrap(), "{config:?}");
        }
    }
}

#[test]
fn generators_are_smaller_and_share_embeddings() {
    let small = ConvBertConfig::small().generator(4);
    assert_eq!([small.hidden_size, small.num_attention_heads, small.intermediate_size], [64, 1, 256]);
    assert_eq!(small.embedding_size, 128);
    assert_eq!([small.heads(), small.head_channels()], [1, 32]);
    small.parameters().unwrap();
    let base = ConvBertConfig::base().generator(3);
    assert_eq!([base.hidden_size, base.num_attention_heads, base.intermediate_size], [256, 4, 1024]);
}

#[test]
fn what_no_model_has_is_refused() {
    let refused = |result: Result<usize>, key: &str| match result {
        Err(Error::Config { key: found, .. }) => assert_eq!(found, key),
        other => panic!("{key}: {other:?}"),
    };
    let convbert = |change: &dyn Fn(&mut ConvBertConfig), key| {
        let mut config = tiny_convbert();
        change(&mut config);
        refused(config.parameters(), key);
        let weights = Weights::drawn(0, &Device::cpu(), Default::default());
        assert!(matches!(ConvBert::new(&config, &weights), Err(Error::Config { .. })), "{key}");
    };
    convbert(&|config| config.model_type = "bert".to_owned(), "model_type");
    convbert(&|config| config.hidden_size = 0, "hidden_size");
    convbert(&|config| config.hidden_size = 18, "hidden_size");
    convbert(&|config| config.hidden_size = usize::MAX, "hidden_size");
    convbert(&|config| config.num_groups = 3, "num_groups");
    convbert(&|config| config.num_groups = 0, "num_groups");
    convbert(&|config| config.conv_kernel_size = 4, "conv_kernel_size");
    convbert(&|config| config.head_ratio = 0, "head_ratio");
    convbert(&|config| config.hidden_act = "silu".to_owned(), "hidden_act");
    convbert(&|config| config.num_labels = Some(0), "num_labels");
    for (json, key) in [
        (r#"{"is_decoder": true}"#, "is_decoder"),
        (r#"{"add_cross_attention": true}"#, "is_decoder"),
        (r#"{"position_embedding_type": "relative_key"}"#, "position_embedding_type"),
    ] {
        refused(ConvBertConfig::from_json(json.as_bytes()).unwrap().parameters(), key);
    }
    let light = |change: &dyn Fn(&mut LightConvConfig), key| {
        let mut config = tiny_light_conv(LightConvKind::Dynamic);
        change(&mut config);
        refused(config.parameters(), key);
    };
    light(&|config| config.model = "fconv".to_owned(), "model");
    light(&|config| config.attention_heads = 5, "attention_heads");
    light(&|config| config.conv_dim = Some(10), "attention_heads");
    light(&|config| config.decoder_kernel_widths[0] = 0, "kernel_widths");
    light(&|config| config.padding_index = 17, "padding_index");
    // One table serves both sides here.
    light(&|config| config.source_vocab_size = Some(18), "source_vocab_size");
    light(&|config| (config.share_all_embeddings, config.source_vocab_size) = (false, Some(2)), "eos_index");
    let pretrained = |mixer, key| refused(tiny_pretrained(mixer).parameters(), key);
    pretrained(PretrainedMixer::Light { width: 7, heads: 5 }, "heads");
    pretrained(PretrainedMixer::Depthwise { width: 0 }, "width");
    pretrained(PretrainedMixer::Dilated { widths: vec![], dilation: 1 }, "the number of widths");
    pretrained(PretrainedMixer::Dilated { widths: vec![3], dilation: 0 }, "dilation");
}

#[test]
fn a_configuration_is_read_as_it_is_written() {
    let config = ConvBertConfig::from_json(b"{}").unwrap();
    assert_eq!(config, ConvBertConfig::base());
    let labels = br#"{"id2label": {"0": "a", "1": "b", "2": "c"}, "unknown": [1]}"#;
    assert_eq!(ConvBertConfig::from_json(labels).unwrap().labels(), 3);
    let error = LightConvConfig::from_json(br#"{"vocab_size": 3}"#).unwrap_err();
    assert!(error.to_string().contains("missing field"), "{error}");
    let json = br#"{"model": "pretrained_conv", "vocab_size": 9, "embed_dim": 4, "ffn_embed_dim": 8, "attention_heads": 2,
        "encoder_layers": 1, "decoder_layers": 1, "mixer": {"kind": "dynamic", "width": 3, "heads": 2}, "pointwise": false,
        "norm_order": "norm_then_add", "rms_norm": false, "max_positions": 5}"#;
    let config = PretrainedConvConfig::from_json(json).unwrap();
    assert_eq!(config.mixer, PretrainedMixer::Dynamic { width: 3, heads: 2 });
    taken(|weights| config.seq2seq(weights).map(drop));
    for json in ["{", "[]", r#"{"hidden_size": -1}"#, r#"{"vocab_size": "many"}"#] {
        let error = ConvBertConfig::from_json(json.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
    // A classification has as many labels as it says.
    let config = ConvBertConfig { num_labels: Some(5), ..tiny_convbert() };
    let parameters = taken(|weights| ConvBertForSequenceClassification::new(&config, weights).map(drop));
    assert_eq!(parameters["classifier.out_proj.weight"], [5, 16]);
}
