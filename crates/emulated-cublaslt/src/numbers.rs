//! The types of numbers.

use half::{bf16, f16};

/// Of `cudaDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    F32,
    F16,
    BF16,
}

impl Type {
    pub(crate) fn of(number: i32) -> Option<Self> {
        match number {
            0 => Some(Type::F32),
            2 => Some(Type::F16),
            14 => Some(Type::BF16),
            _ => None,
        }
    }

    pub(crate) fn size(self) -> usize {
        match self {
            Type::F32 => 4,
            Type::F16 | Type::BF16 => 2,
        }
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
        match self {
            Type::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Type::F16 => bytes.chunks_exact(2).map(|b| f16::from_ne_bytes(pair(b)).to_f32()).collect(),
            Type::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes(pair(b)).to_f32()).collect(),
        }
    }

    pub(crate) fn encode(self, numbers: &[f32]) -> Vec<u8> {
        match self {
            Type::F32 => numbers.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            Type::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_ne_bytes()).collect(),
            Type::BF16 => numbers.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect(),
        }
    }

    /// The nearest number of the type.
    pub(crate) fn round(self, x: f32) -> f32 {
        match self {
            Type::F32 => x,
            Type::F16 => f16::from_f32(x).to_f32(),
            Type::BF16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// A number cut to the 10 bits that TF32 keeps.
pub(crate) fn tf32(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & !0x1fff)
}
