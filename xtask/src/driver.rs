//! The libraries in the place of NVIDIA's: the driver that runs kernels on the emulator (`crates/emulated-driver`), and
//! cuBLASLt over it (`crates/emulated-cublaslt`).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{SKIP, command, example, ptx, run};

/// Tests what asks a driver, and the example of memory of one's own, over the emulated one; and products over the emulated
/// cuBLASLt besides. Only Linux finds them in this way.
pub(crate) fn test(root: &Path) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        eprintln!("\n== SKIPPED: the calls of the CUDA driver are tested on Linux only");
        return Ok(());
    }
    let packages = ["--package", "emulated-driver", "--package", "emulated-cublaslt"];
    run(&mut command(["build", "--profile", "test"].into_iter().chain(packages)))?;
    let target = ptx::target(root);
    let driver = place(&target, "emulated-driver", "libemulated_driver.so", "libcuda.so")?;
    let cublaslt = place(&target, "emulated-cublaslt", "libemulated_cublaslt.so", "libcublasLt.so")?;

    // A driver alone is enough.
    let path = search([driver.clone()])?;
    let over = |command: &mut Command| run(command.env("LD_LIBRARY_PATH", &path));
    // These make emulated devices of their own, and have nothing to do with a driver.
    let emulated =
        ["cuda::traffic", "cuda::emulator", "cuda::dynamic_conv"].into_iter().flat_map(|of| ["--skip", of]);
    let tests = ["cuda::", "threads::"].into_iter().chain(emulated);
    over(suite(tests).env("LIGHTSPAN_REQUIRE", "cuda"))?;
    over(&mut example("11_cuda_own_buffers", &[]))?;

    let path = search([driver, cublaslt])?;
    let mut products = suite(["cuda::cublaslt", "cuda::own_buffers::linear", "cuda::streams", "linear::"]);
    run(products.env("LD_LIBRARY_PATH", &path).env("LIGHTSPAN_REQUIRE", "cuda,cublaslt"))
}

/// Some tests of the suite.
fn suite<'a>(tests: impl IntoIterator<Item = &'a str>) -> Command {
    let mut suite = command(["test", "--all-features", "--test", "suite", "--"].into_iter().chain(tests));
    suite.env(SKIP, "wgpu");
    suite
}

/// The folder that a library is in by the name that it stands in for, and nothing else.
fn place(target: &Path, folder: &str, built: &str, name: &str) -> Result<PathBuf, String> {
    let (built, folder) = (target.join("debug").join(built), target.join(folder));
    fs::create_dir_all(&folder).map_err(|error| ptx::cannot("make", &folder, error))?;
    fs::copy(&built, folder.join(name)).map_err(|error| ptx::cannot("copy", &built, error))?;
    Ok(folder)
}

/// The places where libraries are looked for, these first.
fn search(first: impl IntoIterator<Item = PathBuf>) -> Result<OsString, String> {
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let path = env::join_paths(first.into_iter().chain(env::split_paths(&path)));
    path.map_err(|error| format!("cannot search the folders of the emulated libraries: {error}"))
}
