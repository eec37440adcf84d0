//! What every race needs, checked before anything runs.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lightspan::{Backend, DType, Device};

use crate::args::Args;
use crate::device;
use crate::machine::physical_memory;

/// The lengths of a race, unless others are asked for.
pub(crate) const LENGTHS: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

/// The text whose bytes are the tokens.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Where a race runs, on what, and where its picture goes.
pub(crate) struct Setup {
    pub(crate) device: Device,
    /// What tensors are stored in.
    pub(crate) dtype: DType,
    /// Ascending, each once.
    pub(crate) lengths: Vec<usize>,
    pub(crate) text: Text,
    /// Time for each measurement.
    pub(crate) budget: Duration,
    pub(crate) out: PathBuf,
}

impl Setup {
    pub(crate) fn new(args: &Args, lengths: Vec<usize>) -> Result<Self, Box<dyn Error>> {
        if args.backend == Some(Backend::CudaEmulated) {
            return Err("cuda-emulated does not race: the emulator is no model of time".into());
        }
        let device = device::open(args.backend, args.adapter.as_deref())?;
        let text = text(args.text.as_deref())?;
        // Found out now, not after the race; whatever the file holds stays until there is something to replace it.
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&args.out)
            .map_err(|error| format!("cannot write {}: {error}", args.out.display()))?;
        Ok(Setup {
            device,
            dtype: args.dtype,
            lengths,
            text,
            budget: Duration::from_millis(if args.quick { 100 } else { 300 }),
            out: args.out.clone(),
        })
    }
}

/// The lengths that are asked for, ascending and each once; by default `all`, or `quick`.
pub(crate) fn lengths(args: &Args, all: &[usize], quick: &[usize]) -> Vec<usize> {
    let mut lengths = match (args.lengths.as_slice(), args.quick) {
        ([], false) => all.to_vec(),
        ([], true) => quick.to_vec(),
        (given, _) => given.to_vec(),
    };
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// An error where tensors of so many bytes would take more than half of the memory.
pub(crate) fn check_memory(needed: u128) -> Result<(), String> {
    let memory = physical_memory();
    if needed <= u128::from(memory / 2) {
        return Ok(());
    }
    let (needed, memory) = (needed >> 20, memory >> 20);
    Err(format!("tensors would take {needed} MiB, over half of the memory ({memory} MiB)"))
}

fn text(path: Option<&Path>) -> Result<Text, String> {
    let Some(path) = path else {
        let bytes = include_bytes!("cicero.txt").to_vec();
        return Ok(Text { name: "Cicero, De finibus bonorum et malorum, book 1".to_owned(), bytes });
    };
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    if bytes.is_empty() {
        return Err(format!("{name} is empty"));
    }
    Ok(Text { name, bytes })
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    /// What is typed, with a picture that goes to `out`.
    pub(crate) fn args_into(out: &str, args: &[&str]) -> Args {
        Args::try_parse_from(["race", "--out", out].iter().chain(args)).unwrap()
    }

    /// The same with a picture in the folder for temporary files.
    pub(crate) fn args(args: &[&str]) -> Args {
        args_into(std::env::temp_dir().join("lightspan-race-test.svg").to_str().unwrap(), args)
    }

    #[test]
    fn lengths_ascend() {
        let of = |given: &[&str]| lengths(&args(given), &[1, 2, 3], &[1, 3]);
        assert_eq!(of(&["--lengths", "9,3,9,1"]), [1, 3, 9]);
        assert_eq!(of(&[]), [1, 2, 3]);
        assert_eq!(of(&["--quick"]), [1, 3]);
        assert_eq!(of(&["--quick", "--lengths", "5"]), [5]);
    }

    #[test]
    fn what_is_not_there_is_one_clear_line() {
        let error = |args: Args| Setup::new(&args, vec![1]).err().unwrap().to_string();
        assert!(error(args(&["--text", "no such file"])).starts_with("cannot read no such file: "));
        assert_eq!(
            error(args(&["--backend", "cpu", "--adapter", "llvmpipe"])),
            "--adapter is for wgpu, not for cpu"
        );
        assert_eq!(
            error(args(&["--backend", "cuda-emulated"])),
            "cuda-emulated does not race: the emulator is no model of time"
        );
        assert!(error(args(&["--adapter", "no such adapter"])).starts_with("wgpu is not available: "));
        assert!(error(args_into("/", &[])).starts_with("cannot write /: "));
    }

    #[test]
    fn memory_is_not_all_for_tensors() {
        assert_eq!(check_memory(1 << 20), Ok(()));
        assert!(check_memory(u128::MAX).unwrap_err().starts_with("tensors would take "));
    }
}
