//! What the operators do on a CUDA device, counted by the emulator: instructions, matrix products, traffic beside the least
//! that must move, and bank conflicts.
//!
//! ```text
//! cargo run --release --features emulator --example cuda_counts
//! ```
//!
//! Counts say what a kernel asks of a device, and nothing of how long it takes.

mod gradients;

use std::error::Error;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use lightspan::cuda::LaunchProfile;
use lightspan::problem::{
    AttentionProblem, Convolution, DynamicConvProblem, LightConvProblem, LinearProblem, SpanKeyProblem,
};
use lightspan::{DType, Device, Result, Sequences, Tensor, Window, ops};

#[derive(Parser)]
#[command(about = "Counts what the operators do on a CUDA device.")]
struct Args {
    /// Sequences.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Tokens of each.
    #[arg(long, default_value_t = 4096)]
    time: usize,
    /// Channels.
    #[arg(long, default_value_t = 512)]
    channels: usize,
    /// Heads.
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Taps, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "3,7,15,31,63,127")]
    widths: Vec<usize>,
    /// Tokens of each sequence for attention, which takes the square of them.
    #[arg(long, default_value_t = 512)]
    attention_time: usize,
}

/// A way to call an operator with so many taps.
type Count = fn(&Args, usize, DType, &Device) -> Result<[String; 10]>;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let device = Device::cuda_emulated();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "operator",
        "type",
        "K",
        "kernel",
        "blocks",
        "per output",
        "matrix",
        "bytes",
        "of the least",
        "conflicts",
    ]);
    let types = [DType::F32, DType::F16, DType::BF16];
    let convolutions: [Count; 6] =
        [light_conv, dynamic_conv, span_key, gradients::dweight, gradients::dlogits, gradients::dx];
    let bar = ProgressBar::new((types.len() * (args.widths.len() * convolutions.len() + 5)) as u64);
    for dtype in types {
        for convolution in convolutions {
            for &width in &args.widths {
                table.add_row(convolution(&args, width, dtype, &device)?);
                bar.inc(1);
            }
        }
        for products in [Products::One, Products::Three, Products::ThreeAtOnce] {
            table.add_row(linear(&args, products, dtype, &device)?);
            bar.inc(1);
        }
        for kind in [ops::AttentionKind::Naive, ops::AttentionKind::Fused] {
            table.add_row(attention(&args, kind, dtype, &device)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!(
        "{} sequences of {} tokens ({} for attention), {} channels, {} heads",
        args.batch, args.time, args.attention_time, args.channels, args.heads
    );
    println!("{table}");
    println!(
        "per output: instructions of a thread; matrix: multiply-adds on tensor cores for each that is asked for; bytes: sectors\n\
         of 32 bytes, read and written; conflicts: passes over the banks of shared memory beyond those that must be, in all passes"
    );
    Ok(())
}

/// Tokens, heads and window of a convolution.
fn convolution(args: &Args, width: usize, dtype: DType) -> Result<Convolution> {
    let sequences = Sequences::batch(args.batch, args.time)?;
    Convolution::new(sequences.shape(), args.channels, args.heads, Window::same(width)?, dtype)
}

fn light_conv(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let conv = convolution(args, width, dtype)?;
    let problem = LightConvProblem::new(conv);
    let x = numbers(&[args.batch, args.time, args.channels], dtype, device)?;
    let weight = numbers(&problem.weight_shape(), dtype, device)?;
    let launches = profiled(device, || ops::light_conv(&x, &weight, conv.window(), &Default::default()))?;
    let asked = [problem.flops() / 2, (args.batch * args.time * args.channels) as u64, problem.bytes()];
    Ok(row("light_conv", dtype, &width.to_string(), &launches, asked))
}

/// A dynamic convolution with taps generated from x.
fn dynamic_conv(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let conv = convolution(args, width, dtype)?;
    let problem = DynamicConvProblem::generated(conv)?;
    let x = numbers(&[args.batch, args.time, args.channels], dtype, device)?;
    let weight = numbers(&[problem.logits(), args.channels], dtype, device)?;
    let call = || ops::dynamic_conv(&x, &weight, args.heads, conv.window(), &Default::default());
    let launches = profiled(device, call)?;
    let asked = [problem.flops() / 2, (args.batch * args.time * args.channels) as u64, problem.bytes()];
    Ok(row("dynamic_conv", dtype, &width.to_string(), &launches, asked))
}

/// The key of a span convolution, of as many channels as x.
fn span_key(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let (window, channels) = (Window::same(width)?, args.channels);
    let sequences = Sequences::batch(args.batch, args.time)?;
    let problem = SpanKeyProblem::new(sequences.shape(), channels, channels, window, dtype)?;
    let x = numbers(&[args.batch, args.time, channels], dtype, device)?;
    let depthwise = numbers(&[channels, width], dtype, device)?;
    let pointwise = numbers(&[channels, channels], dtype, device)?;
    let tensors = ops::SpanKeyTensors { x: &x, query: &x, depthwise: &depthwise, pointwise: &pointwise };
    let launches = profiled(device, || ops::span_key(&tensors, window, &Default::default()))?;
    let asked = [problem.flops() / 2, (args.batch * args.time * channels) as u64, problem.bytes()];
    Ok(row("span_key", dtype, &width.to_string(), &launches, asked))
}

/// Linear layers of the same tokens.
#[derive(Clone, Copy)]
enum Products {
    One,
    /// As those to q, k and v.
    Three,
    /// The same with their weights in one.
    ThreeAtOnce,
}

/// Linear layers of as many outputs as inputs.
fn linear(args: &Args, products: Products, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let (rows, channels) = (args.batch * args.time, args.channels);
    let (name, calls, outputs) = match products {
        Products::One => ("linear", 1, channels),
        Products::Three => ("linear, three times", 3, channels),
        Products::ThreeAtOnce => ("linear, three at once", 1, 3 * channels),
    };
    let problem = LinearProblem::new(rows, channels, outputs, dtype)?;
    let x = numbers(&[rows, channels], dtype, device)?;
    let weight = numbers(&[outputs, channels], dtype, device)?;
    let call = || (0..calls).try_for_each(|_| ops::linear(&x, &weight, &Default::default()).map(drop));
    let launches = profiled(device, call)?;
    let asked = [problem.flops() / 2, (rows * outputs) as u64, problem.bytes()].map(|each| calls * each);
    Ok(row(name, dtype, "", &launches, asked))
}

/// Attention over whole sequences.
fn attention(args: &Args, kind: ops::AttentionKind, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let (time, channels, heads) = (args.attention_time, args.channels, args.heads);
    let shape = Sequences::batch(args.batch, time)?.shape();
    let problem = AttentionProblem::new(shape, shape, heads, channels / heads, dtype)?;
    let x = numbers(&[args.batch, time, channels], dtype, device)?;
    let options = ops::AttentionOptions { kind, ..Default::default() };
    let launches = profiled(device, || ops::attention(&x, &x, &x, heads, &options))?;
    let asked = [problem.flops() / 2, (args.batch * time * channels) as u64, problem.bytes()];
    let name = match kind {
        ops::AttentionKind::Naive => "attention, naive",
        ops::AttentionKind::Fused => "attention, fused",
    };
    Ok(row(name, dtype, "", &launches, asked))
}

fn numbers(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i: usize| (i as f32 * 0.7).sin()).collect();
    Tensor::from_f32(&numbers, shape, dtype, device)
}

/// What the launches of a call did.
fn profiled<T>(device: &Device, call: impl FnOnce() -> Result<T>) -> Result<Vec<LaunchProfile>> {
    let gpu = device.cuda_gpu().expect("the emulated device is one of CUDA's");
    gpu.start_profile();
    call()?;
    Ok(gpu.take_profile())
}

/// `asked` has multiply-adds, outputs and bytes.
fn row(
    operator: &str,
    dtype: DType,
    width: &str,
    launches: &[LaunchProfile],
    asked: [u64; 3],
) -> [String; 10] {
    let [multiply_adds, outputs, bytes] = asked.map(|count| count as f64);
    let sum = |count: fn(&LaunchProfile) -> u64| launches.iter().map(count).sum::<u64>() as f64;
    let moved =
        32.0 * sum(|launch| launch.profile.global_loads.sectors + launch.profile.global_stores.sectors);
    let shared = |launch: &LaunchProfile| [launch.profile.shared_loads, launch.profile.shared_stores];
    let (mut conflicts, mut passes) = (0, 0);
    for traffic in launches.iter().flat_map(shared) {
        conflicts += traffic.conflicts();
        passes += traffic.passes;
    }
    let each = |name: fn(&LaunchProfile) -> String| launches.iter().map(name).collect::<Vec<_>>().join(", ");
    [
        operator.to_owned(),
        dtype.to_string(),
        width.to_owned(),
        each(|launch| format!("{} {}", launch.module, launch.entry)),
        each(|launch| launch.grid.to_string()),
        format!("{:.1}", sum(|launch| launch.profile.total().threads) / outputs),
        format!("{:.2}", sum(|launch| launch.profile.matrix_multiply_adds) / multiply_adds),
        format!("{:.1} MB", moved / 1e6),
        format!("{:.3}", moved / bytes),
        format!("{:.1} %", 100.0 * conflicts as f64 / passes.max(1) as f64),
    ]
}
