//! lightspan
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod cpu;
mod device;
mod element;
mod error;
pub mod ops;
pub mod problem;
pub mod reference;
mod sequences;
mod tensor;
mod window;

pub use device::{Backend, Device};
pub use element::{DType, Element};
pub use error::{Dims, Error, Result};
pub use half::{bf16, f16};
pub use sequences::{Layout, Sequence, SequenceShape, Sequences};
pub use tensor::Tensor;
pub use window::{Normalize, Window};
