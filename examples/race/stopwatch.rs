//! How long a wgpu device takes for its work, by its own clock where it has one.

use std::time::{Duration, Instant};

use lightspan::wgpu::wgpu::{
    Buffer, BufferDescriptor, BufferUsages, CommandBuffer, CommandEncoder, ComputePassDescriptor,
    ComputePassTimestampWrites, DeviceType, Features, MapMode, QuerySet, QuerySetDescriptor, QueryType,
};
use lightspan::wgpu::{Call, Gpu};
use lightspan::{Error, Result};

/// What is timed.
#[derive(Clone, Copy)]
pub(crate) enum Work<'a> {
    Call(&'a Call),
    /// All bytes of one buffer into another of the same size.
    Copy {
        from: &'a Buffer,
        to: &'a Buffer,
    },
}

/// Pieces of work that are submitted at once. Enough that the host's part does not count where only the host has a
/// clock; few enough that no driver takes a long batch for a hung one.
const BATCH: usize = 32;

pub(crate) struct Stopwatch {
    gpu: Gpu,
    clock: Option<Clock>,
}

/// Timestamps: two for each piece of work.
struct Clock {
    queries: QuerySet,
    ticks: Buffer,
    /// The ticks where the host can read them.
    read: Buffer,
    /// Nanoseconds a tick.
    period: f64,
}

impl Stopwatch {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        let device = gpu.device();
        let clock = device.features().contains(Features::TIMESTAMP_QUERY).then(|| {
            let count = 2 * BATCH as u32;
            let buffer = |usage| {
                let size = u64::from(count) * size_of::<u64>() as u64;
                device.create_buffer(&BufferDescriptor {
                    label: None,
                    size,
                    usage,
                    mapped_at_creation: false,
                })
            };
            Clock {
                queries: device.create_query_set(&QuerySetDescriptor {
                    label: None,
                    ty: QueryType::Timestamp,
                    count,
                }),
                ticks: buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
                read: buffer(BufferUsages::COPY_DST | BufferUsages::MAP_READ),
                period: f64::from(gpu.queue().get_timestamp_period()),
            }
        });
        Stopwatch { gpu: gpu.clone(), clock }
    }

    /// The time of all of it: the sum over the pieces by the device's clock, or else by the host's, from each submission
    /// until the device is done.
    pub(crate) fn time<'a>(&self, work: impl IntoIterator<Item = Work<'a>>) -> Result<Duration> {
        let mut work = work.into_iter();
        let mut total = Duration::ZERO;
        loop {
            let batch: Vec<Work<'a>> = work.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(total);
            }
            total += self.batch(&batch)?;
        }
    }

    fn batch(&self, work: &[Work<'_>]) -> Result<Duration> {
        // A command buffer each: where one ends the device waits until what was written is there, so that no two
        // pieces run at once, whatever buffers they have.
        let mut commands: Vec<CommandBuffer> =
            work.iter().enumerate().map(|(i, work)| self.record(2 * i as u32, work)).collect();
        if let Some(Clock { queries, ticks, read, .. }) = &self.clock {
            let mut encoder = self.encoder();
            encoder.resolve_query_set(queries, 0..2 * work.len() as u32, ticks, 0);
            encoder.copy_buffer_to_buffer(ticks, 0, read, 0, ticks.size());
            commands.push(encoder.finish());
        }
        let begin = Instant::now();
        self.gpu.queue().submit(commands);
        self.gpu.synchronize()?;
        let waited = begin.elapsed();
        match &self.clock {
            Some(clock) => Ok(clock.read(&self.gpu, work.len())?.unwrap_or(waited)),
            None => Ok(waited),
        }
    }

    fn record(&self, query: u32, work: &Work<'_>) -> CommandBuffer {
        let mut encoder = self.encoder();
        match work {
            Work::Call(call) => call.record_in(&mut self.pass(&mut encoder, Some(query), Some(query + 1))),
            Work::Copy { from, to } => {
                // A copy is in no pass: it stands between two that are empty.
                drop(self.pass(&mut encoder, Some(query), None));
                encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
                drop(self.pass(&mut encoder, None, Some(query + 1)));
            }
        }
        encoder.finish()
    }

    /// A pass whose begin and end are written down, if there is a clock.
    fn pass<'e>(
        &self,
        encoder: &'e mut CommandEncoder,
        begin: Option<u32>,
        end: Option<u32>,
    ) -> lightspan::wgpu::wgpu::ComputePass<'e> {
        let timestamp_writes = self.clock.as_ref().map(|clock| ComputePassTimestampWrites {
            query_set: &clock.queries,
            beginning_of_pass_write_index: begin,
            end_of_pass_write_index: end,
        });
        encoder.begin_compute_pass(&ComputePassDescriptor { label: None, timestamp_writes })
    }

    fn encoder(&self) -> CommandEncoder {
        self.gpu.device().create_command_encoder(&Default::default())
    }
}

impl Clock {
    /// The sum over so many pieces; none where the clock stood still or went back, as some do.
    fn read(&self, gpu: &Gpu, pieces: usize) -> Result<Option<Duration>> {
        self.read.map_async(MapMode::Read, .., |_| {});
        gpu.synchronize()?;
        let view = self
            .read
            .get_mapped_range(..)
            .map_err(|error| Error::Driver { what: "to read its clock", reason: error.to_string() })?;
        let tick = |bytes: &[u8]| u64::from_ne_bytes(std::array::from_fn(|i| bytes[i]));
        let ticks = view[..16 * pieces]
            .chunks_exact(16)
            .map(|pair| tick(&pair[8..]).checked_sub(tick(&pair[..8])).filter(|&ticks| ticks > 0))
            .sum::<Option<u64>>();
        drop(view);
        self.read.unmap();
        Ok(ticks.map(|ticks| Duration::from_secs_f64(1e-9 * self.period * ticks as f64)))
    }
}

/// Whether the device is software: its times say nothing of any GPU.
pub(crate) fn is_software(gpu: &Gpu) -> bool {
    gpu.device().adapter_info().device_type == DeviceType::Cpu
}
