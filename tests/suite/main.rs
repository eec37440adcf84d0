//! Every backend against the reference, in one binary.
//!
//! A module an operator, named like it; then laws that need no reference, long sums and extreme sizes, what problems
//! cost, bad input, buffers of one's own, how devices are shared, what is required of a machine, numbers from other
//! implementations, and what only a GPU's room has.

mod support;

mod append;
mod attention;
mod bad_input;
mod channels;
mod conformance;
mod cost;
#[cfg(feature = "cuda")]
mod cuda;
mod dynamic_conv;
mod embedding;
mod extremes;
mod finite_differences;
mod history;
mod laws;
mod light_conv;
mod linear;
mod long_sums;
#[cfg(feature = "models")]
mod models;
mod nn;
mod norm;
mod own_buffers;
mod required;
mod span_conv;
mod span_key;
mod threads;
mod top_k;
#[cfg(feature = "wgpu")]
mod wgpu;
