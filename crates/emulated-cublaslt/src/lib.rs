//! A library in the place of NVIDIA's `libcublasLt`, over the emulated driver (`crates/emulated-driver`): the calls that
//! lightspan makes of it, done on the processor with the device's memory. So the calls themselves are tested where there is no
//! GPU: descriptions, leading dimensions, alignments, workspace, streams and graphs. `cargo xtask test` builds it, and tests the
//! products of the CUDA room over it.
//!
//! It goes by the descriptions alone, so that what is described wrongly comes out wrong. Among its algorithms are all that NVIDIA's
//! may have and lightspan may not use: with inputs cut to TF32, with sums in f16, with parts of sums rounded to the type of the
//! output. It proposes these first, wherever preference does not exclude them; NVIDIA's library does not propose TF32 unless it is
//! asked for. It is stricter, too, in what it takes: one type for all matrices, no batches, and 16-bit matrices aligned to 4
//! bytes. What is wrong with a call goes to the standard error.

mod algorithms;
mod descriptions;
mod driver;
mod multiply;
mod numbers;
mod status;
