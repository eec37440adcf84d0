//! Numbers on a device, and their shape.

use std::fmt;

use crate::cpu::{Buffer, Elements, ElementsMut};
use crate::device::Room;
use crate::{DType, Device, Element, Error, Result};

/// Numbers on a device: contiguous, the last size fastest.
///
/// A tensor owns its memory. To share one, put it into an `Arc`.
pub struct Tensor {
    device: Device,
    dtype: DType,
    shape: Vec<usize>,
    storage: Storage,
}

/// The memory of a tensor, in the room of its device.
enum Storage {
    Cpu(Buffer),
}

impl Tensor {
    /// Zeros.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] where the sizes multiply to more than memory can address, [`Error::OutOfMemory`] where there
    /// is not so much.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let len = checked_len(shape)?;
        let storage = match device.room() {
            Room::Cpu(_) => Storage::Cpu(Buffer::zeros(dtype, len)?),
        };
        Ok(Tensor { device: device.clone(), dtype, shape: shape.to_vec(), storage })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there are as many as `shape` says, [`Error::TooLarge`] where that cannot be addressed.
    pub fn from_slice<E: Element>(values: &[E], shape: &[usize], device: &Device) -> Result<Self> {
        check_count(values.len(), shape)?;
        let mut tensor = Tensor::zeros(shape, E::DTYPE, device)?;
        tensor.write(values)?;
        Ok(tensor)
    }

    /// Overwrites all numbers with `values`.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there are as many, [`Error::DType`] unless they are of the tensor's type.
    pub fn write<E: Element>(&mut self, values: &[E]) -> Result<()> {
        check_count(values.len(), &self.shape)?;
        if self.dtype != E::DTYPE {
            return Err(Error::DType { tensor: "the tensor", expected: vec![self.dtype], got: E::DTYPE });
        }
        match &mut self.storage {
            Storage::Cpu(buffer) => match buffer.elements_mut() {
                ElementsMut::F32(out) => out.copy_from_slice(bytemuck::cast_slice(values)),
                ElementsMut::F16(out) => out.copy_from_slice(bytemuck::cast_slice(values)),
                ElementsMut::BF16(out) => out.copy_from_slice(bytemuck::cast_slice(values)),
            },
        }
        Ok(())
    }

    /// `values`, rounded to `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there are as many as `shape` says, [`Error::TooLarge`] where that cannot be addressed.
    pub fn from_f32(values: &[f32], shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        check_count(values.len(), shape)?;
        let mut tensor = Tensor::zeros(shape, dtype, device)?;
        match &mut tensor.storage {
            Storage::Cpu(buffer) => buffer.elements_mut().store(values),
        }
        Ok(tensor)
    }

    /// The numbers, in their own type.
    ///
    /// # Errors
    ///
    /// [`Error::DType`] where they are of another.
    pub fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        let Storage::Cpu(buffer) = &self.storage;
        match buffer.elements().as_slice() {
            Some(slice) => Ok(slice.to_vec()),
            None => Err(Error::DType { tensor: "the tensor", expected: vec![E::DTYPE], got: self.dtype }),
        }
    }

    /// The numbers as f32; exact.
    ///
    /// # Errors
    ///
    /// None on the CPU; the signature leaves room for a device that is lost.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let Storage::Cpu(buffer) = &self.storage;
        let mut values = vec![0.0; self.len()];
        buffer.elements().load(0, &mut values);
        Ok(values)
    }

    /// The same numbers in another shape.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless both shapes have as many.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Self> {
        check_count(self.len(), shape)?;
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// Sizes, the slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn cpu(&self) -> Elements<'_> {
        let Storage::Cpu(buffer) = &self.storage;
        buffer.elements()
    }

    pub(crate) fn cpu_mut(&mut self) -> ElementsMut<'_> {
        let Storage::Cpu(buffer) = &mut self.storage;
        buffer.elements_mut()
    }
}

/// Shape, type and device, without the numbers.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {:?} of {} on {}", self.shape, self.dtype, self.device)
    }
}

fn checked_len(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |len, &size| len.checked_mul(size))
        .filter(|len| len.checked_mul(size_of::<f64>()).is_some_and(|bytes| bytes <= isize::MAX as usize))
        .ok_or_else(|| Error::TooLarge { what: "tensor", sizes: shape.to_vec() })
}

fn check_count(got: usize, shape: &[usize]) -> Result<()> {
    let expected = checked_len(shape)?;
    if got == expected { Ok(()) } else { Err(Error::Length { tensor: "the tensor", expected, got }) }
}
