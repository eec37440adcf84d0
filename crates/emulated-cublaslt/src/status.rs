//! The library's results, by the numbers of its interface; its version and its handle.

use std::ffi::{c_char, c_int};
use std::fmt::Display;

use crate::driver;

pub(crate) type Status = c_int;

pub(crate) const SUCCESS: Status = 0;
pub(crate) const NOT_INITIALIZED: Status = 1;
pub(crate) const INVALID_VALUE: Status = 7;
pub(crate) const EXECUTION_FAILED: Status = 13;
pub(crate) const NOT_SUPPORTED: Status = 15;

/// Says what is wrong with a call, and gives its status.
pub(crate) fn wrong(status: Status, what: impl Display) -> Status {
    eprintln!("emulated cuBLASLt: {what}");
    status
}

/// That of CUDA 12.4, as the emulated driver is; the variable is for tests.
#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    let asked = std::env::var("EMULATED_CUBLASLT_VERSION").ok().and_then(|version| version.parse().ok());
    asked.unwrap_or(120_405)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusName(status: Status) -> *const c_char {
    let name = match status {
        SUCCESS => c"CUBLAS_STATUS_SUCCESS",
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// There is nothing in a handle.
pub(crate) struct Handle(u64);

const MAGIC: u64 = 0x6c74_6861_6e64_6c65;

/// Whether a handle is one, and a context is current.
///
/// # Safety
///
/// `handle` is null, or came from `cublasLtCreate` and was not destroyed.
pub(crate) unsafe fn usable(handle: *const Handle) -> bool {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.is_some_and(|handle| handle.0 == MAGIC) && driver::has_context()
}

/// # Safety
///
/// `handle` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(handle: *mut *mut Handle) -> Status {
    if !driver::has_context() {
        return wrong(NOT_INITIALIZED, "no context is current");
    }
    // SAFETY: the caller's promise.
    unsafe { handle.write(Box::into_raw(Box::new(Handle(MAGIC)))) };
    SUCCESS
}

/// # Safety
///
/// `handle` came from `cublasLtCreate`, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtDestroy(handle: *mut Handle) -> Status {
    // SAFETY: it came from `Box::into_raw` and is given back once.
    drop(unsafe { Box::from_raw(handle) });
    SUCCESS
}
