//! Between the host's memory and the device's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use ::wgpu::{Buffer, BufferDescriptor, BufferUsages, PollType, SubmissionIndex};

use crate::gpu::{lock, within};
use crate::wgpu::faults::refused;
use crate::wgpu::gpu::Gpu;
use crate::{DType, Error, Result};

/// Bytes that are written or read at a time: what passes through memory that the device and the host share.
const PART: usize = 64 << 20;

impl Gpu {
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
        within("bytes of", what, size, self.limits().buffer)?;
        let buffer = self.scoped(what, size, || {
            self.device().create_buffer(&BufferDescriptor {
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
                self.queue().write_buffer(buffer, offset, whole);
                if !rest.is_empty() {
                    // Memory is written in whole words; the last one is padded.
                    let mut word = [0; 4];
                    word[..rest.len()].copy_from_slice(rest);
                    self.queue().write_buffer(buffer, offset + whole.len() as u64, &word);
                }
                if bytes.len() > PART {
                    // What is written waits in the host's memory until the next submission.
                    self.queue().submit([]);
                }
            })?;
        }
        self.present()
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
            let mut encoder = self.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset, &copy, 0, size);
            let submission = self.queue().submit([encoder.finish()]);
            let arrival = done.clone();
            copy.map_async(::wgpu::MapMode::Read, .., move |result| arrival.set(result));
            submission
        })?;
        // In a browser this does nothing, and the answer comes when it comes.
        self.wait(Some(submission))?;
        self.settle().await?;
        let lost_or_refused = |error: &dyn std::error::Error| self.lost_or(refused("a download", error));
        Arrival::wait(&done).await.map_err(|error| lost_or_refused(&error))?;
        let view = copy.get_mapped_range(..).map_err(|error| lost_or_refused(&error))?;
        bytes.copy_from_slice(&view[..bytes.len()]);
        Ok(())
    }

    /// Waits until the device is done with a submission, or with all.
    pub(crate) fn wait(&self, submission: Option<SubmissionIndex>) -> Result<()> {
        let wait = PollType::Wait { submission_index: submission, timeout: None };
        // wgpu panics where the device is lost while it waits; there is no other way to be told.
        match catch_unwind(AssertUnwindSafe(|| self.device().poll(wait))) {
            Ok(Ok(_)) => self.alive(),
            Ok(Err(error)) => Err(self.lost_or(refused("to wait", &error))),
            Err(_) => {
                Err(Error::DeviceLost { reason: "the driver gave up while it was waited for".to_owned() })
            }
        }
    }
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
