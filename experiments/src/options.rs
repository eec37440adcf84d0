//! The flags that all programs have.

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use candle_core::Device;
use clap::Args;
use clap::builder::RangedU64ValueParser;

/// Takes numbers from 1 to the largest that makes sense: far beyond it there is no memory.
pub fn count(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Takes learning rates.
///
/// # Errors
///
/// For what is no number above zero.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a learning rate is a number above zero".to_owned()),
    }
}

/// # Errors
///
/// For a list that is empty, or has something twice: it would be counted twice.
pub fn distinct<T: PartialEq + Debug>(flag: &str, list: &[T]) -> Result<()> {
    ensure!(!list.is_empty(), "nothing in {flag}");
    for (i, item) in list.iter().enumerate() {
        ensure!(!list[..i].contains(item), "{item:?} is twice in {flag}");
    }
    Ok(())
}

/// Where to train, from which seeds, and where results go.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The first seed: parameters, batches and what is masked depend on it
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many seeds, from the first on
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// The folder in which each program has one for its checkpoints and results
    #[arg(long, default_value = "target/experiments")]
    pub out: PathBuf,
    /// Begin anew where there are checkpoints
    #[arg(long)]
    pub fresh: bool,
    /// Stop after so many steps in all; the same command without it goes on
    #[arg(long)]
    pub stop_after: Option<usize>,
    /// Runs at a time, each on one core; it changes no result [default: as many as there are cores, and one on a CUDA device]
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// Train on the first CUDA device (feature cuda)
    #[arg(long)]
    pub cuda: bool,
}

impl Common {
    /// The seeds.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + Clone {
        let first = self.seed;
        (0..self.seeds).map(move |i| first.wrapping_add(i))
    }

    /// The folder of a program.
    pub fn folder(&self, program: &str) -> PathBuf {
        self.out.join(program)
    }

    /// Runs at a time.
    pub fn jobs(&self) -> usize {
        let cores = || if self.cuda { Ok(NonZeroUsize::MIN) } else { std::thread::available_parallelism() };
        self.jobs.or_else(|| cores().ok()).map_or(1, NonZeroUsize::get)
    }

    /// What results depend on besides the flags: other devices round otherwise.
    pub fn place(&self) -> &'static str {
        if self.cuda { "CUDA" } else { "CPU" }
    }

    /// The device.
    ///
    /// # Errors
    ///
    /// Where there is no CUDA device, or the program was built without.
    pub fn device(&self) -> Result<Device> {
        if !self.cuda {
            return Ok(Device::Cpu);
        }
        if !cfg!(feature = "cuda") {
            bail!(
                "--cuda wants the feature cuda: cargo run --release -p lightspan-experiments --features cuda .."
            );
        }
        // One stream for all threads: what one run leaves to the next is there.
        Ok(Device::new_cuda_with_stream(0)?)
    }
}
