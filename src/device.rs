//! Where tensors live and operators run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Result;
use crate::cpu::ScratchPool;
#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(feature = "wgpu")]
use crate::wgpu::Gpu;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// The processor.
    Cpu,
    /// A GPU by Vulkan, Metal or DX12.
    Wgpu,
    /// An NVIDIA GPU.
    Cuda,
    /// The kernels for NVIDIA GPUs on the processor, with every access checked: a tester, and slow.
    CudaEmulated,
}

impl Backend {
    /// Every kind, the fastest first.
    pub const ALL: [Backend; 4] = [Backend::Cuda, Backend::Wgpu, Backend::Cpu, Backend::CudaEmulated];

    const fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Wgpu => "wgpu",
            Backend::Cuda => "cuda",
            Backend::CudaEmulated => "cuda-emulated",
        }
    }

    /// The error for what this build does not have.
    #[cfg(not(all(feature = "emulator", feature = "wgpu")))]
    fn without(self) -> crate::Error {
        let feature = match self {
            Backend::CudaEmulated => "emulator",
            other => other.name(),
        };
        let reason = format!("this build of lightspan is without the feature {feature:?}");
        crate::Error::Unavailable { backend: self.name(), reason }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Backend::ALL.into_iter().find(|backend| backend.name() == name).ok_or_else(|| {
            format!("no backend is called {name:?}: there are cuda, wgpu, cpu and cuda-emulated")
        })
    }
}

/// A place where tensors live and operators run. Cheap to clone; clones are the same device.
///
/// A device may be used from any number of threads.
#[derive(Clone)]
pub struct Device {
    room: Room,
}

/// The backend behind a device. The set is closed: operators match on it.
#[derive(Clone)]
pub(crate) enum Room {
    Cpu(Arc<ScratchPool>),
    #[cfg(feature = "wgpu")]
    Wgpu(Gpu),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Gpu),
}

impl Device {
    /// The processor: always there.
    pub fn cpu() -> Self {
        Device { room: Room::Cpu(Arc::default()) }
    }

    /// The fastest device of this machine that this build knows: an NVIDIA GPU by CUDA, or else a GPU by wgpu (not a
    /// software adapter), or else the processor. To see why a GPU was not taken, [open](Device::open) it.
    pub fn best() -> Self {
        let gpu = [Backend::Cuda, Backend::Wgpu].into_iter().find_map(|backend| Device::open(backend).ok());
        gpu.unwrap_or_else(Device::cpu)
    }

    /// A device of the given kind.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where this build or this machine has none.
    pub fn open(backend: Backend) -> Result<Self> {
        match backend {
            Backend::Cpu => Ok(Device::cpu()),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => Device::wgpu(),
            #[cfg(not(feature = "wgpu"))]
            Backend::Wgpu => Err(backend.without()),
            #[cfg(feature = "cuda")]
            Backend::Cuda => Device::cuda(0),
            #[cfg(not(feature = "cuda"))]
            Backend::Cuda => Err(backend.without()),
            #[cfg(feature = "emulator")]
            Backend::CudaEmulated => Ok(Device::cuda_emulated()),
            #[cfg(not(feature = "emulator"))]
            Backend::CudaEmulated => Err(backend.without()),
        }
    }

    /// Which kind of device it is.
    pub fn backend(&self) -> Backend {
        match self.room {
            Room::Cpu(_) => Backend::Cpu,
            #[cfg(feature = "wgpu")]
            Room::Wgpu(_) => Backend::Wgpu,
            #[cfg(feature = "cuda")]
            Room::Cuda(ref gpu) if gpu.is_emulated() => Backend::CudaEmulated,
            #[cfg(feature = "cuda")]
            Room::Cuda(_) => Backend::Cuda,
        }
    }

    /// Waits until everything that was started on the device is done.
    ///
    /// # Errors
    ///
    /// None on the CPU, where a call returns when its work is done; a GPU may be lost.
    pub fn synchronize(&self) -> Result<()> {
        match &self.room {
            Room::Cpu(_) => Ok(()),
            #[cfg(feature = "wgpu")]
            Room::Wgpu(gpu) => gpu.synchronize(),
            #[cfg(feature = "cuda")]
            Room::Cuda(gpu) => gpu.synchronize(),
        }
    }

    /// The room of a wgpu device, for calls on buffers of your own beside its tensors.
    #[cfg(feature = "wgpu")]
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.room {
            Room::Wgpu(gpu) => Some(gpu),
            _ => None,
        }
    }

    /// The room of a CUDA device, for calls on memory of your own beside its tensors.
    #[cfg(feature = "cuda")]
    pub fn cuda_gpu(&self) -> Option<&cuda::Gpu> {
        match &self.room {
            Room::Cuda(gpu) => Some(gpu),
            _ => None,
        }
    }

    pub(crate) fn room(&self) -> &Room {
        &self.room
    }
}

/// What a future gives, waited for where that can be done: not in a browser.
pub(crate) fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    #[cfg(all(feature = "wgpu", not(target_arch = "wasm32")))]
    return pollster::block_on(future);
    #[cfg(not(all(feature = "wgpu", not(target_arch = "wasm32"))))]
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => Err(crate::Error::Unavailable {
            backend: Backend::Wgpu.name(),
            reason: "a browser does not wait for its device: use the async form of the call".to_owned(),
        }),
    }
}

/// Devices by wgpu. (Where a constructor waits for the driver, its twin for browsers does not.)
#[cfg(feature = "wgpu")]
impl Device {
    /// The best GPU that has a driver for Vulkan, Metal or DX12. A software adapter is opened only by its name, since
    /// [`Device::cpu`] is faster: see [`Device::wgpu_named`]. The environment variable `WGPU_ADAPTER_NAME` is such a name.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is none; the message lists what there is.
    pub fn wgpu() -> Result<Self> {
        wait(Device::wgpu_async())
    }

    /// [`Device::wgpu`] for browsers, which do not wait.
    ///
    /// # Errors
    ///
    /// As [`Device::wgpu`].
    pub async fn wgpu_async() -> Result<Self> {
        Ok(Device { room: Room::Wgpu(Gpu::open().await?) })
    }

    /// The first adapter whose name contains `name`, upper or lower case: `"llvmpipe"` is Mesa's software Vulkan.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is none; the message lists what there is.
    pub fn wgpu_named(name: &str) -> Result<Self> {
        wait(Device::wgpu_named_async(name))
    }

    /// [`Device::wgpu_named`] for browsers, which do not wait.
    ///
    /// # Errors
    ///
    /// As [`Device::wgpu_named`].
    pub async fn wgpu_named_async(name: &str) -> Result<Self> {
        Ok(Device { room: Room::Wgpu(Gpu::open_named(name).await?) })
    }

    /// A device that is yours. Nothing is registered on it, and its limits are kept.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) where it is lost already.
    pub fn from_wgpu(device: ::wgpu::Device, queue: ::wgpu::Queue) -> Result<Self> {
        Ok(Device { room: Room::Wgpu(Gpu::new(device, queue)?) })
    }
}

/// Devices by CUDA.
#[cfg(feature = "cuda")]
impl Device {
    /// The NVIDIA GPU of that number, the first being 0, with its default stream.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is no driver, no such device, or one that is older
    /// than the kernels: the message says what is missing.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device { room: Room::Cuda(cuda::Gpu::open(ordinal)?) })
    }

    /// A stream that is yours.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where the driver or the device is older than the kernels, and for the
    /// per-thread default stream: tensors go from thread to thread, and that stream is another one in each.
    pub fn from_cuda(stream: Arc<cuda::cudarc::driver::CudaStream>) -> Result<Self> {
        let gpu = cuda::Gpu::new(stream)?;
        if gpu.is_per_thread() {
            let reason = "the per-thread default stream is another one in every thread, and tensors go from thread to thread";
            return Err(crate::Error::Unavailable { backend: "cuda", reason: reason.to_owned() });
        }
        Ok(Device { room: Room::Cuda(gpu) })
    }

    /// The same device, on whose new tensors operators make plain products so: see [`cuda::Gpu::with_products`]. Any other kind of
    /// device stays as it is.
    pub fn with_products(self, products: cuda::Products) -> Self {
        match self.room {
            Room::Cuda(gpu) => Device { room: Room::Cuda(gpu.with_products(products)) },
            room => Device { room },
        }
    }

    /// A device that runs the CUDA kernels on the processor and checks every access: slow, and no model of time.
    #[cfg(feature = "emulator")]
    #[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
    pub fn cuda_emulated() -> Self {
        Device { room: Room::Cuda(cuda::Gpu::emulated()) }
    }

    /// The same with what another device has: see [`cuda::Gpu::emulated_with`].
    #[cfg(feature = "emulator")]
    #[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
    pub fn cuda_emulated_with(limits: cuda::Limits) -> Self {
        Device { room: Room::Cuda(cuda::Gpu::emulated_with(limits)) }
    }
}

/// Whether tensors of one may be used with those of the other in one call: a device that is opened twice is two.
impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.room, &other.room) {
            (Room::Cpu(_), Room::Cpu(_)) => true,
            #[cfg(feature = "wgpu")]
            (Room::Wgpu(one), Room::Wgpu(other)) => one == other,
            #[cfg(feature = "cuda")]
            (Room::Cuda(one), Room::Cuda(other)) => one == other,
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => false,
        }
    }
}

impl Eq for Device {}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.room {
            Room::Cpu(_) => write!(f, "cpu ({} threads)", rayon::current_num_threads()),
            #[cfg(feature = "wgpu")]
            Room::Wgpu(gpu) => write!(f, "wgpu ({})", gpu.name()),
            #[cfg(feature = "cuda")]
            Room::Cuda(gpu) if gpu.is_emulated() => f.write_str("cuda-emulated (PTX on the CPU)"),
            #[cfg(feature = "cuda")]
            Room::Cuda(gpu) => write!(f, "cuda ({})", gpu.name()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self})")
    }
}
