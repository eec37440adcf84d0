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

/// So many cases; as many as the environment variable `PROPTEST_CASES` says, where it says.
pub fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    Config { cases, failure_persistence: None, ..Config::default() }
}
