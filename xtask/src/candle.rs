//! The crate `lightspan-candle`, which is built and tested by itself: with the feature of its CUDA devices, candle wants a
//! toolkit.

mod toolkit;

use std::path::Path;

pub(crate) use toolkit::kernel;

use crate::{cargo, command, output, run};

pub(crate) const PACKAGE: &str = "lightspan-candle";

/// Its tests, each benchmark once, and the example.
pub(crate) fn test() -> Result<(), String> {
    cargo(["test", "--package", PACKAGE])?;
    cargo(["test", "--package", PACKAGE, "--benches"])?;
    cargo(["run", "--quiet", "--profile", "test", "--package", PACKAGE, "--example", "01_train"])
}

/// Lints, without and with CUDA devices; documentation is checked with that of the workspace.
pub(crate) fn check(target: &Path) -> Result<(), String> {
    let clippy = ["clippy", "--package", PACKAGE, "--all-targets"];
    let deny = ["--", "--deny", "warnings"];
    cargo(clippy.into_iter().chain(deny))?;
    if cfg!(not(unix)) {
        eprintln!("== SKIPPED: {PACKAGE} with the feature cuda, which is checked where there is a shell");
        return Ok(());
    }
    let mut cuda = command(clippy.into_iter().chain(["--features", "cuda"]).chain(deny));
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
