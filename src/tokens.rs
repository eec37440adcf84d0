//! Ids of tokens on a device, and their shape.

use std::fmt;

use crate::cpu::ElementsMut;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::wait;
use crate::{DType, Device, Error, Result, Tensor};

/// Ids of tokens on a device, each a u32: contiguous, the last size fastest.
///
/// They know a number that all of them are below, so that an operator can refuse ids past its table before it launches
/// anything.
pub struct Tokens {
    /// Their bits, in a tensor that is only ever moved.
    bits: Tensor,
    bound: u64,
}

impl Tokens {
    /// Zeros.
    ///
    /// # Errors
    ///
    /// As [`Tensor::zeros`].
    pub fn zeros(shape: &[usize], device: &Device) -> Result<Self> {
        let bits = Tensor::zeros(shape, DType::F32, device)?;
        let bound = u64::from(!bits.is_empty());
        Ok(Tokens { bits, bound })
    }

    /// Tokens for an operator to write; [`Tokens::written`] follows.
    pub(crate) fn unwritten(shape: &[usize], device: &Device) -> Result<Self> {
        Ok(Tokens { bits: Tensor::unwritten(shape, DType::F32, device)?, bound: 0 })
    }

    /// A copy of `ids`.
    ///
    /// # Errors
    ///
    /// As [`Tensor::from_slice`].
    pub fn from_slice(ids: &[u32], shape: &[usize], device: &Device) -> Result<Self> {
        let bits = Tensor::from_slice::<f32>(bytemuck::cast_slice(ids), shape, device)?;
        Ok(Tokens { bits, bound: bound(ids) })
    }

    /// Numbers of rows, as the ids that pick them of a table.
    pub(crate) fn of_rows(
        rows: impl Iterator<Item = usize>,
        shape: &[usize],
        device: &Device,
    ) -> Result<Self> {
        let id = |row| u32::try_from(row).map_err(|_| Error::TooLarge { what: "table", sizes: vec![row] });
        Tokens::from_slice(&rows.map(id).collect::<Result<Vec<_>>>()?, shape, device)
    }

    /// Overwrites all ids.
    ///
    /// # Errors
    ///
    /// As [`Tensor::write`].
    pub fn write(&mut self, ids: &[u32]) -> Result<()> {
        self.bits.write::<f32>(bytemuck::cast_slice(ids))?;
        self.bound = bound(ids);
        Ok(())
    }

    /// The ids.
    ///
    /// # Errors
    ///
    /// As [`Tensor::to_vec`].
    pub fn to_vec(&self) -> Result<Vec<u32>> {
        wait(self.to_vec_async())
    }

    /// [`Tokens::to_vec`] as a future, as [`Tensor::to_vec_async`].
    ///
    /// # Errors
    ///
    /// As [`Tokens::to_vec`].
    pub async fn to_vec_async(&self) -> Result<Vec<u32>> {
        Ok(bytemuck::cast_vec(self.bits.to_vec_async::<f32>().await?))
    }

    /// The same ids in another shape.
    ///
    /// # Errors
    ///
    /// As [`Tensor::reshape`].
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        Ok(Tokens { bits: self.bits.reshape(shape)?, bound: self.bound })
    }

    /// Sizes, the slowest first.
    pub fn shape(&self) -> &[usize] {
        self.bits.shape()
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        self.bits.device()
    }

    /// A number that all ids are below: one more than the largest of those that were uploaded (0 where there are none), or
    /// the most that an operator can have written.
    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// What an operator has overwritten is all below `bound`.
    pub(crate) fn written(&mut self, bound: u64) {
        self.bound = bound;
    }

    /// The tensor that holds their bits, for what all tensors of a call are checked for.
    pub(crate) fn bits(&self) -> &Tensor {
        &self.bits
    }

    /// The ids of tokens of the CPU: operators ask for them once all tensors are known to be on one device.
    pub(crate) fn cpu(&self) -> &[u32] {
        self.bits.cpu().as_slice::<f32>().map_or(&[], bytemuck::cast_slice)
    }

    /// The same to write; [`Tokens::written`] follows.
    pub(crate) fn cpu_mut(&mut self) -> &mut [u32] {
        match self.bits.cpu_mut() {
            ElementsMut::F32(bits) => bytemuck::cast_slice_mut(bits),
            _ => unreachable!("ids are kept as f32"),
        }
    }

    /// The buffer of tokens on a wgpu device: a word an id. What you write there is to be below [`Tokens::bound`].
    #[cfg(feature = "wgpu")]
    pub fn wgpu_buffer(&self) -> Option<&::wgpu::Buffer> {
        self.bits.wgpu_buffer()
    }

    /// The same, where they are known to be on one.
    #[cfg(feature = "wgpu")]
    pub(crate) fn buffer(&self) -> &::wgpu::Buffer {
        self.bits.buffer()
    }

    /// The ids of tokens on a CUDA device, for calls on memory of your own.
    #[cfg(feature = "cuda")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cuda")))]
    pub fn cuda(&self) -> Option<cuda::Ids<'_>> {
        self.bits.cuda().map(cuda::Ids)
    }

    /// The same to write, with ids that are below [`Tokens::bound`].
    #[cfg(feature = "cuda")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cuda")))]
    pub fn cuda_mut(&mut self) -> Option<cuda::IdsMut<'_>> {
        self.bits.cuda_mut().map(cuda::IdsMut)
    }

    /// The same, where they are known to be on one.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda(&self) -> cuda::Ids<'_> {
        cuda::Ids(self.bits.on_cuda())
    }

    /// The same to write.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda_mut(&mut self) -> cuda::IdsMut<'_> {
        cuda::IdsMut(self.bits.on_cuda_mut())
    }
}

/// Shape, bound and device, without the ids.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens {:?} below {} on {}", self.shape(), self.bound, self.device())
    }
}

fn bound(ids: &[u32]) -> u64 {
    ids.iter().max().map_or(0, |&id| u64::from(id) + 1)
}
