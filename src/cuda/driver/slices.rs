//! Slices of cudarc, as memory that kernels read and write.

use std::sync::Arc;

use ::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop,
};

use crate::cuda::driver::{Address, Queue, Source, Target};

/// The queue's stream, if it is one of the context that a slice belongs to.
fn stream_for<'a>(owner: &Arc<CudaStream>, queue: Queue<'a>) -> Option<&'a Arc<CudaStream>> {
    match queue {
        Queue::Cuda(stream) => (owner.context() == stream.context()).then_some(stream),
        #[cfg(feature = "emulator")]
        Queue::Emulator(_) => None,
    }
}

fn in_use((address, in_use): (u64, SyncOnDrop<'_>)) -> Address<'_> {
    Address { address, _in_use: Some(in_use) }
}

impl<T> Source for CudaSlice<T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address<'a>(&'a self, queue: Queue<'a>) -> Option<Address<'a>> {
        Some(in_use(self.device_ptr(stream_for(self.stream(), queue)?)))
    }
}

impl<T> Source for CudaView<'_, T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address<'a>(&'a self, queue: Queue<'a>) -> Option<Address<'a>> {
        Some(in_use(self.device_ptr(stream_for(self.stream(), queue)?)))
    }
}

impl<T> Target for CudaSlice<T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address_mut<'a>(&'a mut self, queue: Queue<'a>) -> Option<Address<'a>> {
        let stream = stream_for(self.stream(), queue)?;
        Some(in_use(self.device_ptr_mut(stream)))
    }
}

impl<T> Target for CudaViewMut<'_, T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address_mut<'a>(&'a mut self, queue: Queue<'a>) -> Option<Address<'a>> {
        let stream = stream_for(self.stream(), queue)?;
        Some(in_use(self.device_ptr_mut(stream)))
    }
}
