//! What the groups share: sizes, numbers, and the rotation among buffers.

use std::fmt::{self, Display};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use lightspan::problem::Convolution;
use lightspan::{Backend, DType, Device, Result, Sequences, Tensor, Window};
use rayon::prelude::*;

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

/// The fixed number of tokens in sequences of `time`.
pub(crate) fn sequences(time: usize) -> Result<Sequences> {
    Sequences::batch(TOKENS / time, time)
}

/// Those sequences and the channels as a convolution.
pub(crate) fn convolution(time: usize, window: Window, dtype: DType) -> Result<Convolution> {
    Convolution::new(sequences(time)?.shape(), CHANNELS, HEADS, window, dtype)
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

/// Tokens of the fixed number, in sequences of `time`.
pub(crate) fn tokens(time: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    tensor(&[TOKENS / time, time, CHANNELS], dtype, device)
}

/// Benchmarks with one subject, each a line of the report, on one device.
pub(crate) struct Group<'a> {
    pub(crate) lines: BenchmarkGroup<'a, WallTime>,
    device: Device,
}

impl<'a> Group<'a> {
    /// Its name says the device, unless that is the CPU: criterion keeps figures by their names.
    pub(crate) fn new(criterion: &'a mut Criterion, name: &str, device: &Device) -> Self {
        let name = match device.backend() {
            Backend::Cpu => name.to_owned(),
            backend => format!("{name}_{backend}"),
        };
        Group { lines: criterion.benchmark_group(name), device: device.clone() }
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
    }
}

/// A line of the report: what is measured, and at which size or in which type.
pub(crate) struct Line {
    what: String,
    parameter: String,
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

/// Times `run` on the CPU, which has to move `bytes`, on buffers from `make`, another one each time.
///
/// Parameters are small and used again at once wherever they are used, so they belong in the closure `run`, not among
/// the buffers.
pub(crate) fn measure<T>(
    group: &mut Group<'_>,
    line: Line,
    bytes: u64,
    make: impl Fn() -> Result<T>,
    mut run: impl FnMut(&mut T) -> Result<()>,
) {
    let mut buffers = Vec::new();
    let mut next = 0;
    group.lines.throughput(Throughput::BytesDecimal(bytes));
    group.lines.bench_function(line.id(), |bencher| {
        // Here, and not before: a benchmark that is filtered out should cost nothing.
        while (buffers.len() as u64) < WORKING_SET.div_ceil(bytes) {
            buffers.push(make().expect("buffers of a valid size"));
        }
        bencher.iter(|| {
            next = (next + 1) % buffers.len();
            run(&mut buffers[next]).expect("a valid call");
        });
    });
}

/// The floor: reading x `[rows, C]` once and writing it once, on all threads of the CPU or by the GPU's own copy.
pub(crate) fn measure_copy(group: &mut Group<'_>, parameter: impl Display, rows: usize) {
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = group.device().clone().gpu() {
        return crate::gpu::measure_copy(group, gpu, parameter, rows);
    }
    let len = rows * CHANNELS;
    // A part for every thread, and many where there is much: one thread held up must not hold up the copy.
    let part = len.div_ceil(rayon::current_num_threads()).min(1 << 15);
    measure(
        group,
        Line::new("copy", parameter),
        2 * (len * size_of::<f32>()) as u64,
        || Ok((noise(len), noise(len))),
        |(x, y)| {
            y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| y.copy_from_slice(x));
            Ok(())
        },
    );
}
