use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use ::cudarc::driver::CudaStream;

use crate::cuda::call::ElementsMut;
use crate::cuda::driver::{Cuda, Driver, Kernel, Memory, Queue};
#[cfg(feature = "emulator")]
use crate::cuda::driver::{Emulator, LaunchProfile};
use crate::cuda::limits::Limits;
use crate::cuda::plan::Launch;
use crate::cuda::products::Products;
use crate::cuda::sequences::DeviceSequences;
use crate::gpu::{Uploads, lock, within};
use crate::{DType, Result, Sequences};

/// A CUDA device and the stream that its work goes to, with the kernels that were loaded. Cheap to clone; clones are the
/// same.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
    products: Products,
}

struct Inner {
    driver: Room,
    kernels: Mutex<Kernels>,
    /// Lists of sequences in the device's memory, for as long as someone has the sequences.
    sequences: Uploads<DeviceSequences>,
}

/// Kernels by their module and name.
type Kernels = HashMap<(&'static str, &'static str), Arc<dyn Kernel>>;

/// The drivers there are.
enum Room {
    Cuda(Cuda),
    #[cfg(feature = "emulator")]
    Emulated(Arc<Emulator>),
}

impl Gpu {
    fn of(driver: Room) -> Self {
        let inner = Inner { driver, kernels: Mutex::default(), sequences: Uploads::default() };
        Gpu { inner: Arc::new(inner), products: Products::by_environment() }
    }

    /// How many devices the driver has, of any age.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is no driver.
    pub fn count() -> Result<usize> {
        Cuda::count()
    }

    /// The device of that number and its default stream.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is no driver, no such device, or one that the kernels
    /// are not made for: it says what is missing.
    pub fn open(ordinal: usize) -> Result<Self> {
        Cuda::open(ordinal).map(Room::Cuda).map(Gpu::of)
    }

    /// A stream that is yours.
    ///
    /// The per-thread default stream is another one in every thread that calls: see [`Gpu::is_per_thread`].
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where the driver or the device is older than the kernels.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        Cuda::new(stream).map(Room::Cuda).map(Gpu::of)
    }

    /// Another stream of the same context: nothing is loaded again.
    ///
    /// # Errors
    ///
    /// [`Error::Device`](crate::Error::Device) where the stream is of another context, or the device is emulated.
    pub fn on(&self, stream: Arc<CudaStream>) -> Result<Self> {
        match &self.inner.driver {
            Room::Cuda(cuda) => {
                let other = cuda.on(stream).map(Room::Cuda).map(Gpu::of)?;
                Ok(other.with_products(self.products))
            }
            #[cfg(feature = "emulator")]
            Room::Emulated(_) => {
                let (expected, got) = (self.name().to_owned(), "a stream of a GPU".to_owned());
                Err(crate::Error::Device { tensor: "the stream", expected, got })
            }
        }
    }

    /// A device that runs the kernels on the CPU, checks what they do and counts their traffic. It is slow, and says
    /// nothing of how fast they are. It has what an A100 has, for which the kernels are compiled.
    #[cfg(feature = "emulator")]
    #[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
    pub fn emulated() -> Self {
        Gpu::emulated_with(Limits::A100)
    }

    /// The same with what another device has: plans go by that.
    #[cfg(feature = "emulator")]
    #[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
    pub fn emulated_with(limits: Limits) -> Self {
        Gpu::of(Room::Emulated(Emulator::new(limits)))
    }

    /// The same device and stream, where operators that are prepared from now on have plain products made so. Without, it is
    /// [`Products::CublasLt`], or [`Products::Own`] where the environment variable `LIGHTSPAN_CUBLASLT` is `0`.
    pub fn with_products(self, products: Products) -> Self {
        Gpu { products, ..self }
    }

    /// How plain products are to be made.
    pub fn products(&self) -> Products {
        self.products
    }

    /// The version of the library cuBLASLt that is there for products: major, minor, patch.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is none, it is of a version that is not known, or it does not
    /// run on this device: it says what was looked for.
    pub fn cublaslt(&self) -> Result<[u32; 3]> {
        match &self.inner.driver {
            Room::Cuda(cuda) => cuda.cublaslt_version(),
            #[cfg(feature = "emulator")]
            Room::Emulated(_) => {
                let reason = "an emulated device runs no kernels but those of this crate".to_owned();
                Err(crate::Error::Unavailable { backend: "cuda", reason })
            }
        }
    }

    /// The driver, where it is a real one and plain products are to be made by cuBLASLt.
    pub(crate) fn for_products(&self) -> Option<&Cuda> {
        match (&self.inner.driver, self.products) {
            (Room::Cuda(cuda), Products::CublasLt) => Some(cuda),
            _ => None,
        }
    }

    /// Whether it is an emulated one.
    pub fn is_emulated(&self) -> bool {
        match &self.inner.driver {
            Room::Cuda(_) => false,
            #[cfg(feature = "emulator")]
            Room::Emulated(_) => true,
        }
    }

    /// Whether its stream is the per-thread default stream, as candle's devices have it: what is started there in one thread is
    /// in no order with what is started in another. Use such a `Gpu`, and [`DeviceSequences`] that were made on it, in one
    /// thread, or synchronise between them. ([`Gpu::on`] makes one for each thread, and loads nothing again.)
    pub fn is_per_thread(&self) -> bool {
        match &self.inner.driver {
            Room::Cuda(cuda) => cuda.is_per_thread(),
            #[cfg(feature = "emulator")]
            Room::Emulated(_) => false,
        }
    }

    /// The stream, if it is one of a GPU.
    pub fn stream(&self) -> Option<&Arc<CudaStream>> {
        match self.queue() {
            Queue::Cuda(stream) => Some(stream),
            #[cfg(feature = "emulator")]
            Queue::Emulator(_) => None,
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        self.driver().name()
    }

    /// What the device has.
    pub fn limits(&self) -> &Limits {
        self.driver().limits()
    }

    /// Waits until everything that was started on the stream is done.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) where a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.driver().synchronize()
    }

    /// Begins to keep what the launches of an emulated device do.
    #[cfg(feature = "emulator")]
    #[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
    pub fn start_profile(&self) {
        if let Room::Emulated(emulator) = &self.inner.driver {
            emulator.start_profile();
        }
    }

    /// What the launches of an emulated device did since [`Gpu::start_profile`]. Later ones are not kept.
    #[cfg(feature = "emulator")]
    #[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
    pub fn take_profile(&self) -> Vec<LaunchProfile> {
        match &self.inner.driver {
            Room::Cuda(_) => vec![],
            Room::Emulated(emulator) => emulator.take_profile(),
        }
    }

    fn driver(&self) -> &dyn Driver {
        match &self.inner.driver {
            Room::Cuda(cuda) => cuda,
            #[cfg(feature = "emulator")]
            Room::Emulated(emulator) => emulator,
        }
    }

    pub(crate) fn queue(&self) -> Queue<'_> {
        self.driver().queue()
    }

    /// Memory that nobody has written.
    pub(crate) fn allocate(&self, what: &'static str, bytes: usize) -> Result<Box<dyn Memory>> {
        self.driver().allocate(what, bytes)
    }

    /// The memory of a tensor that nobody has written.
    pub(crate) fn tensor(&self, dtype: DType, len: usize) -> Result<Box<dyn Memory>> {
        self.allocate("a tensor", len * dtype.size())
    }

    /// Runs a call with scratch memory: so many numbers of f32 in each of two pieces, none where it wants none. They are given
    /// back in the order of the stream.
    pub(crate) fn with_scratch(
        &self,
        numbers: [u64; 2],
        call: impl FnOnce([Option<ElementsMut<'_>>; 2]) -> Result<()>,
    ) -> Result<()> {
        let allocate = |numbers: u64| {
            let most = (usize::MAX / size_of::<f32>()) as u64;
            within("numbers of", "scratch", numbers, most)?;
            let bytes = numbers as usize * size_of::<f32>();
            (bytes > 0).then(|| self.allocate("scratch", bytes)).transpose()
        };
        let [first, second] = numbers.map(allocate);
        let mut memory = [first?, second?];
        call(
            memory
                .each_mut()
                .map(|memory| memory.as_deref_mut().map(|memory| ElementsMut::of(memory, DType::F32))),
        )
    }

    /// The kernel of a launch, loaded once.
    pub(crate) fn kernel(&self, launch: &Launch) -> Result<Arc<dyn Kernel>> {
        let key = (launch.module.name, launch.entry);
        if let Some(kernel) = lock(&self.inner.kernels).get(&key) {
            return Ok(kernel.clone());
        }
        let kernel = self.driver().kernel(launch)?;
        Ok(lock(&self.inner.kernels).entry(key).insert_entry(kernel).get().clone())
    }

    /// The sequences in the device's memory, uploaded if they are new: kept for as long as someone has the sequences.
    ///
    /// # Errors
    ///
    /// As [`DeviceSequences::new`].
    pub fn sequences(&self, sequences: &Sequences) -> Result<DeviceSequences> {
        self.inner.sequences.of(sequences, || DeviceSequences::new(self, sequences))
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}
