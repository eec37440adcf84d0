//! The real driver, by cudarc.

mod library;
mod products;

use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, OnceLock};

pub(crate) use products::{Operands, Product};

use ::cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute, CUresult};
use ::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use ::cudarc::nvrtc::Ptx;

use self::products::{CublasLt, Workspace};
use crate::cuda::driver::{Driver, Kernel, Memory, Queue};
use crate::cuda::limits::Limits;
use crate::cuda::modules::Module;
use crate::cuda::plan::{Launch, Params};
use crate::gpu::lock;
use crate::{Error, Result};

/// A stream of a CUDA device.
pub(crate) struct Cuda {
    stream: Arc<CudaStream>,
    name: String,
    limits: Limits,
    modules: Arc<Modules>,
    /// NVIDIA's library, or why it cannot be used: opened where it is first wanted.
    cublaslt: Arc<OnceLock<Result<CublasLt, String>>>,
    workspace: OnceLock<Workspace>,
}

/// The modules that were loaded into a context.
type Modules = Mutex<HashMap<&'static str, Arc<CudaModule>>>;

impl Cuda {
    /// How many devices the driver has.
    pub(crate) fn count() -> Result<usize> {
        probe()?;
        let count = CudaContext::device_count().map_err(|error| unavailable(describe(error)))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The default stream of a device.
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        let count = Cuda::count()?;
        if ordinal >= count {
            return Err(unavailable(format!("there is no device {ordinal}: the driver has {count}")));
        }
        let context = CudaContext::new(ordinal).map_err(|error| unavailable(describe(error)))?;
        Cuda::new(context.default_stream())
    }

    /// A stream of the caller's.
    pub(crate) fn new(stream: Arc<CudaStream>) -> Result<Self> {
        check_version()?;
        let context = stream.context();
        let ask = |attribute| {
            let value = context.attribute(attribute).map_err(|error| refused("to tell a property", error))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let name = context.name().map_err(|error| refused("to tell its name", error))?;
        use CUdevice_attribute as A;
        let capability = [
            ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ];
        if capability[0] < 8 {
            let [major, minor] = capability;
            return Err(unavailable(format!(
                "{name} has compute capability {major}.{minor}, and the kernels are made for 8.0 (Ampere) and newer"
            )));
        }
        let limits = Limits {
            capability,
            multiprocessors: ask(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: ask(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            blocks: ask(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
        };
        Ok(Cuda {
            stream,
            name,
            limits,
            modules: Arc::default(),
            cublaslt: Arc::default(),
            workspace: OnceLock::new(),
        })
    }

    /// Another stream of the same context, with the same modules and library.
    pub(crate) fn on(&self, stream: Arc<CudaStream>) -> Result<Self> {
        if stream.context() != self.stream.context() {
            let (expected, got) = (self.name.clone(), "a stream of another context".to_owned());
            return Err(Error::Device { tensor: "the stream", expected, got });
        }
        let Cuda { name, limits, modules, cublaslt, .. } = self;
        Ok(Cuda {
            stream,
            name: name.clone(),
            limits: *limits,
            modules: modules.clone(),
            cublaslt: cublaslt.clone(),
            workspace: OnceLock::new(),
        })
    }

    /// Whether the stream is the default stream of the thread that calls, another one in every thread.
    pub(crate) fn is_per_thread(&self) -> bool {
        // What the driver calls CU_STREAM_PER_THREAD.
        self.stream.cu_stream() as usize == 2
    }

    fn module(&self, module: &Module) -> Result<Arc<CudaModule>> {
        let mut modules = lock(&self.modules);
        if let Some(loaded) = modules.get(module.name) {
            return Ok(loaded.clone());
        }
        let loaded = self.stream.context().load_module(Ptx::from_src(module.ptx()?));
        let loaded = loaded.map_err(|error| refused(module.name, error))?;
        Ok(modules.entry(module.name).insert_entry(loaded).get().clone())
    }
}

impl Driver for Cuda {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn allocate(&self, what: &'static str, bytes: usize) -> Result<Box<dyn Memory>> {
        // Not every driver grants an allocation of nothing.
        let len = bytes.max(1);
        // SAFETY: nothing reads the memory before it is written: tensors are cleared or overwritten, the outputs of
        // operators too.
        let slice = unsafe { self.stream.alloc::<u8>(len) };
        match slice {
            Ok(slice) => Ok(Box::new(slice)),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(Error::OutOfMemory { what, bytes }),
            Err(error) => Err(refused(what, error)),
        }
    }

    fn kernel(&self, launch: &Launch) -> Result<Arc<dyn Kernel>> {
        use CUfunction_attribute as A;
        let entry = launch.entry;
        let refused = |error| refused(entry, error);
        let function = self.module(launch.module)?.load_function(entry).map_err(refused)?;
        // To ask for a property has the driver load the kernel now, which it would put off to the first launch: that one
        // may be part of a graph capture, which allows no loading.
        let declared = function.get_attribute(A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES).map_err(refused)?;
        if launch.shared > 0 {
            // More than 48 KiB need the host's leave.
            let left = i32::try_from(self.limits.shared_memory).unwrap_or(i32::MAX) - declared;
            let leave = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(leave, left).map_err(refused)?;
        }
        Ok(Arc::new(Function { entry, function }))
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| refused("to wait", error))
    }

    fn queue(&self) -> Queue<'_> {
        Queue::Cuda(&self.stream)
    }
}

struct Function {
    entry: &'static str,
    function: CudaFunction,
}

impl Kernel for Function {
    unsafe fn launch(&self, queue: Queue<'_>, launch: &Launch, addresses: &[u64]) -> Result<()> {
        #[cfg_attr(not(feature = "emulator"), expect(irrefutable_let_patterns))]
        let Queue::Cuda(stream) = queue else {
            let (expected, got) = ("a CUDA stream".to_owned(), "the emulator".to_owned());
            return Err(Error::Device { tensor: "the queue", expected, got });
        };
        let mut call = stream.launch_builder(&self.function);
        for address in addresses {
            call.arg(address);
        }
        // The driver copies as much of it as the kernel's parameter has, which is no more than there is.
        let words: &[u64; Params::CAPACITY] = launch.params.words();
        call.arg(words);
        let config = LaunchConfig {
            grid_dim: (launch.grid, 1, 1),
            block_dim: (launch.block, 1, 1),
            shared_mem_bytes: launch.shared,
        };
        // SAFETY: the addresses and the parameters are in the order of the kernel's own; that the memory is there and
        // nobody else's is the caller's promise.
        unsafe { call.launch(config) }.map(drop).map_err(|error| refused(self.entry, error))
    }
}

impl Memory for CudaSlice<u8> {
    fn clear(&mut self) -> Result<()> {
        let stream = self.stream().clone();
        stream.memset_zeros(self).map_err(|error| refused("to clear memory", error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream().clone();
        let mut part = self.slice_mut(..bytes.len());
        stream.memcpy_htod(bytes, &mut part).map_err(|error| refused("an upload", error))?;
        // The copy may still read `bytes`.
        stream.synchronize().map_err(|error| refused("an upload", error))
    }

    fn read(&self, bytes: &mut [u8]) -> Result<()> {
        let stream = self.stream();
        let part = self.slice(..bytes.len());
        stream.memcpy_dtoh(&part, bytes).map_err(|error| refused("a download", error))?;
        stream.synchronize().map_err(|error| refused("a download", error))
    }
}

/// An error unless the driver's library can be loaded and is one: cudarc panics otherwise.
fn probe() -> Result<()> {
    // In the order in which cudarc looks for it.
    let names: &[&str] =
        if cfg!(windows) { &["cuda.dll", "nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };
    // SAFETY: what runs when the driver's library is loaded is the driver's own initialisation.
    let load = |name: &&str| unsafe { ::libloading::Library::new(*name) }.ok();
    let Some(library) = names.iter().find_map(load) else {
        let names = names.join(" nor ");
        return Err(unavailable(format!("there is no NVIDIA driver: neither {names} can be loaded")));
    };
    for symbol in ["cuInit", "cuDriverGetVersion"] {
        // SAFETY: the symbol is looked for, and not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(symbol) }.is_err() {
            return Err(unavailable(format!(
                "the library in the place of the NVIDIA driver has no {symbol}"
            )));
        }
    }
    check_version()
}

/// The CUDA version whose PTX the kernels are written in: 12.4, PTX 8.4.
const VERSION: c_int = 12_040;

/// An error unless the driver reads the PTX of the kernels.
fn check_version() -> Result<()> {
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| unavailable(describe(error)))?;
    if version < VERSION {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(unavailable(format!(
            "the driver is made for CUDA {major}.{minor}, and the kernels need 12.4: a driver of series 550 or newer"
        )));
    }
    Ok(())
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { backend: "cuda", reason }
}

/// `CUDA_ERROR_CONTAINED`, to which toolkits before 12.8, and cudarc where it is built beside one, have no name.
const CONTAINED: u32 = 226;

/// The error for what the driver will not do. What a kernel did wrong is told late, by whatever call comes next, and the
/// device is of no use from then on.
fn refused(what: &'static str, error: DriverError) -> Error {
    use CUresult as R;
    match error.0 {
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_UNKNOWN
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | R::CUDA_ERROR_DEINITIALIZED => Error::DeviceLost { reason: describe(error) },
        other if other as u32 == CONTAINED => Error::DeviceLost { reason: describe(error) },
        _ => Error::Driver { what, reason: describe(error) },
    }
}

/// What the driver calls an error, and what it says of it.
fn describe(error: DriverError) -> String {
    if error.0 == CUresult::CUDA_ERROR_STUB_LIBRARY {
        return "the toolkit's stub library was found in the place of the driver's".to_owned();
    }
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{}, {}", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("{:?}", error.0),
    }
}
