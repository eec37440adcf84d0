//! Where a model runs, and how it gets there.

use std::num::NonZeroUsize;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use lightspan::models::{LoadOptions, LoadProgress, Weights};
use lightspan::{Backend, DType, Device};

use super::{Result, device};

/// What both command lines have.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to run: cpu, wgpu, cuda or cuda-emulated [default: the fastest there is]
    #[arg(long)]
    pub(crate) backend: Option<Backend>,

    /// Run on wgpu, on the first adapter whose name contains this; a software adapter is used only so
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,

    /// What parameters are held in, whatever the file has: f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: DType,

    /// The most texts that go through the model at once
    #[arg(long, default_value = "16", value_name = "TEXTS")]
    pub(crate) batch: NonZeroUsize,

    /// Pass over weights that the model has no place for, as those of another head
    #[arg(long)]
    pub(crate) allow_surplus: bool,
}

impl Options {
    /// The device that was asked for.
    pub(crate) fn device(&self) -> Result<Device> {
        Ok(device::open(self.backend, self.adapter.as_deref())?)
    }

    /// A model of the weights in `folder`, with a bar of the bytes read on stderr, hidden where that is no terminal.
    pub(crate) fn load<M>(
        &self,
        folder: &Path,
        device: &Device,
        model: impl FnOnce(&Weights<'_>) -> lightspan::Result<M>,
    ) -> Result<M> {
        let bar = bar();
        let progress = |loaded: LoadProgress<'_>| show(&bar, loaded);
        let options = LoadOptions {
            dtype: Some(self.dtype),
            allow_surplus: self.allow_surplus,
            progress: Some(&progress),
        };
        let weights = Weights::open(folder.join("model.safetensors"), device, options)?;
        let model = model(&weights);
        bar.finish_and_clear();
        Ok(model?)
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, loaded: LoadProgress<'_>) {
    bar.set_length(loaded.total);
    bar.set_position(loaded.bytes);
    bar.set_message(loaded.name.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_bytes_and_names() {
        let bar = bar();
        show(&bar, LoadProgress { name: "a.weight", shape: &[2, 3], bytes: 24, total: 96 });
        assert_eq!((bar.position(), bar.length(), bar.message().as_str()), (24, Some(96), "a.weight"));
        show(&bar, LoadProgress { name: "b", shape: &[18], bytes: 96, total: 96 });
        assert_eq!((bar.position(), bar.length(), bar.message().as_str()), (96, Some(96), "b"));
    }

    #[test]
    fn what_is_wrong_with_weights_is_told() {
        let batch = NonZeroUsize::MIN;
        let options =
            Options { backend: None, adapter: None, dtype: DType::F32, batch, allow_surplus: false };
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/convbert_tiny"));
        let error = |folder: &Path, name: &str, shape: &[usize]| {
            let get = |weights: &Weights<'_>| weights.get(name, shape).map(drop);
            options.load(folder, &Device::cpu(), get).unwrap_err().to_string()
        };
        assert_eq!(error(folder, "no.weight", &[7]), "the weights have no no.weight of shape [7]");
        assert_eq!(
            error(folder, "generator_lm_head.bias", &[7]),
            "generator_lm_head.bias must have shape [7], got [120]"
        );
        let missing = Path::new("no such folder");
        assert!(error(missing, "a", &[1]).starts_with("no such folder"), "the path is named");
    }
}
