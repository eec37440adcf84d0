//! Streams, events, and which streams are being captured.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::codes::{CAPTURE_ISOLATION, CAPTURE_UNSUPPORTED, Code, INVALID_HANDLE, SUCCESS};
use crate::modules::Work;

/// A stream, by its number: 0 is the default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct Stream(pub(crate) usize);

/// An event, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct Event(usize);

/// What is being captured.
pub(crate) struct Capture {
    thread: ThreadId,
    pub(crate) work: Vec<Work>,
}

/// Captures by their stream.
static CAPTURES: LazyLock<Mutex<HashMap<Stream, Capture>>> = LazyLock::new(Mutex::default);

/// Events, and in the capture of which stream each was recorded last; those that never were are not here.
static EVENTS: LazyLock<Mutex<HashMap<Event, Option<Stream>>>> = LazyLock::new(Mutex::default);

/// Numbers of streams and events. 1 and 2 are streams with a meaning of their own.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

pub(crate) fn captures() -> MutexGuard<'static, HashMap<Stream, Capture>> {
    CAPTURES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn events() -> MutexGuard<'static, HashMap<Event, Option<Stream>>> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    pub(crate) fn is_captured(self) -> bool {
        captures().contains_key(&self)
    }

    pub(crate) fn begin_capture(self) -> Option<()> {
        let mut captures = captures();
        if self.0 == 0 || captures.contains_key(&self) {
            return None;
        }
        captures.insert(self, Capture { thread: std::thread::current().id(), work: vec![] });
        Some(())
    }

    /// What `call` does, unless the stream is being captured.
    pub(crate) fn uncaptured(self, call: impl FnOnce() -> Code) -> Code {
        if self.is_captured() { CAPTURE_UNSUPPORTED } else { call() }
    }
}

/// `code`, unless this thread is capturing a stream: what concerns the whole device is not allowed then.
pub(crate) fn outside_capture(code: Code) -> Code {
    let thread = std::thread::current().id();
    if captures().values().any(|capture| capture.thread == thread) { CAPTURE_UNSUPPORTED } else { code }
}

/// # Safety
///
/// `stream` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut Stream, _flags: c_uint) -> Code {
    // SAFETY: the caller's promise.
    unsafe { stream.write(Stream(NEXT.fetch_add(1, Ordering::Relaxed))) };
    outside_capture(SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(_stream: Stream) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Stream) -> Code {
    stream.uncaptured(|| SUCCESS)
}

/// # Safety
///
/// `event` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut Event, _flags: c_uint) -> Code {
    // SAFETY: the caller's promise.
    unsafe { event.write(Event(NEXT.fetch_add(1, Ordering::Relaxed))) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Event) -> Code {
    events().remove(&event);
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Event, stream: Stream) -> Code {
    events().insert(event, stream.is_captured().then_some(stream));
    SUCCESS
}

/// All that was asked for is done, so there is nothing to wait for; but a captured stream may not wait for what is not of
/// its capture, nor another one for what is.
#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Stream, event: Event, _flags: c_uint) -> Code {
    let captured = stream.is_captured().then_some(stream);
    match events().get(&event) {
        Some(recorded) if *recorded != captured => CAPTURE_ISOLATION,
        _ => SUCCESS,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: Event) -> Code {
    if event.0 == 0 { INVALID_HANDLE } else { SUCCESS }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Event) -> Code {
    if event.0 == 0 { INVALID_HANDLE } else { outside_capture(SUCCESS) }
}

/// # Safety
///
/// `status` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: Stream, status: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { status.write(stream.is_captured().into()) };
    SUCCESS
}
