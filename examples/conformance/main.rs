//! Is this machine right? Runs conformance fixtures, numbers that other implementations of the same operators computed,
//! on every backend of the machine:
//!
//! ```text
//! cargo run --release --all-features --example conformance -- tests/fixtures
//! ```
//!
//! `tests/fixtures/README.md` describes the fixtures. One line for each case, backend and type says how far off its
//! outputs were and what was allowed, at the element nearest to its bound (or furthest past it). What a backend has no
//! kernels for in this version is skipped, and counted as that.

mod check;
mod find;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use check::{Fixture, Outcome, Place, Verdict};
use clap::{Parser, ValueEnum};
use find::Found;
use lightspan::{Backend, DType, Device, Error};

#[derive(Parser)]
#[command(about = "Runs conformance fixtures on the backends of this machine.")]
struct Args {
    /// Where to run: the f64 reference, or a backend; may be repeated. By default the reference and every backend that
    /// the machine has; the emulator, which is no device of the machine, only if it is asked for.
    #[arg(long = "backend", value_name = "BACKEND")]
    backends: Vec<Name>,
    /// Run on wgpu, on the first adapter whose name contains this; a software adapter is used only so.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Types of the tokens, for backends; may be repeated. By default all.
    #[arg(long = "dtype", value_name = "TYPE")]
    dtypes: Vec<Type>,
    /// Check gradients as well.
    #[arg(long)]
    gradients: bool,
    /// Fixture files, model folders, or folders of them at any depth.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// A backend, as it is called on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Reference,
    Cpu,
    Wgpu,
    Cuda,
    CudaEmulated,
}

/// A storage type, as it is called on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    F32,
    F16,
    Bf16,
}

impl Name {
    /// The place of this name, or why there is none on this machine.
    fn open(self, adapter: Option<&str>) -> lightspan::Result<Place> {
        let device = |backend| Device::open(backend).map(Place::Device);
        match self {
            Name::Reference => Ok(Place::Reference),
            Name::Cpu => device(Backend::Cpu),
            Name::Wgpu => adapter.map_or_else(|| Device::open(Backend::Wgpu), named).map(Place::Device),
            Name::Cuda => device(Backend::Cuda),
            Name::CudaEmulated => device(Backend::CudaEmulated),
        }
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

impl Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Type {
    const fn dtype(self) -> DType {
        match self {
            Type::F32 => DType::F32,
            Type::F16 => DType::F16,
            Type::Bf16 => DType::BF16,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    for path in &args.paths {
        if let Err(error) = path.metadata() {
            eprintln!("conformance: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    let mut report = Report { out: io::stdout().lock(), passed: 0, failed: 0, skipped: 0 };
    match run(&args, &mut report) {
        Ok(()) if report.failed == 0 && report.passed > 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: the report could not be written: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args, report: &mut Report<impl Write>) -> io::Result<()> {
    let chosen = |asked: bool, none_asked: bool| asked || none_asked;
    let dtypes: Vec<DType> = Type::value_variants()
        .iter()
        .filter(|dtype| chosen(args.dtypes.contains(dtype), args.dtypes.is_empty()))
        .map(|dtype| dtype.dtype())
        .collect();
    let mut places = vec![];
    for name in Name::value_variants() {
        let asked = args.backends.contains(name) || *name == Name::Wgpu && args.adapter.is_some();
        let by_default = *name != Name::CudaEmulated;
        if chosen(asked, by_default && args.backends.is_empty() && args.adapter.is_none()) {
            match name.open(args.adapter.as_deref()) {
                Ok(place) => places.push(place),
                Err(error @ Error::Unavailable { .. }) if !asked => {
                    report.skip("(all cases)", name, error)?
                }
                Err(error) => report.fail("(all cases)", name, error)?,
            }
        }
    }
    for found in args.paths.iter().flat_map(|path| find::find(path)) {
        match found {
            Found::Fixture(path) => match Fixture::read(&path) {
                Ok(fixture) => {
                    for place in &places {
                        for outcome in check::check(&fixture, place, &dtypes, args.gradients) {
                            report.outcome(place, &outcome)?;
                        }
                    }
                }
                Err(fault) => report.fail(&Fixture::name(&path), "-", fault)?,
            },
            Found::Model(path) => {
                let case = Fixture::name(&path);
                // What they are held to are outputs in f32.
                if dtypes.contains(&DType::F32) {
                    for place in &places {
                        model(&path, &case, place, report)?;
                    }
                }
            }
            Found::Unreadable(path, error) => report.fail(&Fixture::name(&path), "-", error)?,
        }
    }
    report.finish()
}

/// A model on a device: there is none of f64.
#[cfg(feature = "models")]
fn model(path: &Path, case: &str, place: &Place, report: &mut Report<impl Write>) -> io::Result<()> {
    match place {
        Place::Reference => Ok(()),
        Place::Device(device) => report.outcome(place, &check::check_model(path, case.to_owned(), device)),
    }
}

#[cfg(not(feature = "models"))]
fn model(_: &Path, case: &str, place: &Place, report: &mut Report<impl Write>) -> io::Result<()> {
    report.skip(case, place, "this build of lightspan is without the feature \"models\"")
}

/// What is printed, and what is counted.
struct Report<W> {
    out: W,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl<W: Write> Report<W> {
    fn outcome(&mut self, place: &Place, outcome: &Outcome) -> io::Result<()> {
        let Outcome { case, types, result } = outcome;
        let (verdict, count) = match outcome.verdict() {
            Verdict::Passed => ("ok", &mut self.passed),
            Verdict::Failed => ("FAILED", &mut self.failed),
            Verdict::Skipped => ("skipped", &mut self.skipped),
        };
        *count += 1;
        match result {
            Ok(agreement) => self.line(case, place, types, verdict, agreement),
            Err(fault) => self.line(case, place, types, verdict, fault),
        }
    }

    fn fail(&mut self, case: &str, place: impl Display, why: impl Display) -> io::Result<()> {
        self.failed += 1;
        self.line(case, place, "-", "FAILED", why)
    }

    fn skip(&mut self, case: &str, place: impl Display, why: impl Display) -> io::Result<()> {
        self.skipped += 1;
        self.line(case, place, "-", "skipped", why)
    }

    fn line(
        &mut self,
        case: &str,
        place: impl Display,
        types: impl Display,
        verdict: &str,
        what: impl Display,
    ) -> io::Result<()> {
        writeln!(self.out, "{case:50} {place:13} {types:20} {verdict:7} {what}")
    }

    fn finish(&mut self) -> io::Result<()> {
        let Report { passed, failed, skipped, .. } = *self;
        writeln!(self.out, "conformance: {passed} passed, {failed} failed, {skipped} skipped")?;
        self.out.flush()
    }
}
