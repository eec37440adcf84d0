//! What holds of all kernels and plans, without a device.

mod backward;
mod convolutions;
mod kernels;
mod plans;
mod products;
mod tables;
