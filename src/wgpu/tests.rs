//! What holds of all kernels and plans, without a device.

mod kernels;
mod plans;
