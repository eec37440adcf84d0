use std::ops::Range;

use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{DType, Device, Error, Result, Tensor};

/// Channels of a tensor's tokens that lie side by side: all of them, or the part of one product that is meant. They are read
/// where they are, and stand for a tensor `[.., count]`.
///
/// ```
/// use lightspan::ops::{self, Channels};
/// use lightspan::{DType, Device, Tensor};
///
/// // Queries, keys and values of 6 channels each, as one product makes them.
/// let made = Tensor::zeros(&[2, 5, 18], DType::F32, &Device::cpu())?;
/// let part = |i: usize| Channels::new(&made, 6 * i..6 * (i + 1));
/// let y = ops::attention(part(0)?, part(1)?, part(2)?, 3, &Default::default())?;
/// assert_eq!(y.shape(), [2, 5, 6]);
/// # Ok::<(), lightspan::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a> {
    tensor: &'a Tensor,
    first: usize,
    count: usize,
}

/// All channels.
impl<'a> From<&'a Tensor> for Channels<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Channels { tensor, first: 0, count: channels(tensor) }
    }
}

/// How many a token has.
fn channels(tensor: &Tensor) -> usize {
    tensor.shape().last().copied().unwrap_or(0)
}

impl<'a> Channels<'a> {
    /// Those of a range.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] where it ends past the last channel, or before it begins.
    pub fn new(tensor: &'a Tensor, range: Range<usize>) -> Result<Self> {
        let Range { start: first, end } = range;
        let all = channels(tensor);
        match end.checked_sub(first) {
            Some(count) if end <= all => Ok(Channels { tensor, first, count }),
            _ => Err(Error::Index { what: "channels", got: first.max(end), count: all }),
        }
    }

    /// The tensor that they are of.
    pub fn tensor(self) -> &'a Tensor {
        self.tensor
    }

    /// The sizes of the tensor that they stand for.
    pub fn shape(self) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.count;
        }
        shape
    }

    /// The type of the numbers.
    pub fn dtype(self) -> DType {
        self.tensor.dtype()
    }

    /// Where they are.
    pub fn device(self) -> &'a Device {
        self.tensor.device()
    }

    /// From one token to the next, where they are not all: none where there is no number.
    fn stride(self) -> Option<usize> {
        let all = channels(self.tensor);
        (self.count < all && !self.tensor.is_empty()).then_some(all)
    }

    /// The rows of a tensor of the CPU: operators ask for them once all tensors are known to be on one device.
    pub(crate) fn cpu(self) -> cpu::Rows<'a> {
        let elements = self.tensor.cpu();
        self.stride().map_or_else(
            || cpu::Rows::contiguous(elements),
            |stride| cpu::Rows::strided(elements.after(self.first), stride),
        )
    }

    /// The same on a wgpu device.
    #[cfg(feature = "wgpu")]
    pub(crate) fn wgpu(self) -> wgpu::Rows<'a> {
        let buffer = self.tensor.buffer();
        self.stride().map_or_else(
            || wgpu::Rows::contiguous(buffer),
            |stride| wgpu::Rows::strided(wgpu::Elements::at(buffer, self.first), stride),
        )
    }

    /// The same on a CUDA device.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(self) -> cuda::Rows<'a> {
        let elements = self.tensor.on_cuda();
        self.stride().map_or_else(
            || cuda::Rows::contiguous(elements),
            |stride| cuda::Rows::strided(elements.at(self.first), stride),
        )
    }
}
