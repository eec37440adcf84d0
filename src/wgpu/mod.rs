//! The wgpu room: every operator on buffers that you own, recorded into your command encoder.
//!
//! An operator is prepared once for a [problem](crate::problem): it plans its dispatches and compiles its kernels (one for
//! each combination of types, never one for a width or a length). Bound to buffers it becomes a [`Call`], whose parameters
//! and bind groups are made then; recording a call allocates nothing, and what happens at your submit is yours to see.
//!
//! Buffers hold elements as the kernels read them: f32, or f16 and bf16 two in a 32-bit word, padded to whole words. They
//! may be read from any element on ([`Elements::at`]) and with any token stride ([`Rows::strided`]). No feature of the
//! device is asked for, and no more than the limits that every WebGPU device has.
//!
//! Sizes are counted in 32 bits there: a tensor has at most 2^32 - 1 elements, and fits into one binding of the device
//! ([`Limits::binding`]); a window reaches, with the sequence, less than 2^31 tokens. What does not fit is
//! [`Error::Limit`](crate::Error::Limit), before anything is launched.
//!
//! Mesa's software Vulkan (llvmpipe, seen in 22.3) ends any invocation's loops after 65,535 rounds in all, without a word:
//! products over some 60,000 channels and attention over some 10,000 keys come out wrong there, and the backward pass of
//! attention, which makes more of each key, sooner. It is a device to test on.
//!
//! ```no_run
//! use lightspan::problem::{Convolution, LightConvProblem};
//! use lightspan::{DType, Sequences, Window, wgpu};
//!
//! # fn example(
//! #     device: wgpu::wgpu::Device,
//! #     queue: wgpu::wgpu::Queue,
//! #     x: wgpu::wgpu::Buffer,
//! #     weight: wgpu::wgpu::Buffer,
//! #     y: wgpu::wgpu::Buffer,
//! # ) -> lightspan::Result<()> {
//! let gpu = wgpu::Gpu::new(device, queue)?;
//! let sequences = Sequences::batch(8, 512)?;
//! let conv = Convolution::new(sequences.shape(), 512, 8, Window::causal(31)?, DType::BF16)?;
//! let operator = wgpu::LightConv::new(&gpu, LightConvProblem::new(conv))?;
//! let call = operator.bind(wgpu::LightConvArgs {
//!     sequences: &wgpu::DeviceSequences::new(&gpu, &sequences)?,
//!     x: wgpu::Rows::contiguous(&x),
//!     weight: (&weight).into(),
//!     bias: None,
//!     history: None,
//!     seed: None,
//!     y: wgpu::Rows::contiguous(&y),
//! })?;
//!
//! let mut encoder = gpu.device().create_command_encoder(&Default::default());
//! call.record(&mut encoder);
//! gpu.queue().submit([encoder.finish()]);
//! # Ok(())
//! # }
//! ```

mod adapters;
mod append;
mod attention;
mod call;
mod dynamic_conv;
mod embedding;
mod faults;
mod gpu;
mod history;
mod light_conv;
mod limits;
mod linear;
mod norm;
mod pipeline;
mod plan;
mod product;
mod reduce;
mod sequences;
mod shader;
mod span_conv;
mod span_key;
#[cfg(test)]
mod tests;
mod top_k;
mod transfer;

/// The wgpu that this crate is built with.
pub use ::wgpu;

pub use adapters::adapter_names;
pub use append::{Append, AppendArgs};
pub use attention::{Attention, AttentionArgs, AttentionBackward, AttentionBackwardArgs};
pub use call::{Call, Elements, Rows};
pub use dynamic_conv::{DynamicConv, DynamicConvArgs, DynamicConvBackward, DynamicConvBackwardArgs, TapArgs};
pub use embedding::{Embedding, EmbeddingArgs};
pub use gpu::Gpu;
pub use history::{History, HistoryArgs};
pub use light_conv::{LightConv, LightConvArgs, LightConvBackward, LightConvBackwardArgs};
pub use limits::Limits;
pub use linear::{Linear, LinearArgs, LinearBackward, LinearBackwardArgs};
pub use norm::{Norm, NormArgs};
pub use sequences::DeviceSequences;
pub use span_conv::{SpanConv, SpanConvArgs, SpanConvBackward, SpanConvBackwardArgs};
pub use span_key::{SpanKey, SpanKeyArgs, SpanKeyBackward, SpanKeyBackwardArgs};
pub use top_k::{TopK, TopKArgs};
