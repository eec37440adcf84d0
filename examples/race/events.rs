//! How long a CUDA device takes for its work, by its own clock.

use std::sync::Arc;
use std::time::Duration;

use lightspan::cuda::Gpu;
use lightspan::cuda::cudarc::driver::sys::{CUevent_flags, CUresult};
use lightspan::cuda::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use lightspan::{Error, Result};

/// Calls between two readings of the clock.
const BATCH: u64 = 32;

/// Bytes that the device copies before each batch: it is busy for some tenths of a millisecond then, in which the host
/// puts the calls into the stream. So the clock sees them one after another, however short they are, and not the host.
const HEAD_START: usize = 512 << 20;

pub(crate) struct Stopwatch {
    stream: Arc<CudaStream>,
    head_start: Copy,
}

impl Stopwatch {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Stopwatch { stream: stream(gpu)?, head_start: Copy::new(gpu, HEAD_START)? })
    }

    /// The time of so many calls, each of which puts its work into the device's stream.
    pub(crate) fn time(&mut self, calls: u64, mut call: impl FnMut() -> Result<()>) -> Result<Duration> {
        let mut milliseconds = 0.0;
        let mut left = calls;
        while left > 0 {
            let batch = left.min(BATCH);
            self.head_start.run()?;
            let read = || self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(refused);
            let begin = read()?;
            for _ in 0..batch {
                call()?;
            }
            let end = read()?;
            // Waits for the end, and so says what the calls did wrong.
            milliseconds += f64::from(begin.elapsed_ms(&end).map_err(refused)?);
            left -= batch;
        }
        Ok(Duration::from_secs_f64(1e-3 * milliseconds))
    }
}

/// A copy from one part of the device's memory to another.
pub(crate) struct Copy {
    stream: Arc<CudaStream>,
    from: CudaSlice<u8>,
    to: CudaSlice<u8>,
}

impl Copy {
    pub(crate) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        let stream = stream(gpu)?;
        let zeros = || {
            stream.alloc_zeros(bytes).map_err(|error| match error {
                DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => {
                    Error::OutOfMemory { what: "a copy", bytes }
                }
                error => refused(error),
            })
        };
        let (from, to) = (zeros()?, zeros()?);
        Ok(Copy { stream, from, to })
    }

    /// Puts the copy into the stream.
    pub(crate) fn run(&mut self) -> Result<()> {
        self.stream.memcpy_dtod(&self.from, &mut self.to).map_err(refused)
    }
}

/// The stream, which only a GPU has.
fn stream(gpu: &Gpu) -> Result<Arc<CudaStream>> {
    gpu.stream().cloned().ok_or_else(|| Error::Unavailable {
        backend: "cuda-emulated",
        reason: "nothing is timed there: the emulator is no model of time".to_owned(),
    })
}

fn refused(error: DriverError) -> Error {
    Error::Driver { what: "to time its work", reason: error.to_string() }
}
