//! What only the wgpu room has: buffers of one's own on a device, recorded calls, limits, devices that fail, pipelines.

mod asynchronous;
mod backward;
mod default_limits;
mod failure;
mod out_of_memory;
mod own_buffers;
mod pipelines;
mod prepared;
mod recording;
mod refused;
mod rounding;
mod size;
mod tensors;
mod threads;
