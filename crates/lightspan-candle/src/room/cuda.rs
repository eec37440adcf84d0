use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{CudaDevice, CudaStorage, Storage};
use lightspan::cuda::cudarc::driver::{CudaStream, DeviceRepr, DriverError, sys::CUresult};
use lightspan::cuda::{DeviceSequences, Elements, ElementsMut, Gpu, Rows};
use lightspan::{DType, Element, Error, Result, Sequences, bf16, f16};

use crate::room::{Input, Room};

/// A CUDA device of candle's, with the stream that its work goes to.
pub(crate) struct Cuda {
    gpu: Gpu,
    device: CudaDevice,
}

/// A GPU for each context, so that its kernels are loaded once for all streams. Nothing is called on these.
static CONTEXTS: Mutex<Vec<Gpu>> = Mutex::new(vec![]);

/// Those of the streams that were last used, for as long as the program runs. Programs have one for each device, and few more.
static STREAMS: Mutex<Vec<Gpu>> = Mutex::new(vec![]);

thread_local! {
    /// Those of this thread's own streams, which are the default of candle's devices: what lies in a device's memory for one
    /// thread is neither read nor given back by another, as nothing says in what order the driver would do it.
    static OWN: RefCell<Vec<Gpu>> = const { RefCell::new(vec![]) };
}

/// How many are kept.
const KEPT: usize = 16;

/// The GPU of a stream, known or new.
fn gpu_of(stream: &Arc<CudaStream>) -> Result<Gpu> {
    let known = |table: &mut Vec<Gpu>| {
        let is_it = |gpu: &Gpu| {
            gpu.stream().is_some_and(|of_gpu| {
                of_gpu.cu_stream() == stream.cu_stream() && of_gpu.context() == stream.context()
            })
        };
        let index = table.iter().position(is_it)?;
        table[..=index].rotate_right(1);
        Some(table[0].clone())
    };
    if let Some(gpu) = OWN.with_borrow_mut(known).or_else(|| known(&mut lock(&STREAMS))) {
        return Ok(gpu);
    }
    let gpu = of_context(stream)?.on(stream.clone())?;
    let keep = |table: &mut Vec<Gpu>| {
        table.insert(0, gpu.clone());
        table.truncate(KEPT);
    };
    if gpu.is_per_thread() {
        OWN.with_borrow_mut(keep);
    } else {
        keep(&mut lock(&STREAMS));
    }
    Ok(gpu)
}

/// The GPU of a stream's context, known or new.
fn of_context(stream: &Arc<CudaStream>) -> Result<Gpu> {
    let mut contexts = lock(&CONTEXTS);
    let is_it = |gpu: &&Gpu| gpu.stream().is_some_and(|of_gpu| of_gpu.context() == stream.context());
    if let Some(gpu) = contexts.iter().find(is_it) {
        return Ok(gpu.clone());
    }
    let gpu = Gpu::new(stream.clone())?;
    contexts.push(gpu.clone());
    Ok(gpu)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// The room of candle's device, on candle's own stream.
    pub(crate) fn of(device: &CudaDevice) -> Result<Self> {
        Ok(Cuda { gpu: gpu_of(&device.cuda_stream())?, device: device.clone() })
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The sequences in the device's memory, uploaded if they are new.
    pub(crate) fn sequences(&self, sequences: &Sequences) -> Result<DeviceSequences> {
        self.gpu.sequences(sequences)
    }

    /// Calls `run` with so many numbers of f32, none where it wants none; they are given back in the order of the stream.
    pub(crate) fn with_scratch(
        &self,
        numbers: u64,
        run: impl FnOnce(Option<ElementsMut<'_>>) -> Result<()>,
    ) -> Result<()> {
        if numbers == 0 {
            return run(None);
        }
        let len = usize::try_from(numbers)
            .map_err(|_| Error::TooLarge { what: "scratch", sizes: vec![usize::MAX] })?;
        let mut scratch = self.allocate::<f32>("scratch", len)?;
        run(Some(ElementsMut::from(&mut scratch)))
    }

    /// Memory on candle's stream that nobody has written.
    fn allocate<E: DeviceRepr>(
        &self,
        what: &'static str,
        len: usize,
    ) -> Result<lightspan::cuda::cudarc::driver::CudaSlice<E>> {
        // Not every driver grants an allocation of nothing.
        // SAFETY: operators write all of their outputs, and read no scratch that they have not written.
        unsafe { self.device.cuda_stream().alloc::<E>(len.max(1)) }.map_err(|error| match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => {
                Error::OutOfMemory { what, bytes: len.saturating_mul(size_of::<E>()) }
            }
            other => Error::Driver { what, reason: format!("{other:?}") },
        })
    }

    fn storage<E: Element + DeviceRepr + CudaDType>(&self, len: usize) -> Result<CudaStorage> {
        let slice = self.allocate::<E>("tensor", len)?;
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }
}

impl Room for Cuda {
    type Storage = CudaStorage;
    type Elements<'a> = Elements<'a>;
    type ElementsMut<'a> = ElementsMut<'a>;

    fn of(storage: &Storage) -> Option<&CudaStorage> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn elements(storage: &CudaStorage, start: usize) -> Option<Elements<'_>> {
        match &storage.slice {
            CudaStorageSlice::F32(slice) => Some(Elements::from(slice).at(start)),
            CudaStorageSlice::F16(slice) => Some(Elements::from(slice).at(start)),
            CudaStorageSlice::BF16(slice) => Some(Elements::from(slice).at(start)),
            _ => None,
        }
    }

    fn output(&self, dtype: DType, len: usize) -> Result<CudaStorage> {
        match dtype {
            DType::F32 => self.storage::<f32>(len),
            DType::F16 => self.storage::<f16>(len),
            DType::BF16 => self.storage::<bf16>(len),
            other => Err(Error::DType { tensor: "output", expected: DType::ALL.to_vec(), got: other }),
        }
    }

    fn elements_mut(storage: &mut CudaStorage) -> Option<ElementsMut<'_>> {
        match &mut storage.slice {
            CudaStorageSlice::F32(slice) => Some(ElementsMut::from(slice)),
            CudaStorageSlice::F16(slice) => Some(ElementsMut::from(slice)),
            CudaStorageSlice::BF16(slice) => Some(ElementsMut::from(slice)),
            _ => None,
        }
    }

    fn into_storage(storage: CudaStorage) -> Storage {
        Storage::Cuda(storage)
    }
}

impl<'a> Input<Elements<'a>> {
    /// The rows of tokens.
    pub(crate) fn rows(self) -> Rows<'a> {
        match self.stride {
            Some(stride) => Rows::strided(self.elements, stride),
            None => Rows::contiguous(self.elements),
        }
    }
}
