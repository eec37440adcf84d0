use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::training::{Adam, Curve, Plan, Variables};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Steps that are done.
    pub steps: usize,
    /// The points until now.
    pub curve: Curve,
    /// The sum of the losses since the last point, and how many they are.
    pub since: (f64, usize),
    /// Whether a loss was no number, which ended the run.
    pub diverged: bool,
}

/// The key of the file's metadata under which the plan and the progress stand: with one key alone, equal checkpoints are equal files.
const KEY: &str = "run";

#[derive(Serialize)]
struct Written<'a> {
    plan: &'a Plan,
    progress: &'a Progress,
}

#[derive(Deserialize)]
struct Read {
    plan: serde_json::Value,
    progress: Progress,
}

/// Writes what the run has changed, whole or not at all.
pub(crate) fn save(
    path: &Path,
    plan: &Plan,
    progress: &Progress,
    variables: &Variables,
    adam: &Adam,
) -> Result<()> {
    let of_model = variables
        .trained()
        .into_iter()
        .map(|(name, var)| (format!("model.{name}"), var.as_detached_tensor()));
    let tensors: BTreeMap<String, Tensor> = of_model.chain(adam.state()).collect();
    let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&Written { plan, progress })?)]);
    let bytes = serialize(tensors, Some(metadata))?;
    let beside = path.with_extension("part");
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.with_context(|| format!("could not write {}", path.display()))
}

/// Sets variables and their optimiser to what was saved, if anything was.
///
/// # Errors
///
/// For what cannot be read, and for a run of another plan.
pub(crate) fn load(
    path: &Path,
    plan: &Plan,
    variables: &Variables,
    adam: &mut Adam,
) -> Result<Option<Progress>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("could not read {}", path.display()))?,
    };
    let progress = set(&bytes, plan, variables, adam)
        .with_context(|| format!("{} is no checkpoint of this run", path.display()))?;
    Ok(Some(progress))
}

fn set(bytes: &[u8], plan: &Plan, variables: &Variables, adam: &mut Adam) -> Result<Progress> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let run = header.metadata().as_ref().and_then(|entries| entries.get(KEY));
    let read: Read = serde_json::from_str(run.context("it says nothing of a run")?)?;
    let expected = serde_json::to_value(plan)?;
    if read.plan != expected {
        bail!(
            "it has the plan {}, and this run {expected}: --fresh begins anew, --out keeps both",
            read.plan
        );
    }
    let mut saved: BTreeMap<String, Tensor> =
        candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?.into_iter().collect();
    // Everything is found and fits before anything is set.
    let mut values = Vec::new();
    for (name, var) in variables.trained() {
        let value = saved.remove(&format!("model.{name}")).with_context(|| format!("it lacks {name}"))?;
        if value.shape() != var.shape() || value.dtype() != var.dtype() {
            let (found, expected) = (value.shape(), var.shape());
            bail!("{name} is {:?} {found:?} in it, and {:?} {expected:?} here", value.dtype(), var.dtype());
        }
        values.push((var, value.to_device(variables.device())?));
    }
    let moments = saved.into_iter().map(|(name, value)| Ok((name, value.to_device(variables.device())?)));
    adam.resume(read.progress.steps, moments.collect::<Result<_>>()?)
        .context("it lacks means of gradients")?;
    for (var, value) in values {
        var.set(&value)?;
    }
    Ok(read.progress)
}
