//! The compiled kernels, as `cargo xtask ptx` writes them: a module for each operator and type.

use std::fmt;

use crate::{DType, Error, Result};

/// A module of PTX.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    /// Its text, packed by the build.
    packed: &'static [u8],
}

impl Module {
    /// Its text.
    pub(crate) fn ptx(&self) -> Result<String> {
        let spoiled = |reason: String| Error::Driver { what: "the text of a kernel", reason };
        let text = miniz_oxide::inflate::decompress_to_vec(self.packed)
            .map_err(|error| spoiled(format!("{}: {error}", self.name)))?;
        String::from_utf8(text).map_err(|error| spoiled(format!("{}: {error}", self.name)))
    }

    /// Bytes of it in an executable.
    #[cfg(test)]
    pub(crate) const fn packed_len(&self) -> usize {
        self.packed.len()
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({})", self.name)
    }
}

macro_rules! module {
    ($name:literal) => {
        &Module { name: $name, packed: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".deflate")) }
    };
}

/// Tokens written behind those that a cache holds, for every type.
pub(crate) const APPEND: &Module = module!("append");

/// A decoder's memory moved on, for every type.
pub(crate) const HISTORY: &Module = module!("history");

/// The largest numbers of rows, of every type.
pub(crate) const TOP_K: &Module = module!("top_k");

/// Rows of tables, of the same type or of f32.
pub(crate) fn embedding(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("embedding_f32"),
        DType::F16 => module!("embedding_f16"),
        DType::BF16 => module!("embedding_bf16"),
    }
}

/// Light convolution by multiply-adds.
pub(crate) fn light_conv(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("light_conv_f32"),
        DType::F16 => module!("light_conv_f16"),
        DType::BF16 => module!("light_conv_bf16"),
    }
}

/// Light convolution by products of matrices; none in f32.
pub(crate) fn light_conv_toeplitz(dtype: DType) -> Option<&'static Module> {
    match dtype {
        DType::F32 => None,
        DType::F16 => Some(module!("light_conv_toeplitz_f16")),
        DType::BF16 => Some(module!("light_conv_toeplitz_bf16")),
    }
}

/// The gradients of a light convolution's parameters.
pub(crate) fn light_conv_backward(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("light_conv_backward_f32"),
        DType::F16 => module!("light_conv_backward_f16"),
        DType::BF16 => module!("light_conv_backward_bf16"),
    }
}

/// Sums for the gradient of a light convolution's weight by products of matrices; none in f32.
pub(crate) fn light_conv_backward_band(dtype: DType) -> Option<&'static Module> {
    match dtype {
        DType::F32 => None,
        DType::F16 => Some(module!("light_conv_backward_band_f16")),
        DType::BF16 => Some(module!("light_conv_backward_band_bf16")),
    }
}

/// Dynamic convolution in one launch, with parameters of the same type or of f32.
pub(crate) fn dynamic_conv_fused(dtype: DType, parameters: DType) -> &'static Module {
    match (dtype, parameters) {
        (DType::F32, _) => module!("dynamic_conv_fused_f32"),
        (DType::F16, DType::F32) => module!("dynamic_conv_fused_f16_f32"),
        (DType::F16, _) => module!("dynamic_conv_fused_f16"),
        (DType::BF16, DType::F32) => module!("dynamic_conv_fused_bf16_f32"),
        (DType::BF16, _) => module!("dynamic_conv_fused_bf16"),
    }
}

/// Dynamic convolution with given logits by multiply-adds.
pub(crate) fn dynamic_conv(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("dynamic_conv_f32"),
        DType::F16 => module!("dynamic_conv_f16"),
        DType::BF16 => module!("dynamic_conv_bf16"),
    }
}

/// The gradients of a dynamic convolution's logits.
pub(crate) fn dynamic_conv_backward(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("dynamic_conv_backward_f32"),
        DType::F16 => module!("dynamic_conv_backward_f16"),
        DType::BF16 => module!("dynamic_conv_backward_bf16"),
    }
}

/// The same by products of matrices; none in f32.
pub(crate) fn dynamic_conv_backward_band(dtype: DType) -> Option<&'static Module> {
    match dtype {
        DType::F32 => None,
        DType::F16 => Some(module!("dynamic_conv_backward_band_f16")),
        DType::BF16 => Some(module!("dynamic_conv_backward_band_bf16")),
    }
}

/// The gradient of a dynamic convolution's x by products of matrices; none in f32.
pub(crate) fn dynamic_conv_transposed(dtype: DType) -> Option<&'static Module> {
    match dtype {
        DType::F32 => None,
        DType::F16 => Some(module!("dynamic_conv_transposed_f16")),
        DType::BF16 => Some(module!("dynamic_conv_transposed_bf16")),
    }
}

/// Dynamic convolution with given logits by products of matrices; none in f32.
pub(crate) fn dynamic_conv_banded(dtype: DType) -> Option<&'static Module> {
    match dtype {
        DType::F32 => None,
        DType::F16 => Some(module!("dynamic_conv_banded_f16")),
        DType::BF16 => Some(module!("dynamic_conv_banded_bf16")),
    }
}

/// Linear layers: by multiply-adds in f32, with parameters of any type; on tensor cores in 16 bits, with parameters of the
/// same type or of f32.
pub(crate) fn linear(dtype: DType, parameters: DType) -> &'static Module {
    match (dtype, parameters) {
        (DType::F32, _) => module!("linear_f32"),
        (DType::F16, DType::F32) => module!("linear_f16_f32"),
        (DType::F16, _) => module!("linear_f16"),
        (DType::BF16, DType::F32) => module!("linear_bf16_f32"),
        (DType::BF16, _) => module!("linear_bf16"),
    }
}

/// Products of the backward pass, of every type.
pub(crate) const LINEAR_BACKWARD: &Module = module!("linear_backward");

/// The same on tensor cores, where a matrix is of 16 bits.
pub(crate) const LINEAR_BACKWARD_MMA: &Module = module!("linear_backward_mma");

/// Layer norm and RMS norm, with parameters of the same type or of f32.
pub(crate) fn norm(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("norm_f32"),
        DType::F16 => module!("norm_f16"),
        DType::BF16 => module!("norm_bf16"),
    }
}

/// The span-aware key: by multiply-adds in f32, on tensor cores in 16 bits, with parameters of the same type or of f32.
pub(crate) fn span_key(dtype: DType, parameters: DType) -> &'static Module {
    match (dtype, parameters) {
        (DType::F32, _) => module!("span_key_f32"),
        (DType::F16, DType::F32) => module!("span_key_f16_f32"),
        (DType::F16, _) => module!("span_key_f16"),
        (DType::BF16, DType::F32) => module!("span_key_bf16_f32"),
        (DType::BF16, _) => module!("span_key_bf16"),
    }
}

/// What the gradients of a span-aware key need beside products, of every type.
pub(crate) const SPAN_KEY_BACKWARD: &Module = module!("span_key_backward");

/// Fused attention.
pub(crate) fn attention(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("attention_f32"),
        DType::F16 => module!("attention_f16"),
        DType::BF16 => module!("attention_bf16"),
    }
}

/// The gradients of attention, of every type.
pub(crate) const ATTENTION_BACKWARD: &Module = module!("attention_backward");

/// Naive attention. All softmaxes of scores, which are f32, are in the module of f32.
pub(crate) fn attention_naive(dtype: DType) -> &'static Module {
    match dtype {
        DType::F32 => module!("attention_naive_f32"),
        DType::F16 => module!("attention_naive_f16"),
        DType::BF16 => module!("attention_naive_bf16"),
    }
}
