//! lightspan inside candle: lightweight and dynamic convolution (Wu et al. 2019, <https://arxiv.org/abs/1901.10430>) and
//! span-based dynamic convolution (Jiang et al. 2020, <https://arxiv.org/abs/2008.02496>) as differentiable operations on
//! [`candle_core::Tensor`], on the CPU and on CUDA devices.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Optimizer, SGD, VarBuilder, VarMap};
//! use lightspan_candle::{DynamicConvOptions, Window, dynamic_conv};
//!
//! let (heads, window) = (2, Window::causal(3)?);
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let weight = vb.get((heads * window.width(), 8), "weight")?;
//! let bias = vb.get(8, "bias")?;
//!
//! // Two sequences of five tokens of 8 channels: each token generates its own filters.
//! let x = Tensor::randn(0f32, 1.0, (2, 5, 8), &Device::Cpu)?;
//! let options = DynamicConvOptions { bias: Some(&bias), ..Default::default() };
//! let y = dynamic_conv(&x, &weight, heads, window, &options)?;
//! assert_eq!(y.dims(), [2, 5, 8]);
//!
//! // Gradients come the way that they do in candle.
//! let loss = (y - &x)?.sqr()?.mean_all()?;
//! SGD::new(variables.all_vars(), 0.1)?.backward_step(&loss)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What an operator means, its shapes, its [`Window`], how weights are normalised ([`Normalize`]) and how tokens group into
//! [`Sequences`] (batches, padded batches, packed sequences), is what it is in [`lightspan::ops`]. So are the numbers: f32, f16
//! or bf16 tokens, parameters in their type or in f32, sums in f32, and one rounding at the end. Decoding step by step is not
//! there: sequences that continue others would have a history, and are refused as if it were missing
//! ([`lightspan::Error::Missing`]).
//!
//! # Gradients
//!
//! Every tensor that goes in gets its gradient, in its own type: [`candle_core::Tensor::backward`] finds them. What is not a
//! [`Var`](candle_core::Var), and does not come from one, gets none, and none is computed. Nothing is kept from the forward
//! pass but its inputs, with the copies of them that this page tells of: weights are computed again, and dropped weights are
//! the same by their seed ([`Dropout`]). Gradients are the same to the last bit each time. There are none of second order: a
//! gradient is a constant to candle.
//!
//! candle's own operations track three inputs at most, and an operator here may have five. Where more than three of them want
//! gradients, its parameters go as one tensor, for which they are copied; tokens never are. The copy is kept as long as the
//! output.
//!
//! # Memory
//!
//! Tokens are read where they lie, at any offset and any distance from one to the next: halves of a gated layer, or queries and
//! values that are parts of one projection, are not copied. What does not lie like that, as transposed tensors, is made
//! contiguous first; where gradients are wanted, that copy is kept as long as the output. On the CPU the memory that operators
//! work in is kept for the next call: as much as calls have had at once, but no more than 256 MiB each. CUDA tensors (feature
//! `cuda`) are read and written on candle's stream by lightspan's kernels, which are embedded: candle asks for a CUDA toolkit
//! where it is built, and lightspan for nothing.
//!
//! # Threads
//!
//! On the CPU any number of threads may call operators on the same tensors, and set variables that others read: a call locks each
//! storage once, as often as it may be among its tensors.
//!
//! candle's default CUDA stream is the calling thread's own. A tensor that was made in one thread and is used in another is not
//! there yet, unless the first has synchronised ([`candle_core::Device::synchronize`]): that is so for candle's own operations
//! too. A device made by `Device::new_cuda_with_stream` has one stream for all threads, in whose order everything runs.
//!
//! # Errors
//!
//! What is wrong with a call is found before anything is computed, and is an error of candle that carries lightspan's:
//! [`lightspan_error`] gives it back. A type that lightspan has no name for, as f64, is
//! [`candle_core::Error::UnsupportedDTypeForOp`]. Metal devices are refused.

mod check;
mod dynamic_conv;
mod error;
mod light_conv;
pub mod nn;
mod operation;
mod room;
mod rows;
mod span_conv;
mod span_key;

pub use dynamic_conv::{DynamicConvOptions, dynamic_conv, dynamic_conv_given};
pub use error::lightspan_error;
pub use light_conv::{ConvOptions, light_conv};
pub use lightspan::{self, Dropout, DropoutRate, Normalize, Sequences, Window};
pub use span_conv::{SpanConvOptions, SpanConvTensors, span_conv};
pub use span_key::{SpanKeyOptions, SpanKeyTensors, span_key};

/// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
