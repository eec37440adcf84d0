//! The driver, found as programs find it.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::LazyLock;

use libloading::Library;

/// A stream, as the driver has it.
pub(crate) type Stream = *mut c_void;

/// What a stream is given to do on the host.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

struct Driver {
    current: unsafe extern "C" fn(*mut *mut c_void) -> c_int,
    download: unsafe extern "C" fn(*mut c_void, u64, usize, Stream) -> c_int,
    upload: unsafe extern "C" fn(u64, *const c_void, usize, Stream) -> c_int,
    capturing: unsafe extern "C" fn(Stream, *mut c_int) -> c_int,
    launch: unsafe extern "C" fn(Stream, HostFunction, *mut c_void) -> c_int,
    _library: Library,
}

static DRIVER: LazyLock<Option<Driver>> = LazyLock::new(|| {
    fn symbol<T: Copy>(library: &Library, name: &str) -> Option<T> {
        // SAFETY: the fields have the types of these functions.
        unsafe { library.get::<T>(name) }.ok().map(|symbol| *symbol)
    }
    // SAFETY: the program has it already.
    let library = unsafe { Library::new("libcuda.so") }.ok()?;
    Some(Driver {
        current: symbol(&library, "cuCtxGetCurrent")?,
        download: symbol(&library, "cuMemcpyDtoHAsync_v2")?,
        upload: symbol(&library, "cuMemcpyHtoDAsync_v2")?,
        capturing: symbol(&library, "cuStreamIsCapturing")?,
        launch: symbol(&library, "cuLaunchHostFunc")?,
        _library: library,
    })
});

/// Nothing, or the number of the driver's error.
pub(crate) type Result<T = ()> = std::result::Result<T, String>;

fn done(code: c_int) -> Result {
    if code == 0 { Ok(()) } else { Err(format!("the driver says {code}")) }
}

fn driver() -> Result<&'static Driver> {
    DRIVER.as_ref().ok_or_else(|| "there is no emulated driver".to_owned())
}

/// Whether a context is current in this thread.
pub(crate) fn has_context() -> bool {
    let mut context = null_mut();
    // SAFETY: the driver writes one pointer.
    driver().is_ok_and(|driver| unsafe { (driver.current)(&mut context) } == 0 && !context.is_null())
}

pub(crate) fn read(address: u64, bytes: &mut [u8], stream: Stream) -> Result {
    // SAFETY: there is room for as many bytes as are said.
    done(unsafe { (driver()?.download)(bytes.as_mut_ptr().cast(), address, bytes.len(), stream) })
}

pub(crate) fn write(address: u64, bytes: &[u8], stream: Stream) -> Result {
    // SAFETY: there are as many bytes as are said.
    done(unsafe { (driver()?.upload)(address, bytes.as_ptr().cast(), bytes.len(), stream) })
}

pub(crate) fn is_capturing(stream: Stream) -> Result<bool> {
    let mut status = 0;
    // SAFETY: the driver writes one number.
    done(unsafe { (driver()?.capturing)(stream, &mut status) })?;
    Ok(status != 0)
}

/// # Safety
///
/// `function` may be called with `data` whenever the stream, or a graph that this is captured into, comes to it.
pub(crate) unsafe fn launch(stream: Stream, function: HostFunction, data: *mut c_void) -> Result {
    // SAFETY: the caller's promise.
    done(unsafe { (driver()?.launch)(stream, function, data) })
}
