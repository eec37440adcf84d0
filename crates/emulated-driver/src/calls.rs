//! The device and its one context.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::codes::{Code, INVALID_DEVICE, INVALID_VALUE, SUCCESS};

/// The address of the one context: it has nothing in it.
const CONTEXT: *mut c_void = std::ptr::without_provenance_mut(16);

thread_local! {
    static CURRENT: Cell<*mut c_void> = const { Cell::new(std::ptr::null_mut()) };
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> Code {
    SUCCESS
}

/// CUDA 12.4.
///
/// # Safety
///
/// `version` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { version.write(12_040) };
    SUCCESS
}

/// # Safety
///
/// `count` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { count.write(1) };
    SUCCESS
}

/// # Safety
///
/// `device` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    if ordinal != 0 {
        return INVALID_DEVICE;
    }
    // SAFETY: the caller's promise.
    unsafe { device.write(0) };
    SUCCESS
}

/// # Safety
///
/// `name` is valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) -> Code {
    let text = c"no GPU: ptx-emulator";
    if usize::try_from(len).is_ok_and(|len| len > text.count_bytes()) {
        // SAFETY: the caller's promise, and the text fits.
        unsafe { name.copy_from(text.as_ptr(), text.count_bytes() + 1) };
        return SUCCESS;
    }
    INVALID_VALUE
}

/// Bytes of shared memory that a block may have.
pub(crate) const SHARED_MEMORY: u32 = 163 << 10;

/// Those of an A100, for which the kernels are compiled.
///
/// # Safety
///
/// `value` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> Code {
    let found = match attribute {
        // Blocks of a grid along x.
        5 => i32::MAX,
        // Multiprocessors.
        16 => 108,
        // Compute capability, major and minor.
        75 => 8,
        76 => 0,
        // Shared memory that a block may opt in to.
        97 => SHARED_MEMORY as c_int,
        // Pools of memory.
        115 => 1,
        _ => return INVALID_VALUE,
    };
    // SAFETY: the caller's promise.
    unsafe { value.write(found) };
    SUCCESS
}

/// # Safety
///
/// `context` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { context.write(CONTEXT) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Code {
    CURRENT.set(context);
    SUCCESS
}

/// # Safety
///
/// `context` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Code {
    // SAFETY: the caller's promise.
    unsafe { context.write(CURRENT.get()) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> Code {
    crate::streams::outside_capture(SUCCESS)
}
