//! Reading a fixture: a `.safetensors` file of f64 and i64 tensors whose metadata says which case it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use lightspan::Normalize;
use safetensors::{Dtype, SafeTensors};

use super::{Fault, Result};

/// A fixture as its file has it.
#[derive(Clone, Debug)]
pub(crate) struct Fixture {
    /// The name of its file, without the extension.
    pub(crate) name: String,
    /// The metadata of the file.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Its tensors of f64.
    pub(crate) tensors: BTreeMap<String, Numbers<f64>>,
    /// Its tensors of i64: lengths.
    pub(crate) integers: BTreeMap<String, Numbers<i64>>,
}

/// A tensor of a fixture.
#[derive(Clone, Debug)]
pub(crate) struct Numbers<N> {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<N>,
}

impl Fixture {
    /// The name that the fixture in file `path` has.
    pub(crate) fn name(path: &Path) -> String {
        path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Fixture::parse(Fixture::name(path), &bytes)
    }

    /// Reads what a file holds.
    pub(crate) fn parse(name: String, bytes: &[u8]) -> Result<Self> {
        let broken = |error| format!("not a whole safetensors file: {error}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let file = SafeTensors::deserialize(bytes).map_err(broken)?;
        let (mut tensors, mut integers) = (BTreeMap::new(), BTreeMap::new());
        for (tensor, view) in file.iter() {
            let (shape, data) = (view.shape().to_vec(), view.data());
            match view.dtype() {
                Dtype::F64 => {
                    let values = numbers(data, f64::from_le_bytes);
                    tensors.insert(tensor.to_owned(), Numbers { shape, values });
                }
                Dtype::I64 => {
                    let values = numbers(data, i64::from_le_bytes);
                    integers.insert(tensor.to_owned(), Numbers { shape, values });
                }
                dtype => return Err(format!("{tensor} is {dtype}, expected F64 or I64").into()),
            }
        }
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Fixture { name, metadata, tensors, integers })
    }

    /// A tensor of f64.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Numbers<f64>> {
        self.tensors.get(name).ok_or_else(|| format!("tensor {name} is missing").into())
    }

    /// One length for each of `batch` sequences, where the fixture has them.
    pub(crate) fn lengths(&self, name: &str, batch: usize) -> Result<Option<Vec<usize>>> {
        let Some(lengths) = self.integers.get(name) else {
            // Lengths of another type must not pass for a batch without padding.
            return match self.tensors.contains_key(name) {
                true => Err(format!("{name} is F64, expected I64").into()),
                false => Ok(None),
            };
        };
        if lengths.shape != [batch] {
            return Err(format!("{name} must have shape [{batch}], got {:?}", lengths.shape).into());
        }
        let length = |&length| usize::try_from(length).map_err(|_| format!("{name} holds {length}").into());
        lengths.values.iter().map(length).collect::<Result<_>>().map(Some)
    }

    /// A value of the metadata.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| format!("metadata {key} is missing").into())
    }

    /// A value of the metadata that is a number or a truth.
    pub(crate) fn value<V: FromStr>(&self, key: &str) -> Result<V> {
        let text = self.text(key)?;
        text.parse().map_err(|_| not_understood(key, text))
    }

    /// The same where it may be missing.
    pub(crate) fn optional_value<V: FromStr>(&self, key: &str) -> Result<Option<V>> {
        if self.metadata.contains_key(key) { self.value(key).map(Some) } else { Ok(None) }
    }

    /// How weights are normalised.
    pub(crate) fn normalize(&self) -> Result<Normalize> {
        match self.text("normalize")? {
            "none" => Ok(Normalize::None),
            "softmax" => Ok(Normalize::Softmax),
            "softmax_in_range" => Ok(Normalize::SoftmaxInRange),
            other => Err(not_understood("normalize", other)),
        }
    }
}

fn not_understood(key: &str, text: &str) -> Fault {
    format!("metadata {key} is {text:?}, which is not understood").into()
}

/// Little-endian numbers of B bytes each.
pub(super) fn numbers<N, const B: usize>(data: &[u8], number: impl Fn([u8; B]) -> N) -> Vec<N> {
    data.as_chunks().0.iter().copied().map(number).collect()
}
