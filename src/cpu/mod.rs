//! The CPU room: every operator on slices that you own.
//!
//! An operator is prepared once for a [problem](crate::problem) and then runs on slices, with a token stride where
//! they need one, in scratch memory that you give: [`LightConv::scratch_len`] numbers of it. Nothing of ours is
//! allocated in a run (the matrix products of the `gemm` crate keep packing buffers of their own). Work is shared
//! among the threads of the current rayon pool. Results do not depend on the number of threads.
//!
//! The instruction set is chosen at run time: the best there is. The environment variable `LIGHTSPAN_SIMD` asks for less,
//! `avx2` or `scalar`, so that each can be tested on one machine; anything else in it means the best. (The matrix
//! products choose for themselves.)
//!
//! ```
//! use lightspan::problem::{Convolution, LightConvProblem};
//! use lightspan::{DType, Sequences, Window, cpu};
//!
//! let sequences = Sequences::batch(1, 4)?;
//! let conv = Convolution::new(sequences.shape(), 2, 1, Window::causal(2)?, DType::F32)?;
//! let operator = cpu::LightConv::new(LightConvProblem::new(conv));
//!
//! let x = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
//! let mut y = [0.0f32; 8];
//! let mut scratch = vec![0.0; operator.scratch_len()];
//! operator.run(
//!     cpu::LightConvArgs {
//!         sequences: &sequences,
//!         x: cpu::Rows::contiguous(&x[..]),
//!         weight: (&[0.0f32, 0.0][..]).into(),
//!         bias: None,
//!         history: None,
//!         seed: None,
//!         y: cpu::RowsMut::contiguous(&mut y[..]),
//!     },
//!     &mut scratch,
//! )?;
//! assert_eq!(y, [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
//! # Ok::<(), lightspan::Error>(())
//! ```

use std::sync::OnceLock;

use pulp::Arch;

mod append;
mod attention;
mod buffer;
mod dropout;
mod dynamic_conv;
mod embedding;
mod filter;
mod gradients;
mod history;
mod light_conv;
mod linear;
mod norm;
mod phase;
mod product;
mod rows;
mod scratch;
mod softmax;
mod span_conv;
mod span_key;
mod taps;
mod tiles;
mod top_k;
mod transpose;

pub use append::{Append, AppendArgs};
pub use attention::{Attention, AttentionArgs, AttentionBackward, AttentionBackwardArgs};
pub use buffer::{Elements, ElementsMut};
pub use dynamic_conv::{DynamicConv, DynamicConvArgs, DynamicConvBackward, DynamicConvBackwardArgs, TapArgs};
pub use embedding::{Embedding, EmbeddingArgs};
pub use history::{History, HistoryArgs};
pub use light_conv::{LightConv, LightConvArgs, LightConvBackward, LightConvBackwardArgs};
pub use linear::{Linear, LinearArgs, LinearBackward, LinearBackwardArgs};
pub use norm::{Norm, NormArgs};
pub use rows::{Rows, RowsMut};
pub use span_conv::{SpanConv, SpanConvArgs, SpanConvBackward, SpanConvBackwardArgs};
pub use span_key::{SpanKey, SpanKeyArgs, SpanKeyBackward, SpanKeyBackwardArgs};
pub use top_k::{TopK, TopKArgs};

pub(crate) use buffer::{Buffer, zeros};
pub(crate) use scratch::ScratchPool;

/// The instruction set that kernels run on.
fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| match std::env::var("LIGHTSPAN_SIMD").as_deref() {
        Ok("scalar") => Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    })
}

/// Rounds a row length up to whole vectors of the widest instruction set, so that kernels never meet half a vector.
const fn padded(width: usize) -> usize {
    // A size that cannot be rounded up cannot be had either, and is refused by whoever asks for its memory.
    match width.checked_next_multiple_of(16) {
        Some(padded) => padded,
        None => usize::MAX,
    }
}
