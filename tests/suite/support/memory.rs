use lightspan::cpu::{Elements, ElementsMut, Rows, RowsMut};
use lightspan::{DType, Element, bf16, f16};

use crate::support::Values;

/// Memory of one's own, of any element type, as a caller of the CPU room has it.
pub enum Memory {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

impl Memory {
    /// `values`, rounded to `dtype`.
    pub fn new(values: impl IntoIterator<Item = f32>, dtype: DType) -> Self {
        let values = values.into_iter();
        match dtype {
            DType::F32 => Memory::F32(values.collect()),
            DType::F16 => Memory::F16(values.map(f16::from_f32).collect()),
            DType::BF16 => Memory::BF16(values.map(bf16::from_f32).collect()),
            _ => panic!("no memory for {dtype}"),
        }
    }

    /// Numbers of these bits.
    pub fn of_bits(bits: impl IntoIterator<Item = u32>, dtype: DType) -> Self {
        let bits = bits.into_iter();
        match dtype {
            DType::F32 => Memory::F32(bits.map(f32::from_bits).collect()),
            DType::F16 => Memory::F16(bits.map(|x| f16::from_bits(x as u16)).collect()),
            DType::BF16 => Memory::BF16(bits.map(|x| bf16::from_bits(x as u16)).collect()),
            _ => panic!("no memory for {dtype}"),
        }
    }

    /// The numbers of `values`, and `extra` NaN after them.
    pub fn longer(values: &Values, extra: usize) -> Self {
        let data = values.data.iter().map(|&x| x as f32);
        Memory::new(data.chain(std::iter::repeat_n(f32::NAN, extra)), values.dtype)
    }

    /// The rows of `values`, of `width` numbers, with `gap` NaN after each.
    pub fn with_gaps(values: &Values, width: usize, gap: usize) -> Self {
        let rows = values.data.chunks(width);
        let data = rows.flat_map(|row| {
            row.iter().map(|&x| x as f32).chain(std::iter::repeat_n(f32::NAN, gap)).collect::<Vec<_>>()
        });
        Memory::new(data, values.dtype)
    }

    pub fn elements(&self) -> Elements<'_> {
        match self {
            Memory::F32(data) => Elements::F32(data),
            Memory::F16(data) => Elements::F16(data),
            Memory::BF16(data) => Elements::BF16(data),
        }
    }

    pub fn elements_mut(&mut self) -> ElementsMut<'_> {
        match self {
            Memory::F32(data) => ElementsMut::F32(data),
            Memory::F16(data) => ElementsMut::F16(data),
            Memory::BF16(data) => ElementsMut::BF16(data),
        }
    }

    pub fn rows(&self, stride: usize) -> Rows<'_> {
        Rows::strided(self.elements(), stride)
    }

    pub fn rows_mut(&mut self, stride: usize) -> RowsMut<'_> {
        RowsMut::strided(self.elements_mut(), stride)
    }

    /// The bits of the numbers.
    pub fn bits(&self) -> Vec<u32> {
        match self {
            Memory::F32(data) => data.iter().map(|x| x.to_bits()).collect(),
            Memory::F16(data) => data.iter().map(|x| x.to_bits().into()).collect(),
            Memory::BF16(data) => data.iter().map(|x| x.to_bits().into()).collect(),
        }
    }

    /// The numbers as f32; exact.
    pub fn to_f32(&self) -> Vec<f32> {
        fn exact<E: Element>(data: &[E]) -> Vec<f32> {
            data.iter().map(|x| x.to_f32()).collect()
        }
        match self {
            Memory::F32(data) => data.clone(),
            Memory::F16(data) => exact(data),
            Memory::BF16(data) => exact(data),
        }
    }

    /// The numbers as a device holds them.
    #[cfg(feature = "wgpu")]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Memory::F32(data) => bytemuck::cast_slice(data),
            Memory::F16(data) => bytemuck::cast_slice(data),
            Memory::BF16(data) => bytemuck::cast_slice(data),
        }
    }
}
