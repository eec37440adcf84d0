//! 9. Buffers of your own on a GPU: an operator recorded into your command encoder, between your own passes.
//!
//! ```text
//! cargo run --release --features wgpu --example 09_wgpu_own_buffers
//! ```
//!
//! A gated layer has its tokens and its gates side by side, `[tokens, 2 C]`. The convolution reads the first half of each
//! row where it lies and writes into rows of another stride: nothing is copied to suit it.
//!
//! Before: 08_wgpu. Next: 10_cuda.

use lightspan::problem::{Convolution, LightConvProblem};
use lightspan::wgpu::wgpu::{Buffer, BufferDescriptor, BufferUsages, MapMode, PollType};
use lightspan::wgpu::{DeviceSequences, Elements, Gpu, LightConv, LightConvArgs, Rows};
use lightspan::{DType, Result, Sequences, Window};

const CHANNELS: usize = 8;
const TOKENS: usize = 6;

fn main() -> Result<()> {
    // Here a device is opened for you; with one of your own it is `Gpu::new(device, queue)`.
    let gpu = pollster::block_on(async {
        match Gpu::open().await {
            Ok(gpu) => Ok(gpu),
            Err(error) => {
                println!("{error}\n");
                Gpu::open_named("llvmpipe").await
            }
        }
    })?;
    println!("on {}", gpu.name());

    // Prepared once: the plan is made, its kernel compiled.
    let sequences = Sequences::packed(&[0, 4, TOKENS])?;
    let conv = Convolution::new(sequences.shape(), CHANNELS, 2, Window::causal(3)?, DType::F32)?;
    let operator = LightConv::new(&gpu, LightConvProblem::new(conv))?;

    // Your buffers: tokens and gates side by side, weights behind something else, outputs with room between the rows.
    let stride = CHANNELS + 2;
    let x = filled(&gpu, &(0..TOKENS * 2 * CHANNELS).map(|i| i as f32).collect::<Vec<_>>());
    let weight = filled(&gpu, &[9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let y = filled(&gpu, &[-1.0; TOKENS * (CHANNELS + 2)]);
    let call = operator.bind(LightConvArgs {
        sequences: &DeviceSequences::new(&gpu, &sequences)?,
        x: Rows::strided(&x, 2 * CHANNELS),
        weight: Elements::at(&weight, 4),
        bias: None,
        history: None,
        seed: None,
        y: Rows::strided(&y, stride),
    })?;

    // Recorded as often as you like: nothing is allocated, checked or submitted here.
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    call.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);

    let y = read(&gpu, &y);
    for (t, row) in y.chunks(stride).enumerate() {
        println!("token {t}: {:6.2?}   between the rows: {:?}", &row[..CHANNELS], &row[CHANNELS..]);
    }
    // The mean of two zeros before the sequence and the first token; the gaps are as they were.
    assert!(y[..CHANNELS].iter().zip(0..).all(|(y, channel)| (y - channel as f32 / 3.0).abs() < 1e-6));
    assert!(y.chunks(stride).all(|row| row[CHANNELS..] == [-1.0, -1.0]));

    // What does not fit is an error with the numbers in it, before anything runs.
    let short = filled(&gpu, &[0.0; 10]);
    let refused = operator.bind(LightConvArgs {
        sequences: &DeviceSequences::new(&gpu, &sequences)?,
        x: Rows::contiguous(&short),
        weight: (&weight).into(),
        bias: None,
        history: None,
        seed: None,
        y: Rows::contiguous(&x),
    });
    println!("\na buffer that is too short: {}", refused.expect_err("ten numbers are not enough"));
    Ok(())
}

/// A buffer of yours.
fn filled(gpu: &Gpu, numbers: &[f32]) -> Buffer {
    let buffer = gpu.device().create_buffer(&BufferDescriptor {
        label: None,
        size: size_of_val(numbers) as u64,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(numbers));
    buffer
}

/// What a buffer of yours holds once all that was submitted is done.
fn read(gpu: &Gpu, buffer: &Buffer) -> Vec<f32> {
    let copy = gpu.device().create_buffer(&BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    copy.map_async(MapMode::Read, .., |result| result.expect("a buffer that can be mapped"));
    gpu.device().poll(PollType::wait_indefinitely()).expect("a device that is there");
    let numbers = copy.get_mapped_range(..).expect("a buffer that is mapped");
    bytemuck::cast_slice(&numbers).to_vec()
}
