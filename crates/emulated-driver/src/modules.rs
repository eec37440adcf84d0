//! Modules, kernels and their launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ptx_emulator::{Arg, Launch, Module};

use crate::calls::SHARED_MEMORY;
use crate::codes::{
    CAPTURE_UNSUPPORTED, Code, INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, SUCCESS,
};
use crate::memory::{MEMORY, failed};
use crate::streams::{Stream, captures, outside_capture};

/// A module, until it is unloaded.
pub(crate) struct Loaded {
    module: Module,
    unloaded: AtomicBool,
}

/// A kernel. It stays for good: a program may hold on to it past its module, which is told.
pub(crate) struct Function {
    loaded: Arc<Loaded>,
    entry: String,
    /// Bytes of each parameter.
    parameters: Vec<u64>,
    /// Bytes of shared memory that it declares, and how many more a launch may give it.
    declared: u32,
    leave: AtomicU32,
}

/// Bytes of shared memory that need no leave, those that a kernel declares among them.
const WITHOUT_LEAVE: u32 = 48 << 10;

/// Attributes of a kernel.
const DECLARED: c_int = 1;
const LEAVE: c_int = 8;

/// A function of the program's own, which is given a pointer of its own.
type HostFunction = unsafe extern "C" fn(*mut c_void);

/// What waits for its turn in a stream.
#[derive(Clone)]
pub(crate) enum Work {
    /// A launch, with its arguments as they were then.
    Kernel { function: &'static Function, launch: Launch, arguments: Vec<Arg> },
    /// A call on the host, with the address of what it is given.
    Host { function: HostFunction, data: usize },
}

impl Work {
    /// # Safety
    ///
    /// A function on the host may be called with its data.
    pub(crate) unsafe fn run(&self) -> Code {
        match self {
            Work::Kernel { function, launch, arguments } => {
                let Function { loaded, entry, .. } = function;
                if loaded.unloaded.load(Ordering::Acquire) {
                    return INVALID_HANDLE;
                }
                let run = loaded.module.launch(entry, launch, arguments, &MEMORY);
                run.map_or_else(|error| failed(&error), |_| SUCCESS)
            }
            Work::Host { function, data } => {
                // SAFETY: the caller's promise.
                unsafe { function(std::ptr::with_exposed_provenance_mut(*data)) };
                SUCCESS
            }
        }
    }

    /// Puts it into a stream: runs it, or keeps it where the stream is being captured.
    ///
    /// # Safety
    ///
    /// As [`Work::run`], for as long as a graph has it.
    unsafe fn start(self, stream: Stream) -> Code {
        if let Some(capture) = captures().get_mut(&stream) {
            capture.work.push(self);
            return SUCCESS;
        }
        // SAFETY: the caller's promise.
        unsafe { self.run() }
    }
}

/// # Safety
///
/// `function` may be called with `data`, now and whenever a graph runs that this was captured into.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchHostFunc(
    stream: Stream,
    function: Option<HostFunction>,
    data: *mut c_void,
) -> Code {
    let Some(function) = function else {
        return INVALID_VALUE;
    };
    // SAFETY: the caller's promise.
    unsafe { Work::Host { function, data: data.expose_provenance() }.start(stream) }
}

/// # Safety
///
/// `module` is valid for one write, and `image` is a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut *const Loaded, image: *const c_void) -> Code {
    if outside_capture(SUCCESS) != SUCCESS {
        return CAPTURE_UNSUPPORTED;
    }
    // SAFETY: the caller's promise.
    let Ok(source) = unsafe { CStr::from_ptr(image.cast()) }.to_str() else {
        return INVALID_PTX;
    };
    match Module::load(source, &MEMORY) {
        Ok(loaded) => {
            let loaded = Arc::new(Loaded { module: loaded, unloaded: AtomicBool::new(false) });
            // SAFETY: the caller's promise.
            unsafe { module.write(Arc::into_raw(loaded)) };
            SUCCESS
        }
        Err(error) => {
            failed(&error);
            INVALID_PTX
        }
    }
}

/// # Safety
///
/// `module` is one that was loaded, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(module: *const Loaded) -> Code {
    // SAFETY: it came from `Arc::into_raw` and is given back once.
    unsafe { Arc::from_raw(module) }.unloaded.store(true, Ordering::Release);
    SUCCESS
}

/// # Safety
///
/// `function` is valid for one write, `module` is loaded, and `name` is a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *const Function,
    module: *const Loaded,
    name: *const c_char,
) -> Code {
    // SAFETY: the module is loaded, so that its count is at least one: this one is added to it.
    let loaded = unsafe {
        Arc::increment_strong_count(module);
        Arc::from_raw(module)
    };
    // SAFETY: the caller's promise.
    let entry = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let (Some(parameters), Some(declared)) =
        (loaded.module.parameters(&entry), loaded.module.shared_bytes(&entry))
    else {
        return NOT_FOUND;
    };
    let declared = declared as u32;
    let leave = WITHOUT_LEAVE.saturating_sub(declared).into();
    let found = Box::leak(Box::new(Function { loaded, entry, parameters, declared, leave }));
    // SAFETY: the caller's promise.
    unsafe { function.write(found) };
    SUCCESS
}

/// # Safety
///
/// `value` is valid for one write, and `function` came from `cuModuleGetFunction`.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: *const Function,
) -> Code {
    // SAFETY: functions are never freed.
    let Some(function) = (unsafe { function.as_ref::<'static>() }) else {
        return INVALID_HANDLE;
    };
    if attribute != DECLARED {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe { value.write(function.declared as c_int) };
    outside_capture(SUCCESS)
}

/// # Safety
///
/// `function` came from `cuModuleGetFunction`.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(function: *const Function, attribute: c_int, value: c_int) -> Code {
    // SAFETY: functions are never freed.
    let Some(function) = (unsafe { function.as_ref::<'static>() }) else {
        return INVALID_HANDLE;
    };
    match u32::try_from(value) {
        Ok(leave) if attribute == LEAVE && function.declared + leave <= SHARED_MEMORY => {
            function.leave.store(leave, Ordering::Release);
            outside_capture(SUCCESS)
        }
        _ => INVALID_VALUE,
    }
}

/// # Safety
///
/// `function` came from `cuModuleGetFunction`, and `parameters` points to as many pointers as it has parameters, each to as
/// many bytes as that parameter has.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: *const Function,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Stream,
    parameters: *const *const c_void,
    _extra: *const *const c_void,
) -> Code {
    // SAFETY: functions are never freed.
    let Some(function) = (unsafe { function.as_ref::<'static>() }) else {
        return INVALID_HANDLE;
    };
    if parameters.is_null() || shared > function.leave.load(Ordering::Acquire) {
        return INVALID_VALUE;
    }
    let arguments = function.parameters.iter().enumerate().map(|(i, &bytes)| {
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts((*parameters.add(i)).cast::<u8>(), bytes as usize) };
        Arg::Bytes(bytes.to_vec())
    });
    let mut launch = Launch::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    launch.dynamic_shared = shared;
    launch.shared_limit = SHARED_MEMORY;
    // SAFETY: it is no function on the host.
    unsafe { Work::Kernel { function, launch, arguments: arguments.collect() }.start(stream) }
}
