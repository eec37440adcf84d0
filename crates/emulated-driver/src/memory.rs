//! Memory of the device, and copies.

use std::ffi::{c_uchar, c_void};
use std::sync::LazyLock;

use ptx_emulator::{Memory, MemoryError};

use crate::codes::{Code, INVALID_VALUE, LAUNCH_FAILED, OUT_OF_MEMORY, SUCCESS};
use crate::streams::{Stream, outside_capture};

pub(crate) static MEMORY: LazyLock<Memory> = LazyLock::new(Memory::new);

/// What an error of the emulator is to a program; its text goes to the standard error.
pub(crate) fn failed(error: &dyn std::error::Error) -> Code {
    eprintln!("emulated driver: {error}");
    LAUNCH_FAILED
}

fn done(result: Result<(), MemoryError>) -> Code {
    result.map_or_else(|error| failed(&error), |()| SUCCESS)
}

/// # Safety
///
/// `address` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Stream) -> Code {
    stream.uncaptured(|| match MEMORY.allocate("device memory", bytes as u64) {
        Ok(found) => {
            // SAFETY: the caller's promise.
            unsafe { address.write(found) };
            SUCCESS
        }
        Err(_) => OUT_OF_MEMORY,
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: Stream) -> Code {
    stream.uncaptured(|| MEMORY.free(address).map_or(INVALID_VALUE, |()| SUCCESS))
}

/// # Safety
///
/// `from` is valid for reads of `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Stream,
) -> Code {
    // SAFETY: the caller's promise.
    let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
    stream.uncaptured(|| done(MEMORY.write(to, from)))
}

/// # Safety
///
/// `to` is valid for writes of `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Stream) -> Code {
    stream.uncaptured(|| match MEMORY.read(from, bytes as u64) {
        Ok(read) => {
            // SAFETY: the caller's promise; as many bytes were read.
            unsafe { to.cast::<u8>().copy_from_nonoverlapping(read.as_ptr(), bytes) };
            SUCCESS
        }
        Err(error) => failed(&error),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Stream) -> Code {
    stream.uncaptured(|| done(MEMORY.read(from, bytes as u64).and_then(|read| MEMORY.write(to, &read))))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, bytes: usize, stream: Stream) -> Code {
    stream.uncaptured(|| done(MEMORY.write(to, &vec![value; bytes])))
}

/// # Safety
///
/// `free` and `total` are valid for one write each.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    const ALL: usize = 80 << 30;
    // SAFETY: the caller's promise.
    unsafe {
        free.write(ALL);
        total.write(ALL);
    }
    outside_capture(SUCCESS)
}
