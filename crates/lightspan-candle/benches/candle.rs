//! The operators inside candle beside what candle has without them, forward and in a step of training.
//!
//! ```text
//! cargo bench -p lightspan-candle
//! LIGHTSPAN_CANDLE_DEVICE=cuda cargo bench -p lightspan-candle --features cuda
//! ```
//!
//! - `light_conv` beside candle's own grouped conv1d, whose filters are the heads' repeated for each channel and whose tokens
//!   lie channel by channel, transposed there and back, as they have to be between linear layers; and beside taps that are
//!   multiplied and added one after another.
//! - `dynamic_conv` and `span_conv` beside the same with a filter for each token.
//!
//! A step is y and the gradients of everything that went in, from a gradient of y of ones. That of candle's conv1d, which is one
//! convolution for each of the 512 groups, takes seconds, and is measured at one width.

use std::hint::black_box;
use std::sync::OnceLock;

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::ops::softmax;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lightspan_candle::{SpanConvTensors, Window, dynamic_conv, light_conv, span_conv};

const BATCH: usize = 8;
const CHANNELS: usize = 512;
const HEADS: usize = 8;
const WIDTHS: [usize; 3] = [3, 7, 31];

/// Tokens of a sequence: few where nothing is measured, and each way only has to run, as under `cargo test`.
fn time() -> usize {
    if std::env::args().any(|arg| arg == "--bench") { 512 } else { 16 }
}

/// The CPU, or the first GPU where the environment variable `LIGHTSPAN_CANDLE_DEVICE` is `cuda`.
fn device() -> Result<&'static Device> {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(device);
    }
    let device = match std::env::var("LIGHTSPAN_CANDLE_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") => Device::new_cuda(0)?,
        Ok(other) => candle_core::bail!("LIGHTSPAN_CANDLE_DEVICE may be cpu or cuda, and is {other:?}"),
    };
    Ok(DEVICE.get_or_init(|| device))
}

fn var(shape: &[usize], scale: f64) -> Result<Var> {
    Var::from_tensor(&(Tensor::rand(-1f32, 1f32, shape, device()?)? * scale)?)
}

/// What `run` makes, made: a GPU is waited for.
fn done<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let made = run()?;
    device()?.synchronize()?;
    Ok(made)
}

/// y of x `[batch, time, C]` and weights `[.., H, K]`, after softmax: tap after tap.
fn tap_by_tap(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let width = weights.dim(D::Minus1)?;
    let x = x.pad_with_zeros(1, width - 1, 0)?;
    let mut y: Option<Tensor> = None;
    for tap in 0..width {
        let read = x.narrow(1, tap, time())?.reshape((BATCH, time(), HEADS, CHANNELS / HEADS))?;
        let read = read.broadcast_mul(&weights.narrow(D::Minus1, tap, 1)?)?;
        y = Some(match y {
            Some(y) => (y + read)?,
            None => read,
        });
    }
    match y {
        Some(y) => y.reshape((BATCH, time(), CHANNELS)),
        None => Ok(x),
    }
}

fn light_taps(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    tap_by_tap(x, &softmax(weight, D::Minus1)?)
}

/// candle's conv1d, a group for each channel.
fn grouped(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let width = weight.dim(1)?;
    let filters = softmax(weight, D::Minus1)?.unsqueeze(1)?;
    let filters = filters.broadcast_as((HEADS, CHANNELS / HEADS, width))?.reshape((CHANNELS, 1, width))?;
    let x = x.transpose(1, 2)?.pad_with_zeros(2, width - 1, 0)?;
    x.conv1d(&filters, 0, 1, 1, CHANNELS)?.transpose(1, 2)?.contiguous()
}

fn dynamic_taps(x: &Tensor, query: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let logits = query.broadcast_matmul(&weight.t()?)?;
    let width = logits.dim(2)? / HEADS;
    tap_by_tap(x, &softmax(&logits.reshape((BATCH, time(), HEADS, width))?, D::Minus1)?)
}

fn span_taps(tensors: &SpanConvTensors<'_>) -> Result<Tensor> {
    let SpanConvTensors { x, query, value, depthwise, pointwise, weight } = *tensors;
    let width = depthwise.dim(1)?;
    let padded = x.pad_with_zeros(1, width - 1, 0)?;
    let mut key = x.zeros_like()?;
    for tap in 0..width {
        let filter = depthwise.narrow(1, tap, 1)?.flatten_all()?;
        key = (key + padded.narrow(1, tap, time())?.broadcast_mul(&filter)?)?;
    }
    let z = (key.broadcast_matmul(&pointwise.t()?)? * query)?;
    dynamic_taps(value, &z, weight)
}

/// Times one way to compute y, forward and, if it can, both ways.
fn measure(
    criterion: &mut Criterion,
    (operator, way, width): (&str, &str, usize),
    trains: bool,
    run: impl Fn() -> Result<Tensor>,
) {
    let failed = "the operator runs";
    let mut group = criterion.benchmark_group(format!("{operator} forward"));
    group.throughput(Throughput::Elements((BATCH * time()) as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new(way, width), |bencher| {
        bencher.iter(|| black_box(done(&run).expect(failed)));
    });
    group.finish();
    if !trains {
        return;
    }
    let mut group = criterion.benchmark_group(format!("{operator} step"));
    group.throughput(Throughput::Elements((BATCH * time()) as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new(way, width), |bencher| {
        let step = || run()?.backward();
        bencher.iter(|| black_box(done(step).expect(failed)));
    });
    group.finish();
}

fn all(criterion: &mut Criterion) {
    operators(criterion).expect("tensors for the benchmarks");
}

fn operators(criterion: &mut Criterion) -> Result<()> {
    let shape = [BATCH, time(), CHANNELS];
    let [x, query, value] = [var(&shape, 1.0)?, var(&shape, 1.0)?, var(&shape, 1.0)?];
    for width in WIDTHS {
        let window = Window::causal(width).map_err(candle_core::Error::wrap)?;
        let filter = var(&[HEADS, width], 1.0)?;
        let generator = var(&[HEADS * width, CHANNELS], 0.05)?;
        let depthwise = var(&[CHANNELS, width], 0.3)?;
        let pointwise = var(&[CHANNELS, CHANNELS], 0.05)?;
        let tensors = SpanConvTensors {
            x: &x,
            query: &query,
            value: &value,
            depthwise: &depthwise,
            pointwise: &pointwise,
            weight: &generator,
        };
        let light = || light_conv(&x, &filter, window, &Default::default());
        let dynamic = || dynamic_conv(&x, &generator, HEADS, window, &Default::default());
        let span = || span_conv(&tensors, HEADS, window, &Default::default());
        // All ways compute the same, or their times would say nothing.
        same(&light()?, &light_taps(&x, &filter)?)?;
        same(&light()?, &grouped(&x, &filter)?)?;
        same(&dynamic()?, &dynamic_taps(&x, &x, &generator)?)?;
        same(&span()?, &span_taps(&tensors)?)?;

        measure(criterion, ("light_conv", "lightspan", width), true, light);
        measure(criterion, ("light_conv", "conv1d", width), width == WIDTHS[0], || grouped(&x, &filter));
        measure(criterion, ("light_conv", "taps", width), true, || light_taps(&x, &filter));
        measure(criterion, ("dynamic_conv", "lightspan", width), true, dynamic);
        let taps = || dynamic_taps(&x, &x, &generator);
        measure(criterion, ("dynamic_conv", "taps", width), true, taps);
        measure(criterion, ("span_conv", "lightspan", width), true, span);
        measure(criterion, ("span_conv", "taps", width), true, || span_taps(&tensors));
    }
    Ok(())
}

fn same(one: &Tensor, other: &Tensor) -> Result<()> {
    let apart = (one - other)?.abs()?.max_all()?.to_scalar::<f32>()?;
    if apart < 1e-4 { Ok(()) } else { candle_core::bail!("two ways are {apart} apart") }
}

criterion_group!(benches, all);
criterion_main!(benches);
