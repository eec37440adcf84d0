use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use candle_core::Tensor;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Deserializer, Serialize};

use crate::options::Common;
use crate::training::checkpoint;
use crate::training::{Adam, Plan, Variables};

/// Gradients of a larger norm are scaled down to it.
const CLIP: f64 = 1.0;

/// Bytes of a run's stack: candle goes through a graph by recursion, and that of a recurrent network is long.
const STACK: usize = 64 << 20;

/// What a run was like at one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps that were done.
    pub step: usize,
    /// The mean of the losses of training since the point before; NaN where one was no number.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// What the run is judged by; NaN where it diverged.
    #[serde(deserialize_with = "number")]
    pub score: f64,
}

/// JSON has no NaN: it is written as null.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A run from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve(pub Vec<Point>);

impl Curve {
    /// The score at the end; NaN where the run diverged.
    pub fn score(&self) -> f64 {
        self.0.last().map_or(f64::NAN, |point| point.score)
    }

    /// The losses at the first point and the last.
    pub fn losses(&self) -> Option<(f64, f64)> {
        Some((self.0.first()?.loss, self.0.last()?.loss))
    }
}

/// The folder in which an experiment keeps its checkpoints and leaves its results, and what it shows on the screen meanwhile.
pub struct Record {
    folder: PathBuf,
    bars: MultiProgress,
    /// Runs at a time.
    jobs: usize,
    /// How many runs there are in all.
    runs: usize,
    begun: AtomicUsize,
    /// Steps that may still be done.
    left: Option<AtomicUsize>,
}

/// The error of a run that was to stop.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped and saved: the same command without --stop-after goes on")
    }
}

impl std::error::Error for Stopped {}

/// Removes checkpoints and what is left of half written ones, and nothing else.
fn forget(checkpoints: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(checkpoints)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "safetensors" || end == "part") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl Record {
    /// Of an experiment of so many runs, in the folder of its program, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// For a folder that cannot be made or emptied.
    pub fn open(program: &str, common: &Common, runs: usize) -> Result<Self> {
        let folder = common.folder(program);
        let checkpoints = folder.join("checkpoints");
        if common.fresh && checkpoints.exists() {
            forget(&checkpoints).with_context(|| format!("could not empty {}", checkpoints.display()))?;
        }
        fs::create_dir_all(&checkpoints)
            .with_context(|| format!("could not make {}", checkpoints.display()))?;
        let left = common.stop_after.map(AtomicUsize::new);
        let (bars, jobs) = (MultiProgress::new(), common.jobs());
        Ok(Record { folder, bars, jobs, runs, begun: AtomicUsize::new(0), left })
    }

    /// Does something for each of some items, for several at a time: what they come to, in their order. Each has one thread, so that
    /// how many are done at a time changes nothing.
    ///
    /// # Errors
    ///
    /// The first that comes up; what goes on beside it is finished first.
    pub fn each<T: Sync, R: Send>(
        &self,
        items: &[T],
        run: impl Fn(&T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || -> Result<Vec<(usize, R)>> {
            let pool = ThreadPoolBuilder::new().num_threads(1).stack_size(STACK).build()?;
            let mut found = Vec::new();
            while !failed.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(i) else { break };
                match pool.install(|| run(item)) {
                    Ok(result) => found.push((i, result)),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(found)
        };
        let found = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.min(items.len())).map(|_| scope.spawn(work)).collect();
            // A worker that panics has said so: so does this.
            let join = |worker: thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|cause| resume_unwind(cause))
            };
            workers.into_iter().map(join).collect::<Vec<Result<_>>>()
        });
        let found: Vec<Vec<(usize, R)>> = found.into_iter().collect::<Result<_>>()?;
        let mut found: Vec<(usize, R)> = found.into_iter().flatten().collect();
        found.sort_unstable_by_key(|(i, _)| *i);
        Ok(found.into_iter().map(|(_, result)| result).collect())
    }

    /// Whether one step more may be done.
    fn may_go_on(&self) -> bool {
        self.left.as_ref().is_none_or(|left| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        })
    }

    fn bar(&self, plan: &Plan) -> ProgressBar {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let style = "{prefix} {wide_bar} {pos}/{len} steps, {eta} left; {msg}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(plan.steps as u64).with_style(style);
        self.bars.add(bar.with_prefix(format!("{begun}/{} {}", self.runs, plan.name)))
    }

    /// The file of a run.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.folder.join("checkpoints").join(format!("{name}.safetensors"))
    }

    /// Trains what a model has that is not frozen, from its checkpoint if there is one: `loss` of a step, counted from zero, and a
    /// `score` at each point of the curve. The model is to be built: its variables are to be there.
    ///
    /// A loss that is no number ends the run, whose score is NaN: that is a result, if a poor one.
    ///
    /// # Errors
    ///
    /// For a checkpoint that is none of this plan, for what candle finds, and [`Stopped`].
    pub fn train(
        &self,
        plan: &Plan,
        variables: &Variables,
        mut loss: impl FnMut(usize) -> candle_core::Result<Tensor>,
        mut score: impl FnMut() -> candle_core::Result<f64>,
    ) -> Result<Curve> {
        let path = self.checkpoint(&plan.name);
        let mut adam = Adam::new(variables.trained())?;
        let mut progress = checkpoint::load(&path, plan, variables, &mut adam)?.unwrap_or_default();
        let bar = self.bar(plan);
        bar.set_position(progress.steps as u64);
        bar.reset_eta();
        while progress.steps < plan.steps && !progress.diverged {
            if !self.may_go_on() {
                checkpoint::save(&path, plan, &progress, variables, &adam)?;
                return Err(Stopped.into());
            }
            let found = loss(progress.steps)?;
            let number = f64::from(found.to_scalar::<f32>()?);
            progress.diverged = !number.is_finite();
            if !progress.diverged {
                adam.step(&found.backward()?, plan.rate_at(progress.steps), CLIP)?;
                progress.since = (progress.since.0 + number, progress.since.1 + 1);
            }
            progress.steps += 1;
            bar.set_position(progress.steps as u64);
            if progress.steps.is_multiple_of(plan.every) || progress.steps == plan.steps || progress.diverged
            {
                let (sum, count) = std::mem::take(&mut progress.since);
                let (loss, score) =
                    if progress.diverged { (f64::NAN, f64::NAN) } else { (sum / count as f64, score()?) };
                bar.set_message(format!("loss {loss:.3}, score {score:.3}"));
                progress.curve.0.push(Point { step: progress.steps, loss, score });
                checkpoint::save(&path, plan, &progress, variables, &adam)?;
            }
        }
        bar.finish_and_clear();
        Ok(progress.curve)
    }

    /// Shows a result, where the bars were.
    pub fn say(&self, text: &str) {
        self.bars.suspend(|| println!("{text}"));
    }

    /// Leaves a result in the folder; where it is.
    ///
    /// # Errors
    ///
    /// For a file that cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }
}
