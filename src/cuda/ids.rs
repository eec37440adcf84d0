use ::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use crate::DType;
use crate::cuda::call::{Elements, ElementsMut};

/// Ids on a device: a slice or a view of cudarc's of u32, or those of [`Tokens`](crate::Tokens), by
/// [`Tokens::cuda`](crate::Tokens::cuda).
#[derive(Clone, Copy, Debug)]
pub struct Ids<'a>(pub(crate) Elements<'a>);

/// The same to write.
#[derive(Debug)]
pub struct IdsMut<'a>(pub(crate) ElementsMut<'a>);

/// The type of ids, of which the room only knows that it has 32 bits.
pub(crate) const IDS: DType = DType::F32;

impl Ids<'_> {
    /// From id `offset` of these on.
    pub fn at(self, offset: usize) -> Self {
        Ids(self.0.at(offset))
    }
}

impl IdsMut<'_> {
    /// From id `offset` of these on.
    pub fn at(self, offset: usize) -> Self {
        IdsMut(self.0.at(offset))
    }
}

impl<'a> From<&'a CudaSlice<u32>> for Ids<'a> {
    fn from(source: &'a CudaSlice<u32>) -> Self {
        Ids(Elements::of(source, IDS))
    }
}

impl<'a> From<&'a CudaView<'_, u32>> for Ids<'a> {
    fn from(source: &'a CudaView<'_, u32>) -> Self {
        Ids(Elements::of(source, IDS))
    }
}

impl<'a> From<&'a mut CudaSlice<u32>> for IdsMut<'a> {
    fn from(target: &'a mut CudaSlice<u32>) -> Self {
        IdsMut(ElementsMut::of(target, IDS))
    }
}

impl<'a> From<&'a mut CudaViewMut<'_, u32>> for IdsMut<'a> {
    fn from(target: &'a mut CudaViewMut<'_, u32>) -> Self {
        IdsMut(ElementsMut::of(target, IDS))
    }
}
