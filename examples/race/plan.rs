//! What to race, checked before anything runs.

use std::error::Error;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use lightspan::{Backend, DType, Device, Sequences, Window};

use crate::args::Args;
use crate::format::significant;
use crate::machine::physical_memory;
use crate::operator::Operator;

const LENGTHS: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];
const QUICK_LENGTHS: [usize; 4] = [64, 256, 1024, 4096];

/// Where the scores of naive attention would take more than this, or a quarter of the memory there is, it is skipped.
const MOST_SCORE_BYTES: u64 = 2 << 30;

/// Bytes of x and y that calls rotate among where they do: more than the cache of any GPU.
const ROTATED_BYTES: u64 = 256 << 20;

/// What all operators of a race have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) window: Window,
    pub(crate) dtype: DType,
}

impl Setting {
    /// Bytes of x and y.
    fn token_bytes(&self, length: usize) -> u64 {
        2 * (self.batch * length * self.channels * self.dtype.size()) as u64
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { batch, channels, heads, window, dtype } = self;
        write!(f, "{dtype}, {channels} channels, {heads} heads, width {}, batch {batch}", window.width())
    }
}

/// The text whose bytes are the tokens.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Plan {
    pub(crate) device: Device,
    pub(crate) setting: Setting,
    /// Ascending, each once.
    pub(crate) lengths: Vec<usize>,
    pub(crate) text: Text,
    /// Time for each measurement.
    pub(crate) budget: Duration,
    pub(crate) out: PathBuf,
    /// Bytes that the scores of naive attention may take.
    pub(crate) score_limit: u64,
}

impl Plan {
    pub(crate) fn new(args: Args) -> Result<Self, Box<dyn Error>> {
        let lengths = lengths(&args);
        let setting = Setting {
            batch: args.batch,
            channels: args.channels,
            heads: args.heads,
            window: Window::same(args.width)?,
            dtype: args.dtype,
        };
        let longest = lengths.last().copied().unwrap_or(0);
        for operator in Operator::ALL {
            operator.problem(&setting, &Sequences::batch(setting.batch, longest)?)?;
        }
        let memory = physical_memory();
        let needed = bytes_needed(&setting, longest);
        if needed > u128::from(memory / 2) {
            let (needed, memory) = (needed >> 20, memory >> 20);
            return Err(
                format!("tensors would take {needed} MiB, over half of the memory ({memory} MiB)").into()
            );
        }
        let device = device(args.backend, args.adapter.as_deref())?;
        let text = text(args.text)?;
        // Found out now, not after the race; whatever the file holds stays until there is something to replace it.
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&args.out)
            .map_err(|error| format!("cannot write {}: {error}", args.out.display()))?;
        Ok(Plan {
            device,
            setting,
            lengths,
            text,
            budget: Duration::from_millis(if args.quick { 100 } else { 300 }),
            out: args.out,
            score_limit: MOST_SCORE_BYTES.min(memory / 4),
        })
    }

    /// How many copies of the tokens calls rotate among.
    pub(crate) fn tracks(&self, length: usize) -> u64 {
        tracks(self.device.backend(), self.setting.token_bytes(length))
    }

    /// Why an operator does not run at a length, if it does not: it would need too much memory.
    pub(crate) fn skips(&self, operator: Operator, length: usize) -> Option<String> {
        let naive = operator == Operator::NaiveAttention;
        (naive && score_bytes(&self.setting, length) > u128::from(self.score_limit)).then(|| {
            let limit = significant(self.score_limit as f64 / f64::from(1u32 << 30));
            format!("its scores would take more than {limit} GiB")
        })
    }
}

/// As many copies of so many bytes of x and y that no call finds its own in the cache, on CUDA. Elsewhere a call finds
/// what the one before has left.
fn tracks(backend: Backend, bytes: u64) -> u64 {
    if backend == Backend::Cuda { ROTATED_BYTES.div_ceil(bytes) } else { 1 }
}

fn device(backend: Option<Backend>, adapter: Option<&str>) -> Result<Device, Box<dyn Error>> {
    match (backend, adapter) {
        (Some(Backend::CudaEmulated), _) => {
            Err("cuda-emulated does not race: the emulator is no model of time".into())
        }
        (None, None) => Ok(Device::best()),
        (Some(backend), None) => Ok(Device::open(backend)?),
        (None | Some(Backend::Wgpu), Some(name)) => Ok(named(name)?),
        (Some(backend), Some(_)) => Err(format!("--adapter is for wgpu, not for {backend}").into()),
    }
}

#[cfg(feature = "wgpu")]
fn named(adapter: &str) -> lightspan::Result<Device> {
    Device::wgpu_named(adapter)
}

/// The error that says why there is none.
#[cfg(not(feature = "wgpu"))]
fn named(_: &str) -> lightspan::Result<Device> {
    Device::open(Backend::Wgpu)
}

fn lengths(args: &Args) -> Vec<usize> {
    let mut lengths = match (args.lengths.as_slice(), args.quick) {
        ([], false) => LENGTHS.to_vec(),
        ([], true) => QUICK_LENGTHS.to_vec(),
        (given, _) => given.to_vec(),
    };
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

fn text(path: Option<PathBuf>) -> Result<Text, String> {
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

/// The scores of naive attention, `[batch, H, T, T]` in f32.
fn score_bytes(setting: &Setting, length: usize) -> u128 {
    let length = length as u128;
    (setting.batch * setting.heads) as u128 * length * length * 4
}

/// Tokens x, q, k, v and y and the weights, with the f64 copies of them that the check makes.
fn bytes_needed(setting: &Setting, length: usize) -> u128 {
    let [batch, channels, heads, width, length] =
        [setting.batch, setting.channels, setting.heads, setting.window.width(), length].map(|n| n as u128);
    let weights = channels * (heads * width + width + 4 * channels);
    (5 * batch * length * channels + weights) * (setting.dtype.size() + size_of::<f64>()) as u128
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan_into(out: &str, args: &[&str]) -> Result<Plan, String> {
        let args = Args::try_parse_from(["race", "--out", out].iter().chain(args)).unwrap();
        Plan::new(args).map_err(|error| error.to_string())
    }

    fn plan(args: &[&str]) -> Result<Plan, String> {
        plan_into(std::env::temp_dir().join("lightspan-race-test.svg").to_str().unwrap(), args)
    }

    #[test]
    fn lengths_ascend() {
        assert_eq!(plan(&["--lengths", "9,3,9,1"]).unwrap().lengths, [1, 3, 9]);
        assert_eq!(plan(&["--quick"]).unwrap().lengths, QUICK_LENGTHS);
        assert_eq!(plan(&["--quick", "--lengths", "5"]).unwrap().lengths, [5]);
    }

    #[test]
    fn what_cannot_run_is_one_clear_line() {
        let error = |args: &[&str]| plan(args).err().unwrap();
        assert_eq!(error(&["--heads", "7"]), "7 heads do not divide 512 channels");
        assert_eq!(error(&["--width", "0"]), "window width must be at least 1");
        assert_eq!(error(&["--channels", "0"]), "channels must be at least 1");
        assert!(error(&["--text", "no such file"]).starts_with("cannot read no such file: "));
        assert!(error(&["--lengths", "1000000000000"]).starts_with("tensors would take "));
        assert!(error(&["--width", "1000000000000"]).starts_with("tensors would take "));
        assert_eq!(
            error(&["--backend", "cpu", "--adapter", "llvmpipe"]),
            "--adapter is for wgpu, not for cpu"
        );
        assert_eq!(
            error(&["--backend", "cuda-emulated"]),
            "cuda-emulated does not race: the emulator is no model of time"
        );
        assert!(error(&["--adapter", "no such adapter"]).starts_with("wgpu is not available: "));
        assert!(plan_into("/", &[]).err().unwrap().starts_with("cannot write /: "));
    }

    #[test]
    fn what_rotates_is_more_than_a_cache() {
        let plan = plan(&["--backend", "cpu", "--batch", "3"]).unwrap();
        let bytes = plan.setting.token_bytes(100);
        assert_eq!(bytes, 2 * 3 * 100 * 512 * 4);
        assert_eq!(plan.tracks(100), 1);
        assert!(tracks(Backend::Cuda, bytes) * bytes >= ROTATED_BYTES);
        assert_eq!(tracks(Backend::Cuda, ROTATED_BYTES + 1), 1);
        assert_eq!(tracks(Backend::Wgpu, bytes), 1);
    }

    #[test]
    fn naive_attention_is_skipped_where_its_scores_would_not_fit() {
        let plan = plan(&["--lengths", "4096"]).unwrap();
        assert!(plan.skips(Operator::NaiveAttention, 1 << 20).is_some());
        assert_eq!(plan.skips(Operator::FusedAttention, 1 << 20), None);
        assert_eq!(plan.skips(Operator::NaiveAttention, 64), None);
    }
}
