//! The integration tests: one binary links once.

mod conformance;
