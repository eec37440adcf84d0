//! The crate `lightspan-candle`, which is built and tested by itself: with the feature of its CUDA devices, candle wants a
//! toolkit.

use std::fs;
use std::path::Path;

use crate::ptx::cannot;
use crate::{cargo, command, run};

pub(crate) const PACKAGE: &str = "lightspan-candle";

/// Stands in for NVIDIA's compiler where Rust is checked and nothing is linked: candle's build makes its kernels with it, of
/// which no type depends on what is in them. It makes the files that it is asked for, all of them empty.
const STAND_IN: &str = r#"#!/bin/sh
out= folder= source=
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift ;;
        --output-directory) folder=$2; shift ;;
        *.cu) source=$1 ;;
    esac
    shift
done
[ -z "$out" ] || : > "$out"
[ -z "$folder" ] || : > "$folder/$(basename "$source" .cu).ptx"
"#;

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
    let nvcc = stand_in(&target.join("nvcc-stand-in"))?;
    let mut cuda = command(clippy.into_iter().chain(["--features", "cuda"]).chain(deny));
    // Without a toolkit neither its version nor the GPU's architecture can be found out.
    let variables = [("CUDARC_CUDA_VERSION", "12080"), ("CUDA_COMPUTE_CAP", "80")];
    run(cuda.envs(variables).env("NVCC", nvcc))
}

/// Writes the stand-in, and says where it is.
fn stand_in(folder: &Path) -> Result<std::path::PathBuf, String> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).map_err(|error| cannot("create", &bin, error))?;
    let path = bin.join("nvcc");
    fs::write(&path, STAND_IN).map_err(|error| cannot("write", &path, error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(|error| cannot("make executable", &path, error))?;
    }
    Ok(path)
}
