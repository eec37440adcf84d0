//! The crates that build candle, which are built and tested by themselves: with the feature of its CUDA devices, candle wants a
//! toolkit.

mod toolkit;

use std::path::Path;

pub(crate) use toolkit::kernel;

use crate::{cargo, command, output, run};

const PACKAGE: &str = "lightspan-candle";
const BOTH: [&str; 4] = ["--package", PACKAGE, "--package", "lightspan-experiments"];

/// All other crates.
pub(crate) const OTHERS: [&str; 5] =
    ["--workspace", "--exclude", PACKAGE, "--exclude", "lightspan-experiments"];

/// Their tests, each benchmark once, and the example.
pub(crate) fn test() -> Result<(), String> {
    // All of one build, though what runs is said by its targets.
    let tests = |targets: &[&'static str]| command(["test"].iter().chain(&BOTH).chain(targets));
    run(&mut tests(&["--lib", "--test", "suite"]))?;
    // candle's matrix products take every core: those of tests beside one another would wait for each other most of the time.
    run(tests(&["--test", "experiments"]).env("RAYON_NUM_THREADS", "1"))?;
    run(&mut tests(&["--doc"]))?;
    cargo(["test", "--package", PACKAGE, "--benches"])?;
    cargo(["run", "--quiet", "--profile", "test", "--package", PACKAGE, "--example", "01_train"])
}

/// Documentation, and lints without and with CUDA devices, warnings denied.
pub(crate) fn check(target: &Path) -> Result<(), String> {
    run(command(["doc", "--no-deps"].into_iter().chain(BOTH)).env("RUSTDOCFLAGS", "--deny warnings"))?;
    let clippy = || ["clippy", "--all-targets"].into_iter().chain(BOTH);
    let deny = ["--", "--deny", "warnings"];
    cargo(clippy().chain(deny))?;
    if cfg!(not(unix)) {
        eprintln!("== SKIPPED: {PACKAGE} with the feature cuda, which is checked where there is a shell");
        return Ok(());
    }
    let mut cuda = command(clippy().chain(["--features", "cuda"]).chain(deny));
    toolkit::check(&mut cuda, &target.join("nvcc-stand-in"))?;
    run(&mut cuda)
}

/// Builds some of its targets with CUDA devices, in that profile, for a machine with the libraries of CUDA 12 or 13; what cargo
/// says of it, a line of JSON for each.
pub(crate) fn build(root: &Path, target: &Path, profile: &str, targets: &[&str]) -> Result<String, String> {
    let package = ["build", "--package", PACKAGE, "--features", "cuda", "--profile", profile];
    let messages = ["--message-format", "json-render-diagnostics"];
    let mut build = command(package.iter().chain(&messages).chain(targets));
    toolkit::link(root, &mut build, profile, &target.join("candle-toolkit"))?;
    output(&mut build)
}
