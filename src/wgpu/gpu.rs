use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use ::wgpu::{Buffer, BufferDescriptor, BufferUsages, Device, Queue};

use crate::gpu::{Uploads, lock, within};
use crate::wgpu::call::Call;
use crate::wgpu::faults::{Late, present, scoped};
use crate::wgpu::limits::Limits;
use crate::wgpu::pipeline::Pipeline;
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::Kernel;
use crate::{Error, Result, Sequences};

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
    /// Errors that the device will tell of later: in a browser.
    late: Mutex<Late>,
    pipelines: Mutex<HashMap<Kernel, Slot>>,
    /// Lists of sequences in the device's memory, for as long as someone has the sequences.
    sequences: Uploads<DeviceSequences>,
    /// Scratch memory of the calls on tensors. They share it: the device runs them one after another.
    scratch: [Mutex<Option<Buffer>>; SCRATCH],
    /// What kernels read in the place of inputs that a problem does not have.
    nothing: Buffer,
}

/// Buffers of scratch memory that a call has at most.
const SCRATCH: usize = 8;

/// The place of a pipeline, which one thread fills while others that want the same wait.
type Slot = Arc<Mutex<Option<Arc<Pipeline>>>>;

impl Gpu {
    /// A device that is yours. Nothing is registered on it, and its limits are kept.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`] where it is lost already.
    pub fn new(device: Device, queue: Queue) -> Result<Self> {
        let limits = Limits::from(&device.limits());
        let size = 256;
        let descriptor =
            BufferDescriptor { label: None, size, usage: BufferUsages::STORAGE, mapped_at_creation: false };
        let made = scoped(&device, "the first buffer", size, || device.create_buffer(&descriptor));
        // That the device is lost comes before what it could not do.
        present(&device)?;
        let (nothing, late) = made?;
        Ok(Gpu(Arc::new(Inner {
            name: device.adapter_info().name,
            device,
            queue,
            limits,
            lost: Arc::default(),
            late: Mutex::new(Late::from(late)),
            pipelines: Mutex::default(),
            sequences: Uploads::default(),
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
        self.present()
    }

    /// Runs a call, with scratch memory of the device's own: so many numbers in each of some buffers.
    pub(crate) fn run<const N: usize>(
        &self,
        scratch: [u64; N],
        bind: impl FnOnce([Option<&Buffer>; N]) -> Result<Call>,
    ) -> Result<()> {
        const { assert!(N <= SCRATCH) };
        let mut memory = [const { None }; N];
        for (which, (memory, len)) in memory.iter_mut().zip(scratch).enumerate() {
            *memory = self.scratch(which, len.saturating_mul(4))?;
        }
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
        self.0.limits.check_binding("scratch", bytes)?;
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
        let slot = known.unwrap_or_else(|| {
            let mut pipelines = lock(&self.0.pipelines);
            pipelines.entry(kernel.clone()).or_default().clone()
        });
        let mut slot = lock(&slot);
        match &*slot {
            Some(pipeline) => Ok(pipeline.clone()),
            // What fails once may be tried again: there may be more memory.
            None => Ok(slot.insert(Arc::new(Pipeline::new(self, kernel)?)).clone()),
        }
    }

    /// How many pipelines there are: few, since no size is part of one.
    pub fn pipelines(&self) -> usize {
        lock(&self.0.pipelines).len()
    }

    /// The sequences in the device's memory, uploaded if they are new.
    pub(crate) fn sequences(&self, sequences: &Sequences) -> Result<DeviceSequences> {
        self.0.sequences.of(sequences, || DeviceSequences::new(self, sequences))
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
        let size = bytes.next_multiple_of(4).max(4);
        within("bytes of", what, size, self.0.limits.buffer)?;
        let descriptor = BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = self.scoped(what, size, || self.0.device.create_buffer(&descriptor))?;
        self.present()?;
        Ok(buffer)
    }

    /// Makes it known when the device is lost. Only for one that is ours.
    pub(crate) fn watch(&self) {
        let lost = self.0.lost.clone();
        self.0.device.set_device_lost_callback(move |reason, message| {
            let _ = lost.set(format!("{reason:?}: {message}"));
        });
    }

    /// An error where the device is known to be lost.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.0.lost.get() {
            Some(reason) => Err(Error::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// An error where the device is lost, also if nobody was told of it.
    pub(crate) fn present(&self) -> Result<()> {
        self.alive().and_then(|()| present(&self.0.device))
    }

    /// What `call` returns, or the error that it made on the device.
    pub(crate) fn scoped<T>(&self, what: &'static str, bytes: u64, call: impl FnOnce() -> T) -> Result<T> {
        self.alive()?;
        match scoped(&self.0.device, what, bytes, call) {
            Ok((value, late)) => {
                self.alive()?;
                lock(&self.0.late).add(late);
                Ok(value)
            }
            Err(error) => Err(self.lost_or(error)),
        }
    }

    /// The error that the device is lost, if it is, rather than what it could not do for that reason.
    pub(crate) fn lost_or(&self, error: Error) -> Error {
        self.present().err().filter(|lost| matches!(lost, Error::DeviceLost { .. })).unwrap_or(error)
    }

    /// The first of the errors that are told late, once all are told.
    pub(crate) async fn settle(&self) -> Result<()> {
        let late = std::mem::take(&mut *lock(&self.0.late));
        late.settle().await
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
