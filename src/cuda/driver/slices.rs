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

/// A note that a slice is in use on a stream; when it is dropped, what uses it is in the stream.
///
/// cudarc keeps one event for all readers of a slice: of two on different streams it knows the last. So what happens on
/// another stream than the slice's own is made a part of what its own stream waits for; there the slice is freed, and a
/// writer on a third stream waits for that one.
pub(crate) struct InUse<'a> {
    _event: SyncOnDrop<'a>,
    elsewhere: Option<Elsewhere<'a>>,
}

/// Use on a stream that is not the slice's own.
struct Elsewhere<'a> {
    owner: Arc<CudaStream>,
    stream: &'a CudaStream,
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        let context = self.owner.context();
        context.record_err(self.owner.join(self.stream));
    }
}

impl<'a> InUse<'a> {
    fn new(event: SyncOnDrop<'a>, owner: &Arc<CudaStream>, stream: &'a Arc<CudaStream>) -> Self {
        // Where cudarc does not track events, streams are the caller's to order.
        let other = owner != stream && stream.context().is_managing_stream_synchronization();
        InUse { _event: event, elsewhere: other.then(|| Elsewhere { owner: owner.clone(), stream }) }
    }

    /// The same for a slice that is to be written: once all that its own stream waits for is done.
    fn exclusive(self) -> Self {
        if let Some(Elsewhere { owner, stream }) = &self.elsewhere {
            stream.context().record_err(stream.join(owner));
        }
        self
    }
}

impl<T> Source for CudaSlice<T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address<'a>(&'a self, queue: Queue<'a>) -> Option<Address<'a>> {
        let stream = stream_for(self.stream(), queue)?;
        let (address, event) = self.device_ptr(stream);
        Some(Address { address, _in_use: Some(InUse::new(event, self.stream(), stream)) })
    }
}

impl<T> Source for CudaView<'_, T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address<'a>(&'a self, queue: Queue<'a>) -> Option<Address<'a>> {
        let stream = stream_for(self.stream(), queue)?;
        let (address, event) = self.device_ptr(stream);
        Some(Address { address, _in_use: Some(InUse::new(event, self.stream(), stream)) })
    }
}

impl<T> Target for CudaSlice<T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address_mut<'a>(&'a mut self, queue: Queue<'a>) -> Option<Address<'a>> {
        let owner = self.stream().clone();
        let stream = stream_for(&owner, queue)?;
        let (address, event) = self.device_ptr_mut(stream);
        Some(Address { address, _in_use: Some(InUse::new(event, &owner, stream).exclusive()) })
    }
}

impl<T> Target for CudaViewMut<'_, T> {
    fn bytes(&self) -> usize {
        DeviceSlice::num_bytes(self)
    }

    fn address_mut<'a>(&'a mut self, queue: Queue<'a>) -> Option<Address<'a>> {
        let owner = self.stream().clone();
        let stream = stream_for(&owner, queue)?;
        let (address, event) = self.device_ptr_mut(stream);
        Some(Address { address, _in_use: Some(InUse::new(event, &owner, stream).exclusive()) })
    }
}
