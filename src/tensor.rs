//! Numbers on a device, and their shape.

use std::fmt;

use crate::cpu::{self, Buffer, Elements, ElementsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::{Room, wait};
#[cfg(feature = "wgpu")]
use crate::wgpu::Gpu;
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
    #[cfg(feature = "wgpu")]
    Wgpu(Gpu, ::wgpu::Buffer),
    #[cfg(feature = "cuda")]
    Cuda(Box<dyn cuda::Memory>),
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
            #[cfg(feature = "wgpu")]
            Room::Wgpu(gpu) => Storage::Wgpu(gpu.clone(), gpu.tensor(dtype, len)?),
            #[cfg(feature = "cuda")]
            Room::Cuda(gpu) => {
                let mut memory = gpu.tensor(dtype, len)?;
                memory.clear()?;
                Storage::Cuda(memory)
            }
        };
        Ok(Tensor { device: device.clone(), dtype, shape: shape.to_vec(), storage })
    }

    /// A tensor for an operator or a copy to write: zeros, unless the device can do without them.
    pub(crate) fn unwritten(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        match device.room() {
            #[cfg(feature = "cuda")]
            Room::Cuda(gpu) => {
                let storage = Storage::Cuda(gpu.tensor(dtype, checked_len(shape)?)?);
                Ok(Tensor { device: device.clone(), dtype, shape: shape.to_vec(), storage })
            }
            _ => Tensor::zeros(shape, dtype, device),
        }
    }

    /// A copy of `values`.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there are as many as `shape` says, [`Error::TooLarge`] where that cannot be addressed.
    pub fn from_slice<E: Element>(values: &[E], shape: &[usize], device: &Device) -> Result<Self> {
        check_count(values.len(), shape)?;
        let mut tensor = Tensor::unwritten(shape, E::DTYPE, device)?;
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
            #[cfg(feature = "wgpu")]
            Storage::Wgpu(gpu, buffer) => gpu.write(buffer, bytemuck::cast_slice(values))?,
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => memory.write(bytemuck::cast_slice(values))?,
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
        let mut tensor = Tensor::unwritten(shape, dtype, device)?;
        match &mut tensor.storage {
            Storage::Cpu(buffer) => buffer.elements_mut().store(values),
            #[cfg(feature = "wgpu")]
            Storage::Wgpu(gpu, buffer) => {
                let mut rounded = Buffer::zeros(dtype, values.len())?;
                rounded.elements_mut().store(values);
                gpu.write(buffer, rounded.elements().bytes())?;
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => {
                let mut rounded = Buffer::zeros(dtype, values.len())?;
                rounded.elements_mut().store(values);
                memory.write(rounded.elements().bytes())?;
            }
        }
        Ok(tensor)
    }

    /// The numbers, in their own type.
    ///
    /// # Errors
    ///
    /// [`Error::DType`] where they are of another, [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        wait(self.to_vec_async())
    }

    /// [`Tensor::to_vec`] as a future, which a browser needs: it does not wait. (Elsewhere the future waits when it is
    /// polled.)
    ///
    /// # Errors
    ///
    /// As [`Tensor::to_vec`].
    pub async fn to_vec_async<E: Element>(&self) -> Result<Vec<E>> {
        let other = Error::DType { tensor: "the tensor", expected: vec![E::DTYPE], got: self.dtype };
        match &self.storage {
            Storage::Cpu(buffer) => buffer.elements().as_slice().map(<[E]>::to_vec).ok_or(other),
            #[cfg(feature = "wgpu")]
            Storage::Wgpu(..) if self.dtype != E::DTYPE => Err(other),
            #[cfg(feature = "wgpu")]
            Storage::Wgpu(gpu, buffer) => {
                let mut values = cpu::zeros::<E>("a download", self.len())?;
                gpu.read(buffer, bytemuck::cast_slice_mut(&mut values)).await?;
                Ok(values)
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) if self.dtype != E::DTYPE => Err(other),
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => {
                let mut values = cpu::zeros::<E>("a download", self.len())?;
                memory.read(bytemuck::cast_slice_mut(&mut values))?;
                Ok(values)
            }
        }
    }

    /// The numbers as f32; exact.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        wait(self.to_f32_async())
    }

    /// [`Tensor::to_f32`] as a future, which a browser needs: it does not wait. (Elsewhere the future waits when it is
    /// polled.)
    ///
    /// # Errors
    ///
    /// As [`Tensor::to_f32`].
    pub async fn to_f32_async(&self) -> Result<Vec<f32>> {
        let mut values = cpu::zeros::<f32>("a download", self.len())?;
        match &self.storage {
            Storage::Cpu(buffer) => buffer.elements().load(0, &mut values),
            #[cfg(feature = "wgpu")]
            Storage::Wgpu(gpu, buffer) => {
                let mut copy = Buffer::zeros(self.dtype, self.len())?;
                gpu.read(buffer, copy.elements_mut().into_bytes()).await?;
                copy.elements().load(0, &mut values);
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => {
                let mut copy = Buffer::zeros(self.dtype, self.len())?;
                memory.read(copy.elements_mut().into_bytes())?;
                copy.elements().load(0, &mut values);
            }
        }
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

    /// The numbers of a tensor of the CPU: operators ask for them once all tensors are known to be on one device.
    pub(crate) fn cpu(&self) -> Elements<'_> {
        match &self.storage {
            Storage::Cpu(buffer) => buffer.elements(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => unreachable!("tensors of one call are on one device"),
        }
    }

    /// The same to write.
    pub(crate) fn cpu_mut(&mut self) -> ElementsMut<'_> {
        match &mut self.storage {
            Storage::Cpu(buffer) => buffer.elements_mut(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => unreachable!("tensors of one call are on one device"),
        }
    }

    /// The buffer of a tensor on a wgpu device: its numbers in the tensor's type, 16-bit ones two in a word, padded to
    /// whole words.
    #[cfg(feature = "wgpu")]
    pub fn wgpu_buffer(&self) -> Option<&::wgpu::Buffer> {
        match &self.storage {
            Storage::Wgpu(_, buffer) => Some(buffer),
            _ => None,
        }
    }

    /// The same, where it is known to be on one.
    #[cfg(feature = "wgpu")]
    pub(crate) fn buffer(&self) -> &::wgpu::Buffer {
        self.wgpu_buffer().expect("tensors of one call are on one device")
    }

    /// The numbers of a tensor on a CUDA device, for calls on memory of your own.
    #[cfg(feature = "cuda")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cuda")))]
    pub fn cuda(&self) -> Option<cuda::Elements<'_>> {
        match &self.storage {
            Storage::Cuda(memory) => Some(cuda::Elements::of(&**memory, self.dtype)),
            _ => None,
        }
    }

    /// The same to write.
    #[cfg(feature = "cuda")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cuda")))]
    pub fn cuda_mut(&mut self) -> Option<cuda::ElementsMut<'_>> {
        match &mut self.storage {
            Storage::Cuda(memory) => Some(cuda::ElementsMut::of(&mut **memory, self.dtype)),
            _ => None,
        }
    }

    /// The same, where it is known to be on one.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda(&self) -> cuda::Elements<'_> {
        self.cuda().expect("tensors of one call are on one device")
    }

    /// The same to write.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda_mut(&mut self) -> cuda::ElementsMut<'_> {
        self.cuda_mut().expect("tensors of one call are on one device")
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
