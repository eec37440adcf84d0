//! Errors of the device, as results.
//!
//! wgpu reports them past the call that made them, and panics over those that nobody asked for. Here every call to it is
//! made within error scopes, which belong to the calling thread and leave the device as its owner made it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ::wgpu::{BufferDescriptor, BufferUsages, Device, ErrorFilter};

use crate::{Error, Result};

/// An error, or none, that the device tells of later.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type Told = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
/// An error, or none, that the device tells of later.
#[cfg(target_arch = "wasm32")]
pub(crate) type Told = Pin<Box<dyn Future<Output = Result<()>>>>;

/// What `call` returns, or the first error that it made on the device. Native devices tell at once; what a browser tells
/// later comes beside the value.
pub(crate) fn scoped<T>(
    device: &Device,
    what: &'static str,
    bytes: u64,
    call: impl FnOnce() -> T,
) -> Result<(T, Vec<Told>)> {
    let validation = device.push_error_scope(ErrorFilter::Validation);
    let internal = device.push_error_scope(ErrorFilter::Internal);
    let memory = device.push_error_scope(ErrorFilter::OutOfMemory);
    let value = call();
    let (memory, internal, validation) = (memory.pop(), internal.pop(), validation.pop());
    let scopes: [Told; 3] = [
        Box::pin(async move { told(what, bytes, memory.await) }),
        Box::pin(async move { told(what, bytes, internal.await) }),
        Box::pin(async move { told(what, bytes, validation.await) }),
    ];
    let mut late = vec![];
    for mut scope in scopes {
        match now(&mut scope) {
            Poll::Ready(error) => error?,
            Poll::Pending => late.push(scope),
        }
    }
    Ok((value, late))
}

/// What is told of a scope by now.
fn now(scope: &mut Told) -> Poll<Result<()>> {
    scope.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// The scopes of which nothing is told yet, and the first error that was.
#[derive(Default)]
pub(crate) struct Late {
    scopes: Vec<Told>,
    first: Option<Error>,
}

impl Late {
    /// Adds scopes, and lets go of those that are told by now, so that they do not add up.
    pub(crate) fn add(&mut self, scopes: Vec<Told>) {
        let first = &mut self.first;
        self.scopes.retain_mut(|scope| match now(scope) {
            Poll::Pending => true,
            Poll::Ready(told) => {
                if let Err(error) = told {
                    first.get_or_insert(error);
                }
                false
            }
        });
        self.scopes.extend(scopes);
    }

    /// The first error, once all is told.
    pub(crate) async fn settle(self) -> Result<()> {
        let mut all = self.first.map_or(Ok(()), Err);
        for scope in self.scopes {
            all = all.and(scope.await);
        }
        all
    }
}

impl From<Vec<Told>> for Late {
    fn from(scopes: Vec<Told>) -> Self {
        Late { scopes, first: None }
    }
}

/// An error where the device is lost.
///
/// wgpu tells nobody but the device's one callback, which may be the user's and is called only once somebody waits; what
/// a lost device is asked for succeeds and does nothing. But its memory cannot be written, though it was made for that.
pub(crate) fn present(device: &Device) -> Result<()> {
    let usage = BufferUsages::MAP_WRITE;
    let descriptor = BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: true };
    let (word, _) = scoped(device, "a word", 4, || device.create_buffer(&descriptor))?;
    match word.get_mapped_range(..) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::DeviceLost { reason: "it gives no memory any more".to_owned() }),
    }
}

/// What a scope caught, as our error.
fn told(what: &'static str, bytes: u64, error: Option<::wgpu::Error>) -> Result<()> {
    match error {
        None => Ok(()),
        Some(::wgpu::Error::OutOfMemory { .. }) => {
            Err(Error::OutOfMemory { what, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
        }
        Some(error) => Err(refused(what, &error)),
    }
}

/// The error for what the driver says it will not do.
pub(crate) fn refused(what: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Driver { what, reason: error.to_string() }
}
