//! What the groups share: sizes, numbers, and the rotation among buffers.

use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use lightspan::problem::Convolution;
use lightspan::{Backend, DType, Device, Error, Result, Sequences, Tensor, Window};
use rayon::prelude::*;

use crate::figures::{COPY, Figures, measuring};

/// The fixed size: 8 sequences of 512 tokens of 512 channels in 8 heads.
pub(crate) const BATCH: usize = 8;
pub(crate) const TIME: usize = 512;
pub(crate) const CHANNELS: usize = 512;
pub(crate) const HEADS: usize = 8;

/// Tokens of every call, whatever the length of its sequences: [`LENGTHS`] divide it. So a convolution has the same
/// work to do at each length, and what grows is the price of attention.
pub(crate) const TOKENS: usize = BATCH * TIME;
pub(crate) const LENGTHS: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

/// Taps K where they vary, and where they do not.
pub(crate) const WIDTHS: [usize; 5] = [3, 7, 15, 31, 63];
pub(crate) const WIDTH: usize = 31;

/// Bytes that the buffers of one benchmark add up to, so that no call finds its tokens in the cache. More than the
/// last-level cache of nearly every machine; capped here because buffers have to be made before anything is timed, so
/// on the few machines with a larger one (some servers have over 1 GB) the tokens come from that cache.
pub(crate) const WORKING_SET: u64 = 512 << 20;

/// Tokens of every call at the size that fills any GPU, with [`Size::large`]'s channels.
pub(crate) const MANY_TOKENS: usize = 8 * 4096;

/// The tokens of a call.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) batch: usize,
    pub(crate) time: usize,
    pub(crate) channels: usize,
    pub(crate) heads: usize,
}

impl Size {
    /// The fixed number of tokens in sequences of `time`.
    pub(crate) fn of(time: usize) -> Self {
        Size { batch: TOKENS / time, time, channels: CHANNELS, heads: HEADS }
    }

    /// Eight times as many tokens of twice the channels, in sequences of `time`.
    pub(crate) fn large(time: usize) -> Self {
        Size { batch: MANY_TOKENS / time, time, channels: 1024, heads: 16 }
    }

    /// Tokens in all.
    pub(crate) fn all(self) -> usize {
        self.batch * self.time
    }

    pub(crate) fn sequences(self) -> Result<Sequences> {
        Sequences::batch(self.batch, self.time)
    }

    pub(crate) fn convolution(self, window: Window, dtype: DType) -> Result<Convolution> {
        Convolution::new(self.sequences()?.shape(), self.channels, self.heads, window, dtype)
    }

    /// Tokens of noise.
    pub(crate) fn tokens(self, dtype: DType, device: &Device) -> Result<Tensor> {
        tensor(&[self.batch, self.time, self.channels], dtype, device)
    }

    /// Bytes of all tokens.
    pub(crate) fn bytes(self, dtype: DType) -> usize {
        self.batch * self.time * self.channels * dtype.size()
    }
}

/// Numbers in [-1, 1) that look like noise.
pub(crate) fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A tensor of [`noise`].
pub(crate) fn tensor(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::from_f32(&noise(shape.iter().product()), shape, dtype, device)
}

/// Benchmarks with one subject, each a line of the report, on one device.
pub(crate) struct Group<'a> {
    lines: BenchmarkGroup<'a, WallTime>,
    name: String,
    device: Device,
    figures: Figures,
}

impl<'a> Group<'a> {
    /// Its name says the device, unless that is the CPU: criterion keeps figures by their names.
    pub(crate) fn new(criterion: &'a mut Criterion, name: &str, device: &Device) -> Self {
        let name = match device.backend() {
            Backend::Cpu => name.to_owned(),
            backend => format!("{name}_{backend}"),
        };
        let lines = criterion.benchmark_group(&name);
        Group { lines, name, device: device.clone(), figures: Figures::default() }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the unfused compositions belong in it: they are loops of the CPU.
    pub(crate) fn has_unfused(&self) -> bool {
        self.device.backend() == Backend::Cpu
    }

    pub(crate) fn finish(self) {
        self.lines.finish();
        let Group { name, device, figures, .. } = self;
        figures.report(&name, &device.to_string()).expect("a place for the figures");
    }
}

/// Says that a line is not measured, and why.
pub(crate) fn left_out(line: &Line, why: impl Display) {
    eprintln!("left out: {line}: {why}");
}

/// A line of the report: what is measured, and at which size or in which type.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) parameter: String,
}

impl Line {
    pub(crate) fn new(what: impl Into<String>, parameter: impl Display) -> Self {
        Line { what: what.into(), parameter: parameter.to_string() }
    }

    /// As criterion has it.
    pub(crate) fn id(&self) -> BenchmarkId {
        BenchmarkId::new(&self.what, &self.parameter)
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.what, self.parameter)
    }
}

/// Buffers that calls take in turn.
pub(crate) struct Ring<T> {
    buffers: Vec<T>,
    next: usize,
}

impl<T> Ring<T> {
    /// Buffers from `make`: as many as are wanted, or as the device has room for.
    fn fill(&mut self, wanted: u64, mut make: impl FnMut() -> Result<T>) -> Result<()> {
        while (self.buffers.len() as u64) < wanted {
            match make() {
                Ok(made) => self.buffers.push(made),
                Err(Error::OutOfMemory { .. }) if !self.buffers.is_empty() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next buffers.
    pub(crate) fn next(&mut self) -> &mut T {
        self.next = (self.next + 1) % self.buffers.len();
        &mut self.buffers[self.next]
    }

    /// The next ones for so many calls.
    #[cfg(feature = "wgpu")]
    pub(crate) fn take(&mut self, calls: u64) -> impl Iterator<Item = &T> {
        let (first, calls) = (self.next, calls as usize);
        self.next = (self.next + calls) % self.buffers.len();
        self.buffers.iter().cycle().skip(first).take(calls)
    }
}

/// Measures calls that have to move `bytes`, on buffers from `make`, others each time; `time` says how long so many of
/// them took.
///
/// Parameters are small and used again at once wherever they are used, so they belong in the closure `time`, not among
/// the buffers.
pub(crate) fn rotate<T>(
    group: &mut Group<'_>,
    (line, bytes): (Line, u64),
    mut make: impl FnMut() -> Result<T>,
    mut time: impl FnMut(&mut Ring<T>, u64) -> Result<Duration>,
) {
    let mut ring = Ring { buffers: Vec::new(), next: 0 };
    let mut full = false;
    let mut samples = Vec::new();
    group.lines.throughput(Throughput::BytesDecimal(bytes));
    group.lines.bench_function(line.id(), |bencher| {
        // Here, and not before: a benchmark that is filtered out should cost nothing.
        if !std::mem::replace(&mut full, true) {
            let wanted = if measuring() { WORKING_SET.div_ceil(bytes) } else { 1 };
            ring.fill(wanted, &mut make).expect("buffers of a valid size");
        }
        bencher.iter_custom(|calls| {
            let time = time(&mut ring, calls).expect("a valid call");
            samples.push((calls, time));
            time
        });
    });
    group.figures.add(line, bytes, &samples);
}

/// Times `run` on the CPU.
pub(crate) fn measure<T>(
    group: &mut Group<'_>,
    line: Line,
    bytes: u64,
    make: impl Fn() -> Result<T>,
    mut run: impl FnMut(&mut T) -> Result<()>,
) {
    rotate(group, (line, bytes), make, |ring, calls| {
        let begin = Instant::now();
        for _ in 0..calls {
            run(ring.next())?;
        }
        Ok(begin.elapsed())
    });
}

/// Times calls on tensors until the device is done with them: what the host does for a call, and making what it gives, is in
/// the time.
pub(crate) fn measure_until_done<T>(
    group: &mut Group<'_>,
    line: Line,
    bytes: u64,
    make: impl Fn() -> Result<T>,
    mut run: impl FnMut(&mut T) -> Result<()>,
) {
    let device = group.device().clone();
    rotate(group, (line, bytes), make, |ring, calls| {
        let begin = Instant::now();
        for _ in 0..calls {
            run(ring.next())?;
        }
        device.synchronize()?;
        Ok(begin.elapsed())
    });
}

/// Copies of the tokens in f32 and in 16 bits.
pub(crate) fn measure_copies(group: &mut Group<'_>, size: Size) {
    for dtype in [DType::F32, DType::F16] {
        measure_copy(group, format!("{} bits", 8 * dtype.size()), size.bytes(dtype));
    }
}

/// The floor: reading so many bytes once and writing them once, on all threads of the CPU or by the GPU's own copy.
pub(crate) fn measure_copy(group: &mut Group<'_>, parameter: impl Display, bytes: usize) {
    let line = Line::new(COPY, parameter);
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = group.device().clone().gpu() {
        return crate::gpu::measure_copy(group, gpu, line, bytes);
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = group.device().clone().cuda_gpu() {
        return crate::cuda::measure_copy(group, gpu, line, bytes);
    }
    let len = bytes / size_of::<f32>();
    // A part for every thread, and many where there is much: one thread held up must not hold up the copy.
    let part = len.div_ceil(rayon::current_num_threads()).min(1 << 15);
    let make = || Ok((noise(len), noise(len)));
    measure(group, line, 2 * bytes as u64, make, |(x, y)| {
        y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| y.copy_from_slice(x));
        Ok(())
    });
}
