//! The CUDA room: operators on memory that you own, launched on your stream.
//!
//! The kernels are PTX, compiled for compute capability 8.0 (Ampere) and embedded: a driver of series 550 or newer is all
//! that they need, no toolkit and no network, neither to build nor to run.
//!
//! An operator is prepared once for a [problem](crate::problem): that loads its kernel (the first time, the driver
//! compiles it for the device and keeps the result on disk). Then each call checks its memory, computes its plan and puts
//! one or more launches into the stream: nothing is allocated on the device, nothing copied, nothing waited for. What crosses
//! from one launch to another lies in scratch memory that you bring, of which the operator says how much; calls that follow
//! one another in a stream may share it.
//!
//! So calls may be captured into a graph; cudarc's own tracking of events must be off for that, as for any call of cudarc
//! (`CudaContext::disable_event_tracking`), since a capture may not wait for an event from before it. A graph keeps
//! addresses, and nothing alive: the memory, the [`DeviceSequences`], the operator and its [`Gpu`] have to outlive it, which
//! is yours to see to, as is the order of streams once tracking is off.
//!
//! Where NVIDIA's library cuBLASLt can be loaded, it makes the plain products of a [`Linear`]: see [`Products`]. It loads its
//! kernels with their first call, not when an operator is prepared. Calls of one [`Gpu`] share a workspace, in the order of its
//! stream: a graph that such calls were captured into may run on another stream, but not beside them, nor beside another such
//! graph.
//!
//! Memory may begin at any element ([`Elements::at`]) and have any token stride ([`Rows::strided`]). Where rows are
//! aligned to 16 bytes, they are read and written by so much at a time.
//!
//! The feature `emulator` adds a device that runs the same PTX on the CPU, checks every access and counts the traffic:
//! see [`Gpu::emulated`].

mod append;
mod attention;
mod call;
mod driver;
mod dynamic_conv;
mod embedding;
mod gpu;
mod history;
mod ids;
mod light_conv;
mod limits;
mod linear;
mod modules;
mod norm;
mod plan;
mod products;
mod rows;
mod sequences;
mod span_conv;
mod span_key;
#[cfg(test)]
mod tests;
mod top_k;
mod traffic;

/// The cudarc that this crate is built with.
pub use ::cudarc;

pub use append::{Append, AppendArgs};
pub use attention::{Attention, AttentionArgs, AttentionBackward, AttentionBackwardArgs};
pub use call::{Elements, ElementsMut, Rows, RowsMut};
#[cfg(feature = "emulator")]
#[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
pub use driver::LaunchProfile;
pub(crate) use driver::Memory;
pub use dynamic_conv::{DynamicConv, DynamicConvArgs, DynamicConvBackward, DynamicConvBackwardArgs, TapArgs};
pub use embedding::{Embedding, EmbeddingArgs};
pub use gpu::Gpu;
pub use history::{History, HistoryArgs};
pub use ids::{Ids, IdsMut};
pub use light_conv::{LightConv, LightConvArgs, LightConvBackward, LightConvBackwardArgs};
pub use limits::Limits;
pub use linear::{Linear, LinearArgs, LinearBackward, LinearBackwardArgs};
pub use norm::{Norm, NormArgs};
pub use products::Products;
pub use sequences::DeviceSequences;
pub use span_conv::{SpanConv, SpanConvArgs, SpanConvBackward, SpanConvBackwardArgs};
pub use span_key::{SpanKey, SpanKeyArgs, SpanKeyBackward, SpanKeyBackwardArgs};
pub use top_k::{TopK, TopKArgs};
pub use traffic::Traffic;
