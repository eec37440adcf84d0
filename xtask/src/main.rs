//! The project's own commands: `cargo xtask ...`.

mod bundle;
mod candle;
mod driver;
mod ptx;
mod vulkan;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use vulkan::Adapter;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--skip wgpu]    set up what the tests need, and run all of them (or all but those of wgpu)
  check                 what must hold besides the tests: format, lints with every set of features, documentation
  ptx [--check]         compile the CUDA kernels into kernels/ptx (or compare with what is there, and assemble it)
  bundle [--out DIR]    make a folder that tests and measures the crate on a machine with an NVIDIA GPU and without Rust
                        (by default target/bundle; .ci/run leaves it out, as it takes a whole build of its own)
";

/// The features of the crate, each of which must build alone.
const FEATURES: [&str; 4] = ["models", "wgpu", "cuda", "emulator"];

/// One profile for all that is run, so that nothing is built twice.
const PROFILE: [&str; 3] = ["--profile", "test", "--all-features"];

/// Says to the tests what they are to do without.
const SKIP: &str = "LIGHTSPAN_SKIP";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["test"] => test_all(),
        ["test", "--skip", "wgpu"] => test_without_wgpu(),
        ["check"] => check(),
        ["ptx"] => ptx::write(&root()),
        ["ptx", "--check"] => ptx::check(&root()),
        ["bundle"] => bundle::write(&root(), &ptx::target(&root()).join("bundle")),
        ["bundle", "--out", folder] => bundle::write(&root(), Path::new(folder)),
        // Not for people: candle's build calls it.
        ["kernel", source, folder] => candle::kernel(&root(), Path::new(source), Path::new(folder)),
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

fn test_all() -> Result<(), String> {
    let adapter = vulkan::adapter(devices)?;
    eprintln!(
        "== wgpu is tested on {}{}",
        adapter.name,
        if adapter.real { "" } else { ", which is software" }
    );
    test(Some(&adapter))
}

fn test_without_wgpu() -> Result<(), String> {
    let result = test(None);
    eprintln!(
        "\n== SKIPPED, as --skip wgpu asks: no operator ran on wgpu. Not tested there are the suite, the fixtures,\n\
         == the race, the benchmarks and the examples of wgpu; `cargo xtask test` tests them too."
    );
    result
}

/// Unit, property and integration tests, doctests, the examples' own tests, the course of examples, the fixtures and
/// the race; of wgpu on `adapter`, or nothing of wgpu.
fn test(adapter: Option<&Adapter>) -> Result<(), String> {
    // The tests look for a GPU, and else for Mesa's software; any other software has to be named to them.
    let variable = match adapter {
        None => Some((SKIP, "wgpu")),
        Some(Adapter { name, real: false }) if !name.contains("llvmpipe") => {
            Some(("WGPU_ADAPTER_NAME", &**name))
        }
        Some(_) => None,
    };
    let tests = |args: &[&str]| run(command(["test", "--all-features"].iter().chain(args)).envs(variable));
    tests(&candle::OTHERS)?;
    candle::test()?;
    // The CPU's kernels choose their instruction set at run time: what this machine would not choose runs as well.
    for simd in ["avx2", "scalar"] {
        // Those of one room make devices of their own, and none of these is the CPU.
        let others = ["--", "--skip", "cuda::", "--skip", "wgpu::"];
        let mut command = command(["test", "--all-features", "--test", "suite"].iter().chain(&others));
        run(command.env("LIGHTSPAN_SIMD", simd).env(SKIP, "wgpu,cuda,cuda-emulated"))?;
    }
    tests(&[&candle::OTHERS[..], &["--examples"]].concat())?;
    // Each benchmark once, against what it is compared with.
    tests(&["--benches"])?;
    for name in course()? {
        if adapter.is_some() || !name.contains("wgpu") {
            run(example(&name, &[]).envs(variable))?;
        }
    }
    conformance(&["--backend", "reference", "--backend", "cpu"])?;
    // The kernels for NVIDIA GPUs, wherever there is none, and the calls of their driver.
    conformance(&["--backend", "cuda-emulated"])?;
    run(&mut example("cuda_counts", &["--time", "300", "--channels", "64", "--widths", "3,31"]))?;
    driver::test(&root())?;
    race(&["--backend", "cpu"])?;
    let models = ["--model", "--size", "tiny"];
    race(&[&["--backend", "cpu"][..], &models].concat())?;
    texts(&["--backend", "cpu"])?;
    if let Some(adapter) = adapter {
        conformance(&adapter.flags())?;
        race(&adapter.flags())?;
        race(&[&adapter.flags()[..], &models].concat())?;
        texts(&adapter.flags())?;
        // One group: its operator, in all types, and the copy.
        let mut command =
            command(["test", "--all-features", "--bench", "operators", "--", "light_conv_by_width"]);
        run(command.env("LIGHTSPAN_BENCH_DEVICE", adapter.bench_device()))?;
    }
    Ok(())
}

/// What the example `devices` lists.
fn devices() -> Result<String, String> {
    let devices =
        output(&mut command(["run", "--quiet"].iter().chain(&PROFILE).chain(&["--example", "devices"])))?;
    eprint!("{devices}");
    Ok(devices)
}

fn example(name: &str, args: &[&str]) -> Command {
    let run = ["run", "--quiet"].iter().chain(&PROFILE);
    command(run.chain(&["--example", name, "--"]).chain(args))
}

fn conformance(flags: &[&str]) -> Result<(), String> {
    run(&mut example("conformance", &[flags, &["tests/fixtures"]].concat()))
}

/// A short race, which has to leave a picture.
fn race(flags: &[&str]) -> Result<(), String> {
    let picture = env::temp_dir().join(format!("lightspan-race-{}.svg", std::process::id()));
    let path = picture.to_str().ok_or("the folder for temporary files has a name that is no text")?;
    let raced =
        run(&mut example("race", &[flags, &["--lengths", "64,100", "--quick", "--out", path]].concat()));
    let drawn = fs::read_to_string(&picture).is_ok_and(|svg| svg.starts_with("<svg"));
    let _ = fs::remove_file(&picture);
    raced?;
    if drawn { Ok(()) } else { Err("the race drew no picture".to_owned()) }
}

/// The examples of text in and text out, on the tiny models.
fn texts(flags: &[&str]) -> Result<(), String> {
    let fill_mask = ["tests/fixtures/convbert_tiny", "w5 [MASK] w7 [MASK]", "[MASK]"];
    run(&mut example("fill_mask", &[flags, &fill_mask].concat()))?;
    let translate = ["--limit", "9", "--scores", "tests/fixtures/seq2seq_light_tiny", "w4 w5@@ w6", "w7"];
    run(&mut example("translate", &[flags, &translate].concat()))
}

/// Format, lints and documentation, warnings denied.
fn check() -> Result<(), String> {
    cargo(["fmt", "--all", "--check"])?;
    let mut sets = vec![vec!["--no-default-features"], vec!["--all-features"]];
    sets.extend(FEATURES.map(|feature| vec!["--no-default-features", "--features", feature]));
    for set in sets {
        let clippy = ["clippy", "--all-targets"].into_iter().chain(candle::OTHERS);
        cargo(clippy.chain(set).chain(["--", "--deny", "warnings"]))?;
    }
    candle::check(&ptx::target(&root()))?;
    let doc = ["doc", "--no-deps", "--all-features"].into_iter().chain(candle::OTHERS);
    run(command(doc).env("RUSTDOCFLAGS", "--deny warnings"))
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
    let line = line(command);
    eprintln!("\n== {line}");
    let begin = Instant::now();
    let status = command.status().map_err(|error| format!("cannot run {line}: {error}"))?;
    eprintln!("== {:.0} s", begin.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

/// What a command prints, but for its errors, which are shown.
fn output(command: &mut Command) -> Result<String, String> {
    let line = line(command);
    eprintln!("\n== {line}");
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot run {line}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{line}: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{line} prints what is no text"))
}

/// A command as it would be typed, with the variables that are set for it.
fn line(command: &Command) -> String {
    let quoted = |word: &OsStr| match word.to_string_lossy() {
        word if word.contains(char::is_whitespace) => format!("'{word}'"),
        word => word.into_owned(),
    };
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = variables.chain([quoted(program)]).chain(command.get_args().map(quoted));
    words.collect::<Vec<_>>().join(" ")
}

/// Lets a file be run.
#[cfg(unix)]
fn executable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| ptx::cannot("make executable", path, error))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> Result<(), String> {
    Ok(())
}

/// The root of the workspace.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
