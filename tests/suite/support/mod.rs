//! What the tests of all operators share: devices, drawn cases, numbers, and the comparison.

mod case;
#[cfg(feature = "wgpu")]
pub mod gpu;
mod memory;
mod numbers;

pub use case::{ConvCase, conv_case, dtypes, long_conv_case, sequences};
pub use memory::Memory;
pub use numbers::{Numbers, Values, assert_admitted, assert_row_admitted, overwritten, same_bits};

use std::sync::LazyLock;

use lightspan::{Device, Error, Result};
use proptest::test_runner::Config;

/// The devices that operators are tested on: all that this build and machine have.
pub fn devices() -> Vec<Device> {
    static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
        #[cfg(feature = "wgpu")]
        return [Device::cpu()].into_iter().chain(wgpu()).collect();
        #[cfg(not(feature = "wgpu"))]
        vec![Device::cpu()]
    });
    DEVICES.clone()
}

/// A GPU, or else a software adapter, unless the tests are to do without: `LIGHTSPAN_SKIP=wgpu`.
#[cfg(feature = "wgpu")]
fn wgpu() -> Option<Device> {
    if std::env::var("LIGHTSPAN_SKIP").is_ok_and(|skipped| skipped.split(',').any(|name| name == "wgpu")) {
        eprintln!("SKIPPED: nothing is tested on wgpu, as LIGHTSPAN_SKIP asks");
        return None;
    }
    match Device::wgpu().or_else(|_| Device::wgpu_named("llvmpipe")) {
        Ok(device) => Some(device),
        Err(error) => panic!(
            "{error}\n`cargo xtask test` installs a software adapter where it may; LIGHTSPAN_SKIP=wgpu tests without"
        ),
    }
}

/// `cases` drawn cases, new ones in each run. A failure prints the case, shrunk.
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
