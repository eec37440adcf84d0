//! 11. Memory of your own on an NVIDIA GPU: an operator launched on your stream, and captured into a graph.
//!
//! ```text
//! cargo run --release --features cuda --example 11_cuda_own_buffers
//! ```
//!
//! A gated layer has its tokens and its gates side by side, `[tokens, 2 C]`. The convolution reads the first half of each
//! row where it lies and writes into rows of another stride: nothing is copied to suit it. Without a GPU this says what is
//! missing and ends.
//!
//! Before: 10_cuda.

use std::error::Error;
use std::sync::Arc;

use lightspan::cuda::cudarc::driver::CudaStream;
use lightspan::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lightspan::cuda::{DeviceSequences, Elements, Gpu, LightConv, LightConvArgs, Rows, RowsMut};
use lightspan::problem::{Convolution, LightConvProblem};
use lightspan::{DType, Sequences, Window};

const CHANNELS: usize = 8;
const TOKENS: usize = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let device = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("{error}");
            return Ok(());
        }
    };
    // A stream of yours. A capture may not wait for events from before it, so cudarc's tracking of them is off.
    let stream = device.stream().ok_or("no stream")?.context().clone();
    // SAFETY: all memory here is used on one stream, and outlives what uses it.
    unsafe { stream.disable_event_tracking() };
    let stream = stream.new_stream()?;
    let gpu = Gpu::new(stream.clone())?;
    println!("on {}", gpu.name());
    convolve(&gpu, &stream)
}

fn convolve(gpu: &Gpu, stream: &Arc<CudaStream>) -> Result<(), Box<dyn Error>> {
    // Prepared once: the plan is made, its kernel loaded.
    let sequences = Sequences::packed(&[0, 4, TOKENS])?;
    let conv = Convolution::new(sequences.shape(), CHANNELS, 2, Window::causal(3)?, DType::F32)?;
    let operator = LightConv::new(gpu, LightConvProblem::new(conv))?;
    let list = DeviceSequences::new(gpu, &sequences)?;

    // Your memory: tokens and gates side by side, weights behind something else, outputs with room between the rows.
    let stride = CHANNELS + 2;
    let x = stream.clone_htod(&(0..TOKENS * 2 * CHANNELS).map(|i| i as f32).collect::<Vec<_>>())?;
    let weight = stream.clone_htod(&[9.0f32, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])?;
    let mut y = stream.clone_htod(&[-1.0f32; TOKENS * (CHANNELS + 2)])?;
    let view = weight.slice(2..);

    // Nothing is allocated on the device here, nothing copied and nothing waited for: so it can be captured.
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    operator.launch(LightConvArgs {
        sequences: &list,
        x: Rows::strided(&x, 2 * CHANNELS),
        weight: Elements::from(&view).at(2),
        bias: None,
        history: None,
        seed: None,
        y: RowsMut::strided(&mut y, stride),
    })?;
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?.ok_or("nothing was captured")?;
    graph.launch()?;

    let y = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    for (t, row) in y.chunks(stride).enumerate() {
        println!("token {t}: {:6.2?}   between the rows: {:?}", &row[..CHANNELS], &row[CHANNELS..]);
    }
    // The mean of two zeros before the sequence and the first token; the gaps are as they were.
    assert!(y[..CHANNELS].iter().zip(0..).all(|(y, channel)| (y - channel as f32 / 3.0).abs() < 1e-6));
    assert!(y.chunks(stride).all(|row| row[CHANNELS..] == [-1.0, -1.0]));
    Ok(())
}
