//! Where tensors live and operators run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::cpu::ScratchPool;
#[cfg(feature = "wgpu")]
use crate::wgpu::Gpu;
use crate::{Error, Result};

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
}

impl Backend {
    /// Every kind, the fastest first.
    pub const ALL: [Backend; 3] = [Backend::Cuda, Backend::Wgpu, Backend::Cpu];

    const fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Wgpu => "wgpu",
            Backend::Cuda => "cuda",
        }
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
        Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| format!("no backend is called {name:?}: there are cpu, wgpu and cuda"))
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
}

impl Device {
    /// The processor: always there.
    pub fn cpu() -> Self {
        Device { room: Room::Cpu(Arc::default()) }
    }

    /// The fastest device of this machine that this build knows.
    pub fn best() -> Self {
        Backend::ALL.into_iter().find_map(|backend| Device::open(backend).ok()).unwrap_or_else(Device::cpu)
    }

    /// A device of the given kind.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where this build or this machine has none.
    pub fn open(backend: Backend) -> Result<Self> {
        match backend {
            Backend::Cpu => Ok(Device::cpu()),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => Device::wgpu(),
            #[cfg(not(feature = "wgpu"))]
            Backend::Wgpu => Err(Error::Unavailable {
                backend: backend.name(),
                reason: "this build of lightspan is without the feature \"wgpu\"".to_owned(),
            }),
            Backend::Cuda => Err(Error::Unavailable {
                backend: backend.name(),
                reason: "this version of lightspan has no kernels for it yet".to_owned(),
            }),
        }
    }

    /// Which kind of device it is.
    pub fn backend(&self) -> Backend {
        match self.room {
            Room::Cpu(_) => Backend::Cpu,
            #[cfg(feature = "wgpu")]
            Room::Wgpu(_) => Backend::Wgpu,
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
        }
    }

    /// The room of a wgpu device, for calls on buffers of your own beside its tensors.
    #[cfg(feature = "wgpu")]
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.room {
            Room::Wgpu(gpu) => Some(gpu),
            Room::Cpu(_) => None,
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
        std::task::Poll::Pending => Err(Error::Unavailable {
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
    /// [`Error::Unavailable`] where there is none; the message lists what there is.
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
    /// [`Error::Unavailable`] where there is none; the message lists what there is.
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
    /// [`Error::DeviceLost`] where it is lost already.
    pub fn from_wgpu(device: ::wgpu::Device, queue: ::wgpu::Queue) -> Result<Self> {
        Ok(Device { room: Room::Wgpu(Gpu::new(device, queue)?) })
    }
}

/// Whether tensors of one may be used with the other.
impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.room, &other.room) {
            (Room::Cpu(_), Room::Cpu(_)) => true,
            #[cfg(feature = "wgpu")]
            (Room::Wgpu(one), Room::Wgpu(other)) => one == other,
            #[cfg(feature = "wgpu")]
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
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self})")
    }
}
