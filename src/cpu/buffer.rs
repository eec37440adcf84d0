//! Slices of any element type, and their way to f32 and back.

use crate::cpu::arch;
use crate::{DType, Element, Error, Result};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A slice of one of the element types.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16.
    F16(&'a [f16]),
    /// bf16.
    BF16(&'a [bf16]),
}

impl<'a, E: Element> From<&'a [E]> for Elements<'a> {
    fn from(slice: &'a [E]) -> Self {
        match E::DTYPE {
            DType::F32 => Elements::F32(bytemuck::cast_slice(slice)),
            DType::F16 => Elements::F16(bytemuck::cast_slice(slice)),
            DType::BF16 => Elements::BF16(bytemuck::cast_slice(slice)),
        }
    }
}

impl<'a> Elements<'a> {
    /// The type of the elements.
    pub fn dtype(self) -> DType {
        match self {
            Elements::F32(_) => DType::F32,
            Elements::F16(_) => DType::F16,
            Elements::BF16(_) => DType::BF16,
        }
    }

    /// Those from the `first` on, of at least so many.
    pub(crate) fn after(self, first: usize) -> Self {
        match self {
            Elements::F32(slice) => Elements::F32(&slice[first..]),
            Elements::F16(slice) => Elements::F16(&slice[first..]),
            Elements::BF16(slice) => Elements::BF16(&slice[first..]),
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Elements::F32(slice) => slice.len(),
            Elements::F16(slice) => slice.len(),
            Elements::BF16(slice) => slice.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements as a slice of `E`, if that is their type.
    pub(crate) fn as_slice<E: Element>(self) -> Option<&'a [E]> {
        (self.dtype() == E::DTYPE).then(|| match self {
            Elements::F32(slice) => bytemuck::cast_slice(slice),
            Elements::F16(slice) => bytemuck::cast_slice(slice),
            Elements::BF16(slice) => bytemuck::cast_slice(slice),
        })
    }

    /// The elements from `start` on, as f32; exact.
    pub(crate) fn load(self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Elements::F32(slice) => out.copy_from_slice(&slice[range]),
            Elements::F16(slice) => slice[range].convert_to_f32_slice(out),
            Elements::BF16(slice) => {
                let slice = &slice[range];
                arch().dispatch(|| {
                    for (out, x) in out.iter_mut().zip(slice) {
                        *out = f32::from_bits(u32::from(x.to_bits()) << 16);
                    }
                });
            }
        }
    }

    /// The first `len` elements as f32: where they lie, or a copy in `copy`.
    pub(crate) fn as_f32<'b>(self, len: usize, copy: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Elements::F32(slice) => &slice[..len],
            other => {
                other.load(0, &mut copy[..len]);
                copy
            }
        }
    }

    /// The same in blocks of `block` elements, `stride` apart.
    pub(crate) fn load_blocks(
        self,
        start: usize,
        count: usize,
        block: usize,
        stride: usize,
        out: &mut [f32],
    ) {
        match self {
            Elements::F32(slice) => {
                let blocks = slice[start..start + count].chunks(block);
                for (x, out) in blocks.zip(out.chunks_mut(stride)) {
                    copy_short(x, &mut out[..x.len()]);
                }
            }
            _ => {
                for (at, out) in (0..count).step_by(block).zip(out.chunks_mut(stride)) {
                    self.load(start + at, &mut out[..block.min(count - at)]);
                }
            }
        }
    }

    /// The elements as they lie in memory.
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Elements::F32(slice) => bytemuck::cast_slice(slice),
            Elements::F16(slice) => bytemuck::cast_slice(slice),
            Elements::BF16(slice) => bytemuck::cast_slice(slice),
        }
    }

    /// One element as f32; exact.
    pub(crate) fn at(self, index: usize) -> f32 {
        match self {
            Elements::F32(slice) => slice[index],
            Elements::F16(slice) => slice[index].to_f32(),
            Elements::BF16(slice) => slice[index].to_f32(),
        }
    }

    /// An error unless these are `expected` elements (or more) of type `dtype`.
    pub(crate) fn check(self, tensor: &'static str, dtype: DType, expected: usize) -> Result<()> {
        if self.dtype() != dtype {
            return Err(Error::DType { tensor, expected: vec![dtype], got: self.dtype() });
        }
        if self.len() < expected {
            return Err(Error::Length { tensor, expected, got: self.len() });
        }
        Ok(())
    }
}

/// A copy that is made in place and not by a call, which would cost as much as so few numbers.
#[inline(always)]
fn copy_short(from: &[f32], to: &mut [f32]) {
    let (from, from_rest) = from.as_chunks::<16>();
    let (to, to_rest) = to.as_chunks_mut::<16>();
    for (from, to) in from.iter().zip(to) {
        *to = *from;
    }
    to_rest.copy_from_slice(from_rest);
}

/// An error unless an optional input is there exactly if the problem has it, with `expected` elements of type `dtype`.
pub(crate) fn check_optional(
    tensor: &'static str,
    given: Option<Elements<'_>>,
    wanted: bool,
    dtype: DType,
    expected: usize,
) -> Result<()> {
    match given {
        Some(elements) if wanted => elements.check(tensor, dtype, expected),
        Some(_) => Err(Error::Surplus { tensor }),
        None if wanted => Err(Error::Missing { tensor }),
        None => Ok(()),
    }
}

/// An error unless an optional tensor is there exactly if the problem has it.
pub(crate) fn given<T>(tensor: &'static str, given: Option<T>, wanted: bool) -> Result<Option<T>> {
    match (&given, wanted) {
        (Some(_), false) => Err(Error::Surplus { tensor }),
        (None, true) => Err(Error::Missing { tensor }),
        _ => Ok(given),
    }
}

/// A mutable slice of one of the element types.
#[derive(Debug)]
pub enum ElementsMut<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// f16.
    F16(&'a mut [f16]),
    /// bf16.
    BF16(&'a mut [bf16]),
}

impl<'a, E: Element> From<&'a mut [E]> for ElementsMut<'a> {
    fn from(slice: &'a mut [E]) -> Self {
        match E::DTYPE {
            DType::F32 => ElementsMut::F32(bytemuck::cast_slice_mut(slice)),
            DType::F16 => ElementsMut::F16(bytemuck::cast_slice_mut(slice)),
            DType::BF16 => ElementsMut::BF16(bytemuck::cast_slice_mut(slice)),
        }
    }
}

/// Memory of one of the element types: what a tensor on the CPU holds.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// Memory that holds zeros, or an error where there is not so much.
pub(crate) fn zeros<E: Element>(what: &'static str, len: usize) -> Result<Vec<E>> {
    let bytes = len.saturating_mul(size_of::<E>());
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| Error::OutOfMemory { what, bytes })
}

impl Buffer {
    pub(crate) fn zeros(dtype: DType, len: usize) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Buffer::F32(zeros("tensor", len)?),
            DType::F16 => Buffer::F16(zeros("tensor", len)?),
            DType::BF16 => Buffer::BF16(zeros("tensor", len)?),
        })
    }

    pub(crate) fn elements(&self) -> Elements<'_> {
        match self {
            Buffer::F32(vec) => Elements::F32(vec),
            Buffer::F16(vec) => Elements::F16(vec),
            Buffer::BF16(vec) => Elements::BF16(vec),
        }
    }

    pub(crate) fn elements_mut(&mut self) -> ElementsMut<'_> {
        match self {
            Buffer::F32(vec) => ElementsMut::F32(vec),
            Buffer::F16(vec) => ElementsMut::F16(vec),
            Buffer::BF16(vec) => ElementsMut::BF16(vec),
        }
    }
}

impl<'a> ElementsMut<'a> {
    /// The elements as they lie in memory.
    pub(crate) fn into_bytes(self) -> &'a mut [u8] {
        match self {
            ElementsMut::F32(slice) => bytemuck::cast_slice_mut(slice),
            ElementsMut::F16(slice) => bytemuck::cast_slice_mut(slice),
            ElementsMut::BF16(slice) => bytemuck::cast_slice_mut(slice),
        }
    }

    /// Rounds `values` into the elements; both have the same length.
    pub(crate) fn store(self, values: &[f32]) {
        match self {
            ElementsMut::F32(slice) => slice.copy_from_slice(values),
            ElementsMut::F16(slice) => slice.convert_from_f32_slice(values),
            ElementsMut::BF16(slice) => {
                arch().dispatch(|| {
                    for (out, &value) in slice.iter_mut().zip(values) {
                        *out = round_to_bf16(value);
                    }
                });
            }
        }
    }
}

/// To nearest, ties to even, without a branch.
#[inline(always)]
fn round_to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    // A NaN keeps its upper bits and a quiet bit, so that it cannot round to infinity.
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { nan } else { rounded } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_half_does() {
        let patterns = (0..=u16::MAX).flat_map(|upper| {
            [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| u32::from(upper) << 16 | lower)
        });
        for value in patterns.map(f32::from_bits) {
            let (got, expected) = (round_to_bf16(value), bf16::from_f32(value));
            assert!(got == expected || got.is_nan() && expected.is_nan(), "{value:e}: {got} or {expected}");
        }
    }
}
