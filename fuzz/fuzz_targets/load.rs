//! Whatever stands in the files of a model, it loads or is refused.
//!
//! ```text
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run load
//! ```
//!
//! The first byte of an input says which model is wanted, the two after it how many of the others are its `config.json`; the rest is
//! its `model.safetensors`. `tests/suite/models/loading.rs` tries tens of thousands of such files in every run of the tests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lightspan::models::{
    ConvBert, ConvBertConfig, ConvBertDiscriminator, ConvBertForMaskedLm, ConvBertForSequenceClassification,
    LightConvConfig, LoadOptions, PretrainedConvConfig, Weights,
};
use lightspan::{Device, Error, Result};

fuzz_target!(|input: &[u8]| {
    if let Some((&[which, low, high], files)) = input.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(files.len());
        let (config, weights) = files.split_at(length);
        // An error is an answer.
        let _ = load(which, config, weights);
    }
});

fn load(which: u8, config: &[u8], weights: &[u8]) -> Result<()> {
    let weights = Weights::from_bytes(weights.to_vec(), &Device::cpu(), LoadOptions::default())?;
    match which {
        0 => ConvBert::new(&ConvBertConfig::from_json(config)?, &weights).map(drop),
        1 => ConvBertForMaskedLm::new(&ConvBertConfig::from_json(config)?, &weights).map(drop),
        2 => ConvBertForSequenceClassification::new(&ConvBertConfig::from_json(config)?, &weights).map(drop),
        3 => ConvBertDiscriminator::new(&ConvBertConfig::from_json(config)?, &weights).map(drop),
        4 => LightConvConfig::from_json(config)?.seq2seq(&weights).map(drop),
        5 => LightConvConfig::from_json(config)?.language_model(&weights).map(drop),
        6 => PretrainedConvConfig::from_json(config)?.seq2seq(&weights).map(drop),
        _ => Err(Error::ZeroSize { what: "models" }),
    }
}
