//! The project's own commands: `cargo xtask ...`.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test    set up what the tests need, and run all of them
  check   what must hold besides the tests: format, lints with every set of features, documentation
";

/// The features of the crate, each of which must build alone.
const FEATURES: [&str; 2] = ["wgpu", "cuda"];

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let result = match (args.next().as_deref(), args.next()) {
        (Some("test"), None) => test(),
        (Some("check"), None) => check(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Unit, property and integration tests, doctests, the examples' own tests, the course of examples, the fixtures and
/// the race.
fn test() -> Result<(), String> {
    // One profile for all of it, so that nothing is built twice.
    let profile = ["--profile", "test", "--all-features"];
    cargo(["test", "--workspace", "--all-features"])?;
    // The CPU's kernels choose their instruction set at run time: what this machine would not choose runs as well.
    for simd in ["avx2", "scalar"] {
        run(command(["test", "--all-features", "--test", "suite"]).env("LIGHTSPAN_SIMD", simd))?;
    }
    cargo(["test", "--workspace", "--all-features", "--examples"])?;
    // Each benchmark once, against what it is compared with.
    cargo(["test", "--all-features", "--benches"])?;
    for example in course()? {
        cargo(["run", "--quiet"].iter().chain(&profile).chain(&["--example", &example]))?;
    }
    let conformance = ["--example", "conformance", "--", "tests/fixtures"];
    cargo(["run", "--quiet"].iter().chain(&profile).chain(&conformance))?;
    let picture = env::temp_dir().join(format!("lightspan-race-{}.svg", std::process::id()));
    let race = ["--example", "race", "--", "--lengths", "64,100", "--quick", "--out"].map(OsStr::new);
    let run = ["run", "--quiet"].iter().chain(&profile).map(OsStr::new);
    let raced = cargo(run.chain(race).chain([picture.as_os_str()]));
    let drawn = fs::read_to_string(&picture).is_ok_and(|svg| svg.starts_with("<svg"));
    let _ = fs::remove_file(&picture);
    raced?;
    if drawn { Ok(()) } else { Err("the race drew no picture".to_owned()) }
}

/// Format, lints and documentation, warnings denied.
fn check() -> Result<(), String> {
    cargo(["fmt", "--all", "--check"])?;
    let mut sets = vec![vec!["--no-default-features"], vec!["--all-features"]];
    sets.extend(FEATURES.map(|feature| vec!["--no-default-features", "--features", feature]));
    for set in sets {
        let clippy = ["clippy", "--workspace", "--all-targets"];
        cargo(clippy.into_iter().chain(set).chain(["--", "--deny", "warnings"]))?;
    }
    run(command(["doc", "--workspace", "--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "--deny warnings"))
}

/// The numbered examples, in their order.
fn course() -> Result<Vec<String>, String> {
    let folder = root().join("examples");
    let entries =
        fs::read_dir(&folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned()))
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("no numbered example in {}", folder.display()));
    }
    Ok(names)
}

fn cargo(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<(), String> {
    run(&mut command(args))
}

fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs a command, says how long it took, and fails if it did.
fn run(command: &mut Command) -> Result<(), String> {
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let line = format!("cargo {}", args.join(" "));
    eprintln!("\n== {line}");
    let begin = Instant::now();
    let status = command.status().map_err(|error| format!("cannot run {line}: {error}"))?;
    eprintln!("== {:.0} s", begin.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

/// The root of the workspace.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
