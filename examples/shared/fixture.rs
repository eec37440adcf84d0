//! What tests run on: the tiny models of `tests/fixtures`, as they are or changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::SafeTensors;
use serde_json::Value;

/// A model's folder.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The rows of a matrix of integers that another implementation was given, or gave.
pub(crate) fn integers(folder: &Path, name: &str) -> Vec<Vec<u32>> {
    rows(folder, name, |bytes| i64::from_le_bytes(bytes) as u32)
}

/// The rows of a tensor of numbers, over all its sizes before the last.
pub(crate) fn numbers(folder: &Path, name: &str) -> Vec<Vec<f32>> {
    rows(folder, name, f32::from_le_bytes)
}

fn rows<T: Clone, const N: usize>(folder: &Path, name: &str, number: impl Fn([u8; N]) -> T) -> Vec<Vec<T>> {
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let (numbers, rest) = view.data().as_chunks::<N>();
    let numbers: Vec<T> = numbers.iter().copied().map(number).collect();
    assert!(rest.is_empty() && numbers.len() == view.shape().iter().product::<usize>());
    numbers.chunks(*view.shape().last().unwrap()).map(<[T]>::to_vec).collect()
}

/// A folder that goes when its test does.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// One with the configuration and the weights of a fixture, and `change` made in the configuration.
    pub(crate) fn of(name: &str, change: &[(&str, Value)]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("lightspan-{}-{}-{count}", env!("CARGO_CRATE_NAME"), std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(folder));
        fs::create_dir(scratch.path()).unwrap();
        let from = fixture(name);
        fs::copy(from.join("model.safetensors"), scratch.path().join("model.safetensors")).unwrap();
        let mut config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        for (key, value) in change {
            config[*key] = value.clone();
        }
        scratch.write("config.json", &config.to_string())
    }

    /// With a file more, or another one.
    pub(crate) fn write(self, name: &str, text: &str) -> Self {
        fs::write(self.path().join(name), text).unwrap();
        self
    }

    /// With a file as a fixture has it.
    pub(crate) fn with(self, name: &str, file: &str) -> Self {
        fs::copy(fixture(name).join(file), self.path().join(file)).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
