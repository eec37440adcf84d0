//! The library in the place of NVIDIA's driver that runs kernels on the emulator: `crates/emulated-driver`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{SKIP, command, example, ptx, run};

/// Tests what asks a driver, and the example of memory of one's own, over the emulated one. Only Linux finds it in this way.
pub(crate) fn test(root: &Path) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        eprintln!("\n== SKIPPED: the calls of the CUDA driver are tested on Linux only");
        return Ok(());
    }
    run(&mut command(["build", "--profile", "test", "--package", "emulated-driver"]))?;
    let target = ptx::target(root);
    let folder = target.join("emulated-driver");
    fs::create_dir_all(&folder).map_err(|error| ptx::cannot("make", &folder, error))?;
    let (built, library) = (target.join("debug/libemulated_driver.so"), folder.join("libcuda.so"));
    fs::copy(&built, &library).map_err(|error| ptx::cannot("copy", &built, error))?;

    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let path = env::join_paths([folder].into_iter().chain(env::split_paths(&path)));
    let path = path.map_err(|error| format!("cannot search the emulated driver's folder: {error}"))?;
    let over = |command: &mut Command| run(command.env("LD_LIBRARY_PATH", &path));
    // These make emulated devices of their own, and have nothing to do with a driver.
    let emulated =
        ["cuda::traffic", "cuda::emulator", "cuda::dynamic_conv"].into_iter().flat_map(|of| ["--skip", of]);
    let tests = ["cuda::", "threads::"].into_iter().chain(emulated);
    let mut suite = command(["test", "--all-features", "--test", "suite", "--"].into_iter().chain(tests));
    over(suite.env("LIGHTSPAN_REQUIRE", "cuda").env(SKIP, "wgpu"))?;
    over(&mut example("11_cuda_own_buffers", &[]))
}
