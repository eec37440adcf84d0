//! From paths to cases.

use std::io;
use std::path::{Path, PathBuf};

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Found {
    /// One operator: a file.
    Fixture(PathBuf),
    /// One model: a folder with a configuration and parameters.
    Model(PathBuf),
    /// A folder that cannot be read.
    Unreadable(PathBuf, io::Error),
}

/// A file is a fixture, whatever its name; a folder is a model, or holds fixtures and models at any depth, which come
/// in the order of their names.
pub(crate) fn find(path: &Path) -> Vec<Found> {
    if !path.is_dir() {
        return vec![Found::Fixture(path.to_owned())];
    }
    if path.join("config.json").is_file() && path.join("model.safetensors").is_file() {
        return vec![Found::Model(path.to_owned())];
    }
    match entries(path) {
        Ok(entries) => entries.iter().flat_map(|entry| find(entry)).collect(),
        Err(error) => vec![Found::Unreadable(path.to_owned(), error)],
    }
}

/// Folders, and files that are fixtures by their names, in order.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = vec![];
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "safetensors") {
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}
