mod case;
mod check;
mod model;
mod numbers;
mod unfused;

pub use case::{ConvCase, conv_case};
pub use check::{Call, check, device};
pub use model::{assert_same_model, fixture, normalized, parameters, settled};
pub use numbers::{Numbers, Place, Values, candle, to_f64};
pub use unfused::Unfused;

use proptest::test_runner::Config;

/// `cases` drawn cases, or as many as the environment variable `PROPTEST_CASES` says.
pub fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}
