use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use ::wgpu::{
    Adapter, BackendOptions, Backends, Buffer, BufferDescriptor, BufferUsages, Device, DeviceDescriptor,
    DeviceType, Instance, InstanceDescriptor, PollType, Queue, SubmissionIndex,
};

use crate::wgpu::call::Call;
use crate::wgpu::faults::{present, refused, scoped};
use crate::wgpu::limits::{Limits, within};
use crate::wgpu::pipeline::Pipeline;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::Kernel;
use crate::{DType, Error, Result, Sequence, Sequences};

/// A device and its queue, with the pipelines that were made on it. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: Device,
    queue: Queue,
    name: String,
    limits: Limits,
    /// Why a device that we opened is lost, if it is. Nothing is registered on a device that is the user's.
    lost: Arc<OnceLock<String>>,
    pipelines: Mutex<HashMap<Kernel, Arc<OnceLock<Result<Arc<Pipeline>>>>>>,
    /// Lists of sequences in the device's memory, for as long as someone has the sequences.
    sequences: Mutex<Vec<(Weak<[Sequence]>, DeviceSequences)>>,
    /// Scratch memory of the calls on tensors. They share it: the device runs them one after another.
    scratch: [Mutex<Option<Buffer>>; 2],
    /// What kernels read in the place of inputs that a problem does not have.
    nothing: Buffer,
}

/// Bytes that are written or read at a time: what passes through memory that the device and the host share.
const PART: usize = 64 << 20;

impl Gpu {
    /// The best real adapter there is. A software one is opened only by its name: the CPU room is faster.
    ///
    /// The environment variable `WGPU_ADAPTER_NAME` names another one, as in [`Gpu::open_named`].
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where there is none; the message lists what there is.
    pub async fn open() -> Result<Self> {
        if let Ok(name) = std::env::var("WGPU_ADAPTER_NAME") {
            return Gpu::open_named(&name).await;
        }
        let adapters = adapters().await;
        let rank = |adapter: &Adapter| match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        };
        match adapters.iter().filter(|adapter| rank(adapter) < 4).min_by_key(|adapter| rank(adapter)) {
            Some(adapter) => Gpu::open_adapter(adapter).await,
            None => Err(unavailable("no GPU has a driver for Vulkan, Metal or DX12", &adapters)),
        }
    }

    /// The first adapter whose name contains `name`, upper or lower case: `"llvmpipe"` is Mesa's software Vulkan.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where there is none; the message lists what there is.
    pub async fn open_named(name: &str) -> Result<Self> {
        let adapters = adapters().await;
        let name = name.to_lowercase();
        match adapters.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&name)) {
            Some(adapter) => Gpu::open_adapter(adapter).await,
            None => Err(unavailable(&format!("no adapter is called {name:?}"), &adapters)),
        }
    }

    async fn open_adapter(adapter: &Adapter) -> Result<Self> {
        let descriptor = DeviceDescriptor {
            label: Some("lightspan"),
            required_features: adapter.features() & ::wgpu::Features::TIMESTAMP_QUERY,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| {
            let reason = format!("{} cannot be opened: {error}", adapter.get_info().name);
            Error::Unavailable { backend: "wgpu", reason }
        })?;
        let gpu = Gpu::new(device, queue)?;
        let lost = gpu.0.lost.clone();
        gpu.0.device.set_device_lost_callback(move |reason, message| {
            let _ = lost.set(format!("{reason:?}: {message}"));
        });
        Ok(gpu)
    }

    /// A device that is yours. Nothing is registered on it, and its limits are kept.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`] where it is lost already.
    pub fn new(device: Device, queue: Queue) -> Result<Self> {
        let limits = Limits::from(&device.limits());
        let nothing = buffer(&device, &limits, "the device's first buffer", 256, BufferUsages::STORAGE)?;
        Ok(Gpu(Arc::new(Inner {
            name: device.adapter_info().name,
            device,
            queue,
            limits,
            lost: Arc::default(),
            pipelines: Mutex::default(),
            sequences: Mutex::default(),
            scratch: Default::default(),
            nothing,
        })))
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Its queue.
    pub fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the device allows.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Waits until everything that was submitted is done.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`].
    pub fn synchronize(&self) -> Result<()> {
        self.wait(None)?;
        present(&self.0.device)
    }

    /// Runs a call, with scratch memory of the device's own: so many numbers in each of two buffers.
    pub(crate) fn run(
        &self,
        scratch: [u64; 2],
        bind: impl FnOnce([Option<&Buffer>; 2]) -> Result<Call>,
    ) -> Result<()> {
        let memory = [self.scratch(0, 4 * scratch[0])?, self.scratch(1, 4 * scratch[1])?];
        let call = bind(memory.each_ref().map(Option::as_ref))?;
        if call.is_empty() {
            return Ok(());
        }
        self.scoped("a call", 0, || {
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            call.record(&mut encoder);
            self.0.queue.submit([encoder.finish()]);
        })
    }

    fn scratch(&self, which: usize, bytes: u64) -> Result<Option<Buffer>> {
        if bytes == 0 {
            return Ok(None);
        }
        let mut scratch = lock(&self.0.scratch[which]);
        match &*scratch {
            Some(buffer) if buffer.size() >= bytes => Ok(Some(buffer.clone())),
            _ => {
                // The old one goes first, so that both need not fit.
                *scratch = None;
                let buffer = self.buffer("scratch", bytes, BufferUsages::STORAGE)?;
                Ok(Some(scratch.insert(buffer).clone()))
            }
        }
    }

    /// A kernel's pipeline, compiled once.
    pub(crate) fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        let known = lock(&self.0.pipelines).get(kernel).cloned();
        let slot =
            known.unwrap_or_else(|| lock(&self.0.pipelines).entry(kernel.clone()).or_default().clone());
        // Two threads that want the same one wait for each other, those that want others do not.
        slot.get_or_init(|| Pipeline::new(self, kernel).map(Arc::new)).clone()
    }

    /// How many pipelines there are: few, since no size is part of one.
    pub fn pipelines(&self) -> usize {
        lock(&self.0.pipelines).len()
    }

    /// The sequences in the device's memory, uploaded if they are new.
    pub(crate) fn sequences(&self, sequences: &Sequences) -> Result<DeviceSequences> {
        let mut known = lock(&self.0.sequences);
        known.retain(|(of, _)| of.strong_count() > 0);
        let of = sequences.downgrade();
        if let Some((_, found)) = known.iter().find(|(other, _)| other.ptr_eq(&of)) {
            return Ok(found.clone());
        }
        let uploaded = DeviceSequences::new(self, sequences)?;
        known.push((of, uploaded.clone()));
        Ok(uploaded)
    }

    /// Who this is, for what is made on it.
    pub(crate) fn owner(&self) -> Owner {
        Owner(Arc::downgrade(&self.0))
    }

    pub(crate) fn nothing(&self) -> &Buffer {
        &self.0.nothing
    }

    /// A buffer of zeros of at least `bytes` bytes.
    pub(crate) fn buffer(&self, what: &'static str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        self.alive()?;
        buffer(&self.0.device, &self.0.limits, what, bytes, usage)
    }

    /// The memory of a tensor of zeros.
    pub(crate) fn tensor(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        self.buffer("tensor", len as u64 * dtype.size() as u64, usage)
    }

    /// A buffer that holds `words`.
    pub(crate) fn upload(&self, what: &'static str, words: &[u32], usage: BufferUsages) -> Result<Buffer> {
        self.alive()?;
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let size = bytes.len() as u64;
        within("bytes of", what, size, self.0.limits.buffer)?;
        let buffer = self.scoped(what, size, || {
            self.0.device.create_buffer(&BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: true,
            })
        })?;
        match buffer.get_mapped_range_mut(..) {
            Ok(mut range) => range.slice(..).copy_from_slice(bytes),
            // Memory that was granted can be written, unless the device is gone.
            Err(error) => return Err(Error::DeviceLost { reason: error.to_string() }),
        }
        buffer.unmap();
        Ok(buffer)
    }

    /// Overwrites a buffer, from its first byte on.
    pub(crate) fn write(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.alive()?;
        for (i, part) in bytes.chunks(PART).enumerate() {
            let offset = (i * PART) as u64;
            self.scoped("an upload", part.len() as u64, || {
                let (whole, rest) = part.split_at(part.len() / 4 * 4);
                self.0.queue.write_buffer(buffer, offset, whole);
                if !rest.is_empty() {
                    // Memory is written in whole words; the last one is padded.
                    let mut word = [0; 4];
                    word[..rest.len()].copy_from_slice(rest);
                    self.0.queue.write_buffer(buffer, offset + whole.len() as u64, &word);
                }
                if bytes.len() > PART {
                    // What is written waits in the host's memory until the next submission.
                    self.0.queue.submit([]);
                }
            })?;
        }
        present(&self.0.device)
    }

    /// Reads the first `bytes.len()` bytes of a buffer.
    pub(crate) async fn read(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        for (i, part) in bytes.chunks_mut(PART).enumerate() {
            self.read_part(buffer, (i * PART) as u64, part).await?;
        }
        Ok(())
    }

    async fn read_part(&self, buffer: &Buffer, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let size = (bytes.len() as u64).next_multiple_of(4);
        let usage = BufferUsages::COPY_DST | BufferUsages::MAP_READ;
        let copy = self.buffer("a download", size, usage)?;
        let done = Arc::new(Arrival::default());
        let submission = self.scoped("a download", size, || {
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset, &copy, 0, size);
            let submission = self.0.queue.submit([encoder.finish()]);
            let arrival = done.clone();
            copy.map_async(::wgpu::MapMode::Read, .., move |result| arrival.set(result));
            submission
        })?;
        // In a browser this does nothing, and the answer comes when it comes.
        self.wait(Some(submission))?;
        Arrival::wait(&done).await.map_err(|error| refused("a download", &error))?;
        let view = copy.get_mapped_range(..).map_err(|error| refused("a download", &error))?;
        bytes.copy_from_slice(&view[..bytes.len()]);
        Ok(())
    }

    fn wait(&self, submission: Option<SubmissionIndex>) -> Result<()> {
        let wait = PollType::Wait { submission_index: submission, timeout: None };
        // wgpu panics where the device is lost while it waits; there is no other way to be told.
        match catch_unwind(AssertUnwindSafe(|| self.0.device.poll(wait))) {
            Ok(Ok(_)) => self.alive(),
            Ok(Err(error)) => self.alive().and(Err(refused("to wait", &error))),
            Err(_) => {
                Err(Error::DeviceLost { reason: "the driver gave up while it was waited for".to_owned() })
            }
        }
    }

    /// An error where the device is known to be lost.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.0.lost.get() {
            Some(reason) => Err(Error::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn scoped<T>(&self, what: &'static str, bytes: u64, call: impl FnOnce() -> T) -> Result<T> {
        self.alive()?;
        let value = scoped(&self.0.device, what, bytes, call);
        self.alive()?;
        value
    }
}

/// Whose something is. wgpu's own devices do not tell: those of two instances may count as equal.
#[derive(Clone)]
pub(crate) struct Owner(Weak<Inner>);

impl Owner {
    pub(crate) fn is(&self, gpu: &Gpu) -> bool {
        self.0.as_ptr() == Arc::as_ptr(&gpu.0)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}

/// The names of the adapters that this machine has, and whether each is a real one.
pub async fn adapter_names() -> Vec<(String, bool)> {
    let adapters = adapters().await;
    adapters
        .iter()
        .map(Adapter::get_info)
        .map(|info| (info.name, info.device_type != DeviceType::Cpu))
        .collect()
}

async fn adapters() -> Vec<Adapter> {
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::PRIMARY;
    descriptor.backend_options = BackendOptions::from_env_or_default();
    Instance::new(descriptor).enumerate_adapters(Backends::PRIMARY).await
}

fn unavailable(reason: &str, adapters: &[Adapter]) -> Error {
    let names: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
    let found = if names.is_empty() {
        "no adapter was found (on Linux: install a Vulkan driver)".to_owned()
    } else {
        format!("there is {}; software adapters are opened by name only", names.join(", "))
    };
    Error::Unavailable { backend: "wgpu", reason: format!("{reason}; {found}") }
}

fn buffer(
    device: &Device,
    limits: &Limits,
    what: &'static str,
    bytes: u64,
    usage: BufferUsages,
) -> Result<Buffer> {
    let size = bytes.next_multiple_of(4).max(4);
    within("bytes of", what, size, limits.buffer)?;
    let descriptor = BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let buffer = scoped(device, what, size, || device.create_buffer(&descriptor))?;
    present(device)?;
    Ok(buffer)
}

/// A lock that a panic of another thread does not take away: what it guards is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer of a mapping, and who waits for it.
#[derive(Default)]
struct Arrival(Mutex<(Option<Mapped>, Option<std::task::Waker>)>);

type Mapped = Result<(), ::wgpu::BufferAsyncError>;

impl Arrival {
    fn set(&self, result: Mapped) {
        let mut state = lock(&self.0);
        state.0 = Some(result);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    async fn wait(&self) -> Mapped {
        std::future::poll_fn(|context| {
            let mut state = lock(&self.0);
            match state.0.take() {
                Some(result) => std::task::Poll::Ready(result),
                None => {
                    state.1 = Some(context.waker().clone());
                    std::task::Poll::Pending
                }
            }
        })
        .await
    }
}
