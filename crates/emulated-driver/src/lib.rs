//! A library in the place of NVIDIA's `libcuda`: the calls that lightspan makes of it through cudarc, with kernels run by
//! the emulator. So the calls themselves are tested where there is no GPU: the packing of arguments, the order of streams
//! and events, graphs, errors. `cargo xtask test` builds it, and runs the tests of the CUDA room over it.
//!
//! Work is done when it is asked for, on whatever stream. Where a stream is being captured, this driver is stricter than
//! NVIDIA's: it takes launches and events, and refuses everything else, so that a call that allocates, copies, loads or
//! waits is found. Faults of a kernel go to the standard error, and are a failed launch.

mod calls;
mod codes;
mod graphs;
mod memory;
mod modules;
mod streams;
