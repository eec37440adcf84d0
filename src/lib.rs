//! Convolutions that stand in for self-attention, as fused kernels: lightweight and dynamic convolution (Wu et al.
//! 2019, <https://arxiv.org/abs/1901.10430>), span-based dynamic convolution (Jiang et al. 2020,
//! <https://arxiv.org/abs/2008.02496>), the attention and linear layers that they are composed and compared with, and norms.
//!
//! There are three doors:
//!
//! - **Tensors.** [`Tensor`] is numbers on a [`Device`]; [`ops`] are the operators on them. Start with
//!   [`ops::light_conv`] and [`ops::dynamic_conv`].
//! - **Buffers of your own.** [`cpu`] has every operator on slices, with token strides and scratch from the caller; behind
//!   the features of their names, the module `wgpu` records them into a command encoder of yours, and the module `cuda`
//!   launches those that it has on a stream of yours.
//!
//! - **Layers and models.** [`nn`] has the layers that the papers build of these operators, and, with the feature of its name, the
//!   module `models` whole networks, which load the files of transformers and fairseq.
//!
//! What a call means is the same for all: a [`Window`] over time, how its weights are normalised ([`Normalize`]), how
//! tokens group into [`Sequences`], put together and checked once as a [`problem`]. The [`reference`](mod@reference) computes
//! every operator in `f64` and says how far a backend may be off.
//!
//! ```
//! use lightspan::{Device, Normalize, Tensor, Window, ops};
//!
//! let device = Device::best();
//! // One sequence of three tokens of two channels; two heads, each a causal filter of two taps.
//! let x = Tensor::from_slice(&[1.0f32, 10.0, 2.0, 20.0, 3.0, 30.0], &[1, 3, 2], &device)?;
//! let weight = Tensor::from_slice(&[0.5f32, 0.5, 0.0, 1.0], &[2, 2], &device)?;
//! let options = ops::ConvOptions { normalize: Normalize::None, ..Default::default() };
//! let y = ops::light_conv(&x, &weight, Window::causal(2)?, &options)?;
//! assert_eq!(y.to_f32()?, [0.5, 10.0, 1.5, 20.0, 2.5, 30.0]);
//! # Ok::<(), lightspan::Error>(())
//! ```
//!
//! # Shapes
//!
//! Tensors are token-major and contiguous, channels fastest: `[batch, time, channels]`, or `[tokens, channels]` for a
//! packed batch. In the documentation C is channels, H heads, K taps, r dilation, P left padding, D the channels of an
//! attention head; channel c belongs to head c / (C / H).
//!
//! # Training
//!
//! Each operator but the norms, embedding and top-k has its backward pass in [`ops`] (as [`ops::light_conv_backward`]) and in the rooms of the devices (as
//! [`cpu::LightConvBackward`]). It takes what the forward pass took and the gradient of its output. Nothing else is kept, and
//! nothing is recorded: who calls an operator calls its backward pass. [`Dropout`] drops the weights of a convolution.
//!
//! # Numbers
//!
//! Storage is f32, f16 or bf16; products, sums and softmax are f32, with one rounding at the end. A token outside its
//! sequence reads as zero and its output is zero, whatever the memory there holds; a NaN stays in its own sequence.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod cpu;
#[cfg(feature = "cuda")]
#[cfg_attr(docsrs, doc(cfg(feature = "cuda")))]
pub mod cuda;
mod device;
mod dropout;
mod element;
mod error;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;
#[cfg(feature = "models")]
#[cfg_attr(docsrs, doc(cfg(feature = "models")))]
pub mod models;
pub mod nn;
pub mod ops;
pub mod problem;
pub mod reference;
mod sequences;
mod tensor;
mod tokens;
#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
pub mod wgpu;
mod window;

pub use device::{Backend, Device};
pub use dropout::{Dropout, DropoutRate};
pub use element::{DType, Element};
pub use error::{Dims, Error, Result};
pub use half::{bf16, f16};
pub use sequences::{Layout, Sequence, SequenceShape, Sequences};
pub use tensor::Tensor;
pub use tokens::Tokens;
pub use window::{Normalize, Window};

/// The README's examples, as tests: where all that they show is there.
#[cfg(all(doctest, feature = "models"))]
#[doc = include_str!("../README.md")]
struct Readme;
