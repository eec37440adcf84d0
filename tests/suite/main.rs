//! Every backend against the reference, in one binary.
//!
//! A module an operator, named like it; then laws that need no reference, bad input, buffers of one's own, how
//! devices are shared, and numbers from other implementations.

mod support;

mod attention;
mod bad_input;
mod conformance;
mod dynamic_conv;
mod history;
mod laws;
mod light_conv;
mod linear;
mod own_buffers;
mod span_conv;
mod span_key;
mod threads;
