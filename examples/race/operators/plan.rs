//! What to race, checked before anything runs.

use std::error::Error;
use std::fmt;

use lightspan::{Backend, DType, Sequences, Window};

use super::operator::Operator;
use crate::args::Args;
use crate::format::significant;
use crate::machine::physical_memory;
use crate::setup::{LENGTHS, Setup, check_memory, lengths};

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

pub(crate) struct Plan {
    pub(crate) setup: Setup,
    pub(crate) setting: Setting,
    /// Bytes that the scores of naive attention may take.
    pub(crate) score_limit: u64,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> Result<Self, Box<dyn Error>> {
        let lengths = lengths(args, &LENGTHS, &QUICK_LENGTHS);
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
        check_memory(bytes_needed(&setting, longest))?;
        let score_limit = MOST_SCORE_BYTES.min(physical_memory() / 4);
        Ok(Plan { setup: Setup::new(args, lengths)?, setting, score_limit })
    }

    /// How many copies of the tokens calls rotate among.
    pub(crate) fn tracks(&self, length: usize) -> u64 {
        tracks(self.setup.device.backend(), self.setting.token_bytes(length))
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
    use super::*;
    use crate::setup::tests::args;

    fn plan(given: &[&str]) -> Result<Plan, String> {
        Plan::new(&args(given)).map_err(|error| error.to_string())
    }

    #[test]
    fn lengths_are_those_of_the_race() {
        assert_eq!(plan(&[]).unwrap().setup.lengths, LENGTHS);
        assert_eq!(plan(&["--quick"]).unwrap().setup.lengths, QUICK_LENGTHS);
    }

    #[test]
    fn what_cannot_run_is_one_clear_line() {
        let error = |args: &[&str]| plan(args).err().unwrap();
        assert_eq!(error(&["--heads", "7"]), "7 heads do not divide 512 channels");
        assert_eq!(error(&["--width", "0"]), "window width must be at least 1");
        assert_eq!(error(&["--channels", "0"]), "channels must be at least 1");
        assert!(error(&["--lengths", "1000000000000"]).starts_with("tensors would take "));
        assert!(error(&["--width", "1000000000000"]).starts_with("tensors would take "));
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
