//! Errors of the device, as results.
//!
//! wgpu reports them past the call that made them, and panics over those that nobody asked for. Here every call to it is
//! made within error scopes, which belong to the calling thread and leave the device as its owner made it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ::wgpu::{BufferDescriptor, BufferUsages, Device, ErrorFilter};

use crate::{Error, Result};

/// What `call` returns, or the first error that it made on the device.
pub(crate) fn scoped<T>(
    device: &Device,
    what: &'static str,
    bytes: u64,
    call: impl FnOnce() -> T,
) -> Result<T> {
    let validation = device.push_error_scope(ErrorFilter::Validation);
    let internal = device.push_error_scope(ErrorFilter::Internal);
    let memory = device.push_error_scope(ErrorFilter::OutOfMemory);
    let value = call();
    let errors = [now(memory.pop()), now(internal.pop()), now(validation.pop())];
    match errors.into_iter().flatten().next() {
        None => Ok(value),
        Some(::wgpu::Error::OutOfMemory { .. }) => {
            Err(Error::OutOfMemory { what, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
        }
        Some(error) => Err(refused(what, &error)),
    }
}

/// An error where the device is lost.
///
/// wgpu tells nobody but the device's one callback, which may be the user's and is called only once somebody waits; what
/// a lost device is asked for succeeds and does nothing. But its memory cannot be written, though it was made for that.
pub(crate) fn present(device: &Device) -> Result<()> {
    let usage = BufferUsages::MAP_WRITE;
    let descriptor = BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: true };
    let word = scoped(device, "a word", 4, || device.create_buffer(&descriptor))?;
    match word.get_mapped_range(..) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::DeviceLost { reason: "it gives no memory any more".to_owned() }),
    }
}

/// The error for what the driver says it will not do.
pub(crate) fn refused(what: &'static str, error: &dyn std::error::Error) -> Error {
    let reason = error.to_string();
    // A destroyed device refuses everything, with this word in all its messages.
    if reason.contains("destroyed") || reason.to_lowercase().contains("lost") {
        return Error::DeviceLost { reason };
    }
    Error::Driver { what, reason }
}

/// What a scope caught. On native devices that is known at once; in a browser it comes later, and the console has it.
fn now(scope: impl Future<Output = Option<::wgpu::Error>>) -> Option<::wgpu::Error> {
    match pin!(scope).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(error) => error,
        Poll::Pending => None,
    }
}
