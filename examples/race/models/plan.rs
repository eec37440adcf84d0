//! What to race, checked before anything runs.

use std::error::Error;

use super::encoder::{Kind, Setting, Shape};
use crate::args::Args;
use crate::setup::{LENGTHS, Setup, check_memory, lengths};

const QUICK_LENGTHS: [usize; 3] = [64, 256, 1024];

pub(crate) struct Plan {
    pub(crate) setup: Setup,
    pub(crate) setting: Setting,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> Result<Self, Box<dyn Error>> {
        let lengths = lengths(args, &LENGTHS, &QUICK_LENGTHS);
        let size = args.size.unwrap_or_default();
        let setting = Setting { size, shape: Shape::of(size), batch: args.batch, dtype: args.dtype };
        let longest = lengths.last().copied().unwrap_or(0);
        for kind in Kind::ALL {
            check_memory(bytes_needed(&setting, longest, kind.config(&setting, longest).parameters()?))?;
        }
        Ok(Plan { setup: Setup::new(args, lengths)?, setting })
    }

    pub(crate) fn longest(&self) -> usize {
        self.setup.lengths.last().copied().unwrap_or(0)
    }
}

/// One model's weights, with the largest of them as it is drawn and as the check reads it; and the tokens that are there at
/// once: x and its norm, the two halves before a GLU or q, k and v, what was mixed, and those of a feed-forward layer. With
/// the copy that is looked at.
fn bytes_needed(setting: &Setting, longest: usize, parameters: usize) -> u128 {
    let [channels, ffn, batch, longest, parameters] =
        [setting.shape.channels, setting.shape.ffn, setting.batch, longest, parameters].map(|n| n as u128);
    let size = setting.dtype.size() as u128;
    let drawn = size_of::<f32>() as u128;
    let largest = channels * longest.max(ffn).max(7 * channels);
    let tokens = batch * longest;
    parameters * size
        + largest * (drawn + size_of::<f64>() as u128)
        + tokens * (8 * channels + ffn) * size
        + tokens * channels * drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Size;
    use crate::setup::tests::args;

    fn plan(given: &[&str]) -> Result<Plan, String> {
        Plan::new(&args(&[&["--model"], given].concat())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_size_is_small_unless_another_is_asked_for() {
        let size = |given: &[&str]| plan(given).unwrap().setting.size;
        assert_eq!(size(&[]), Size::Small);
        assert_eq!(size(&["--size", "base"]), Size::Base);
        let quick = plan(&["--quick"]).unwrap();
        assert_eq!((&quick.setup.lengths[..], quick.longest()), (&QUICK_LENGTHS[..], 1024));
    }

    #[test]
    fn what_cannot_run_is_one_clear_line() {
        let error = |args: &[&str]| plan(args).err().unwrap();
        assert!(error(&["--batch", "1000000000"]).starts_with("tensors would take "));
        let past = error(&["--lengths", "1048577"]);
        assert!(past.contains("max_positions") && past.contains("1048577"), "{past}");
    }

    #[test]
    fn weights_count() {
        let setting = Setting {
            size: Size::Tiny,
            shape: Shape::of(Size::Tiny),
            batch: 1,
            dtype: lightspan::DType::BF16,
        };
        assert_eq!(bytes_needed(&setting, 64, 1000) - bytes_needed(&setting, 64, 0), 2000);
    }
}
