//! What the tests of all operators share: devices, drawn cases, numbers, and the comparison.

mod case;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "wgpu")]
pub mod gpu;
mod gradients;
mod memory;
mod numbers;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod slot;

pub use case::{ConvCase, conv_case, dtypes, long_conv_case, sequences, trained_case, trained_long_case};
pub use gradients::{Expected, Selection, check_gradients, selection};
pub use memory::Memory;
pub use numbers::{Numbers, Values, assert_admitted, assert_row_admitted, overwritten, same_bits};

#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub use slot::Slot;

use std::sync::LazyLock;

use lightspan::{Backend, Device, Error, Result};
use proptest::test_runner::Config;

/// The devices that operators are tested on: all that this build and machine have.
pub fn devices() -> Vec<Device> {
    static DEVICES: LazyLock<Result<Vec<Device>, String>> = LazyLock::new(|| {
        let all = vec![Device::cpu()];
        #[cfg(feature = "wgpu")]
        let all: Vec<_> = all.into_iter().chain(wgpu()).collect();
        #[cfg(feature = "cuda")]
        let all: Vec<_> = all.into_iter().chain(cuda()).collect();
        check_required(&all).map(|()| all)
    });
    DEVICES.clone().unwrap_or_else(|missing| panic!("{missing}"))
}

/// Lists the backends that the tests may not do without, with commas between them: so nothing stands in for a GPU. `cublaslt` is
/// that library on the device of CUDA.
pub const REQUIRE: &str = "LIGHTSPAN_REQUIRE";

/// An error unless every backend that is required is among the devices.
fn check_required(devices: &[Device]) -> Result<(), String> {
    let names = std::env::var(REQUIRE).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        #[cfg(feature = "cuda")]
        if name == "cublaslt" {
            let gpu = devices.iter().find_map(|device| device.cuda_gpu()).ok_or("there is no device of CUDA");
            let there = gpu.map_err(str::to_owned).and_then(|gpu| gpu.cublaslt().map_err(|e| e.to_string()));
            there.map_err(|reason| format!("{REQUIRE} asks for tests on {name}: {reason}"))?;
            continue;
        }
        let required: Backend = name.parse().map_err(|error| format!("{REQUIRE}: {error}"))?;
        if !devices.iter().any(|device| device.backend() == required) {
            let reason = Device::open(required).map_or_else(|error| error.to_string(), |_| "skipped".into());
            return Err(format!("{REQUIRE} asks for tests on {required}: {reason}"));
        }
    }
    Ok(())
}

/// Whether the tests are to do without a backend: `LIGHTSPAN_SKIP` lists those.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn skipped(backend: Backend) -> bool {
    let name = backend.to_string();
    let skipped = std::env::var("LIGHTSPAN_SKIP").is_ok_and(|names| names.split(',').any(|n| n == name));
    if skipped {
        eprintln!("SKIPPED: nothing is tested on {name}, as LIGHTSPAN_SKIP asks");
    }
    skipped
}

/// A GPU, or else the emulator.
#[cfg(feature = "cuda")]
fn cuda() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => return (!skipped(Backend::Cuda)).then_some(device),
        Err(Error::Unavailable { reason, .. }) => {
            eprintln!("SKIPPED: nothing is tested on a GPU by CUDA: {reason}");
        }
        Err(error) => panic!("{error}"),
    }
    #[cfg(feature = "emulator")]
    return (!skipped(Backend::CudaEmulated)).then(Device::cuda_emulated);
    #[cfg(not(feature = "emulator"))]
    None
}

/// A GPU, or else a software adapter, unless the tests are to do without: `LIGHTSPAN_SKIP=wgpu`.
#[cfg(feature = "wgpu")]
fn wgpu() -> Option<Device> {
    if skipped(Backend::Wgpu) {
        return None;
    }
    match Device::wgpu().or_else(|_| Device::wgpu_named("llvmpipe")) {
        Ok(device) => Some(device),
        Err(error) => panic!(
            "{error}\n`cargo xtask test` installs a software adapter where it may; LIGHTSPAN_SKIP=wgpu tests without"
        ),
    }
}

/// `cases` drawn cases, or in `proptest!` as many as the environment variable `PROPTEST_CASES` says; new ones in each run, but for
/// `PROPTEST_RNG_SEED`.
/// A failure prints the case, shrunk.
pub fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() }
}

/// Fails unless every call gets its error.
pub fn each<T: std::fmt::Debug>(table: impl IntoIterator<Item = (Result<T>, Error)>) {
    for (i, (got, expected)) in table.into_iter().enumerate() {
        match got {
            Err(got) => assert_eq!(got, expected, "case {i}"),
            Ok(value) => panic!("case {i}: {value:?} instead of: {expected}"),
        }
    }
}
