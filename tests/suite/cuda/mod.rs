//! What only the CUDA room has, on a GPU or on the emulator.

mod cublaslt;
#[cfg(feature = "emulator")]
mod dynamic_conv;
#[cfg(feature = "emulator")]
mod emulator;
mod failure;
mod own_buffers;
mod refused;
mod streams;
#[cfg(feature = "emulator")]
mod traffic;
