use std::env;

/// Whose kernels make plain products on a GPU: those of a [`Linear`](crate::cuda::Linear) without activation and groups, its
/// weight and bias in the type of x, with more than one input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Products {
    /// This crate's, which need the driver alone.
    Own,
    /// Those of NVIDIA's library cuBLASLt, of CUDA 12.1 to 13, where it can be loaded and makes the product as this crate's kernels
    /// do: all in f32 (never in TF32), rounded once, with the same bits each time. This crate's otherwise.
    CublasLt,
}

impl Products {
    /// What a new [`Gpu`](crate::cuda::Gpu) goes by: cuBLASLt where it is, unless the environment variable
    /// `LIGHTSPAN_CUBLASLT` is `0`.
    pub(crate) fn by_environment() -> Self {
        match env::var("LIGHTSPAN_CUBLASLT").as_deref() {
            Ok("0") => Products::Own,
            _ => Products::CublasLt,
        }
    }
}
