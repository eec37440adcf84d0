//! The few calls that this room needs of a driver, twice: the real one, and the emulator.
//!
//! Everything above (plans, the packing of arguments, the choice of a kernel) is the same code for both.

mod cuda;
#[cfg(feature = "emulator")]
mod emulator;
mod slices;

use std::sync::Arc;

use ::cudarc::driver::CudaStream;

pub(crate) use cuda::{Cuda, Operands, Product};
#[cfg(feature = "emulator")]
pub(crate) use emulator::Emulator;
#[cfg(feature = "emulator")]
pub use emulator::LaunchProfile;

use crate::Result;
use crate::cuda::limits::Limits;
use crate::cuda::plan::Launch;

/// A device, and the queue that its work goes to.
pub(crate) trait Driver: Send + Sync {
    /// The name of the device.
    fn name(&self) -> &str;

    fn limits(&self) -> &Limits;

    /// Memory that nobody has written.
    fn allocate(&self, what: &'static str, bytes: usize) -> Result<Box<dyn Memory>>;

    /// The kernel of a launch, loaded and ready for it and others.
    fn kernel(&self, launch: &Launch) -> Result<Arc<dyn Kernel>>;

    /// Waits until all that was started is done.
    fn synchronize(&self) -> Result<()>;

    fn queue(&self) -> Queue<'_>;
}

/// A kernel of a device.
pub(crate) trait Kernel: Send + Sync {
    /// Starts the kernel on a queue of its device.
    ///
    /// # Safety
    ///
    /// The kernel reads and writes what `launch` and `addresses` say: they must be memory of the device, initialised where
    /// it is read, that nothing else writes, nor reads where it is written, until the queue comes past this launch.
    unsafe fn launch(&self, queue: Queue<'_>, launch: &Launch, addresses: &[u64]) -> Result<()>;
}

/// Where work waits for its turn.
#[derive(Clone, Copy)]
pub(crate) enum Queue<'a> {
    Cuda(&'a Arc<CudaStream>),
    #[cfg(feature = "emulator")]
    Emulator(&'a Arc<Emulator>),
}

/// Memory that kernels read.
pub(crate) trait Source {
    fn bytes(&self) -> usize;

    /// Where it lies, once what writes it is done; none if it is not of the queue's device. To be held until what reads it
    /// is in the queue.
    fn address<'a>(&'a self, queue: Queue<'a>) -> Option<Address<'a>>;
}

/// Memory that kernels write.
pub(crate) trait Target {
    fn bytes(&self) -> usize;

    /// As [`Source::address`], once what reads it is done too.
    fn address_mut<'a>(&'a mut self, queue: Queue<'a>) -> Option<Address<'a>>;
}

/// Memory of our own.
pub(crate) trait Memory: Source + Target + Send + Sync {
    /// Fills it with zeros.
    fn clear(&mut self) -> Result<()>;

    /// Overwrites its first bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Reads its first bytes, once all that was started before is done.
    fn read(&self, bytes: &mut [u8]) -> Result<()>;
}

/// An address on the device, and the driver's note that it is in use.
pub(crate) struct Address<'a> {
    pub(crate) address: u64,
    _in_use: Option<slices::InUse<'a>>,
}
