//! Reading configurations, and saying what is wrong with one.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::models::{LoadOptions, Weights};
use crate::{Device, Error, Result};

/// The most that a size of a configuration may be: products of three of them still fit 64 bits... and no model has more.
pub(crate) const LARGEST: usize = 1 << 20;

/// A configuration from JSON; `file` is what it is called in messages.
pub(crate) fn from_json<C: DeserializeOwned>(file: impl fmt::Display, json: &[u8]) -> Result<C> {
    let broken = |reason| Error::File { file: file.to_string(), reason };
    // A list would do for a structure whose fields all have defaults.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(broken("no JSON object".to_owned()));
    }
    serde_json::from_slice(json).map_err(|error| broken(error.to_string()))
}

/// The configuration and the weights of a model's folder: `config.json` and `model.safetensors`.
fn open<'a, C: DeserializeOwned>(
    folder: &Path,
    device: &Device,
    options: LoadOptions<'a>,
) -> Result<(C, Weights<'a>)> {
    let path = folder.join("config.json");
    let json = std::fs::read(&path)
        .map_err(|error| Error::File { file: path.display().to_string(), reason: error.to_string() })?;
    let config = from_json(path.display(), &json)?;
    Ok((config, Weights::open(folder.join("model.safetensors"), device, options)?))
}

/// What `model` makes of both, with the configuration.
pub(crate) fn load<C: DeserializeOwned, M>(
    folder: &Path,
    device: &Device,
    options: LoadOptions<'_>,
    model: impl FnOnce(&C, &Weights<'_>) -> Result<M>,
) -> Result<(C, M)> {
    let (config, weights) = open(folder, device, options)?;
    let model = model(&config, &weights)?;
    Ok((config, model))
}

/// An error unless a size is one that a model can have.
pub(crate) fn size(key: &'static str, got: usize) -> Result<()> {
    in_range(key, got, 1)
}

/// The same where there may be none.
pub(crate) fn in_range(key: &'static str, got: usize, least: usize) -> Result<()> {
    if (least..=LARGEST).contains(&got) {
        return Ok(());
    }
    Err(refused(key, format!("{least} to {LARGEST}"), got))
}

/// An error unless `divisor` divides a size.
pub(crate) fn divides(key: &'static str, divisor: usize, of: &str, size: usize) -> Result<()> {
    if divisor != 0 && size.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(refused(key, format!("a divisor of {of}, {size}"), divisor))
}

/// The error for what a key says.
pub(crate) fn refused(key: &'static str, expected: impl fmt::Display, got: impl fmt::Display) -> Error {
    Error::Config { key, expected: expected.to_string(), got: got.to_string() }
}
