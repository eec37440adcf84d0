//! What the tests of all operators share: devices, drawn cases, numbers, and the comparison.

mod case;
mod memory;
mod numbers;

pub use case::{ConvCase, conv_case, dtypes, long_conv_case, sequences};
pub use memory::Memory;
pub use numbers::{Numbers, Values, assert_admitted, assert_row_admitted, overwritten, same_bits};

use lightspan::{Device, Error, Result};
use proptest::test_runner::Config;

/// The devices that operators are tested on: all that this build and machine have.
pub fn devices() -> Vec<Device> {
    vec![Device::cpu()]
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
