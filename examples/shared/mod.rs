//! What the examples share that take the folder of a model, and texts: where a model runs, how it is loaded, tokenizers, and lines
//! in and answers out. The race has `device` too.

mod device;
#[cfg(test)]
pub(crate) mod fixture;
mod options;
mod texts;
mod tokenizer;

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;

pub(crate) use options::Options;
pub(crate) use texts::Texts;
pub(crate) use tokenizer::{largest_id, read_tokenizer};

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// What a program ends with: an error is one line. A reader that has seen enough (`| head`) is no error.
pub(crate) fn exit(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// A file of a model's folder, or an error that says which.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?)
}
