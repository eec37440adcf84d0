//! How long a call takes.

use std::time::{Duration, Instant};

use lightspan::{Device, Result};

/// Runs of a measurement, unless one is slower than the budget.
const RUNS: usize = 5;
/// Calls shorter than this are timed several at once, so that the clock and the wait for a device do not count.
const GRAIN: Duration = Duration::from_millis(1);
/// The most calls timed at once.
const MOST_CALLS: f64 = 1000.0;

pub(crate) struct Timer {
    budget: Duration,
    device: Device,
}

impl Timer {
    pub(crate) fn new(device: &Device, budget: Duration) -> Self {
        Timer { budget, device: device.clone() }
    }

    /// Seconds a call, run after run, after one call to warm up.
    pub(crate) fn time(&self, mut call: impl FnMut() -> Result<()>) -> Result<Timing> {
        self.run(1, &mut call)?;
        let first = self.run(1, &mut call)?;
        if first >= self.budget.as_secs_f64() {
            return Ok(Timing { sorted: vec![first] });
        }
        let calls = (GRAIN.as_secs_f64() / first).ceil().clamp(1.0, MOST_CALLS) as u32;
        let mut runs = Vec::new();
        let begin = Instant::now();
        while runs.len() < RUNS || begin.elapsed() < self.budget {
            runs.push(self.run(calls, &mut call)?);
        }
        runs.sort_by(f64::total_cmp);
        Ok(Timing { sorted: runs })
    }

    /// Seconds of something that keeps its own time, run after run, after one to warm up.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn sample(&self, mut measure: impl FnMut() -> Result<Duration>) -> Result<Timing> {
        measure()?;
        let mut runs = Vec::new();
        let begin = Instant::now();
        while runs.len() < RUNS || begin.elapsed() < self.budget {
            runs.push(measure()?.as_secs_f64());
        }
        runs.sort_by(f64::total_cmp);
        Ok(Timing { sorted: runs })
    }

    fn run(&self, calls: u32, call: &mut impl FnMut() -> Result<()>) -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        self.device.synchronize()?;
        Ok(begin.elapsed().as_secs_f64() / f64::from(calls))
    }
}

pub(crate) struct Timing {
    /// Never empty.
    sorted: Vec<f64>,
}

impl Timing {
    pub(crate) fn best(&self) -> f64 {
        self.sorted[0]
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.sorted.len() / 2;
        if self.sorted.len().is_multiple_of(2) {
            (self.sorted[middle - 1] + self.sorted[middle]) / 2.0
        } else {
            self.sorted[middle]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Timing { sorted: vec![3.0] }.median(), 3.0);
        assert_eq!(Timing { sorted: vec![1.0, 3.0] }.median(), 2.0);
        assert_eq!(Timing { sorted: vec![1.0, 3.0, 50.0] }.median(), 3.0);
        assert_eq!(Timing { sorted: vec![1.0, 3.0, 50.0] }.best(), 1.0);
    }

    #[test]
    fn a_call_slower_than_the_budget_runs_once_after_the_warm_up() {
        let timer = Timer::new(&Device::cpu(), Duration::ZERO);
        let mut calls = 0;
        let timing = timer.time(|| {
            calls += 1;
            Ok(())
        });
        assert_eq!((calls, timing.unwrap().sorted.len()), (2, 1));
    }
}
