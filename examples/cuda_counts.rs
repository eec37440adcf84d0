//! What light convolution and linear layers do on a CUDA device, counted by the emulator: instructions, matrix products,
//! traffic beside the least that must move, and bank conflicts.
//!
//! ```text
//! cargo run --release --features emulator --example cuda_counts
//! ```
//!
//! Counts say what a kernel asks of a device, and nothing of how long it takes.

use std::error::Error;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use lightspan::cuda::LaunchProfile;
use lightspan::problem::{Convolution, LightConvProblem, LinearProblem};
use lightspan::{DType, Device, Normalize, Result, Sequences, Tensor, Window, ops};

#[derive(Parser)]
#[command(about = "Counts what light convolution and linear layers do on a CUDA device.")]
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
}

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
    let bar = ProgressBar::new((types.len() * (args.widths.len() + 1)) as u64);
    for dtype in types {
        for &width in &args.widths {
            table.add_row(light_conv(&args, width, dtype, &device)?);
            bar.inc(1);
        }
        table.add_row(linear(&args, dtype, &device)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!(
        "{} sequences of {} tokens, {} channels, {} heads",
        args.batch, args.time, args.channels, args.heads
    );
    println!("{table}");
    println!(
        "per output: instructions of a thread; matrix: multiply-adds on tensor cores for each that is asked for; bytes: sectors\n\
         of 32 bytes, read and written; conflicts: passes over the banks of shared memory beyond those that must be, in all passes"
    );
    Ok(())
}

/// A light convolution.
fn light_conv(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let sequences = Sequences::batch(args.batch, args.time)?;
    let conv = Convolution::new(sequences.shape(), args.channels, args.heads, Window::same(width)?, dtype)?;
    let problem = LightConvProblem::new(conv.with_normalize(Normalize::Softmax));
    let x = numbers(&[args.batch, args.time, args.channels], dtype, device)?;
    let weight = numbers(&problem.weight_shape(), dtype, device)?;
    let launch = profiled(device, || ops::light_conv(&x, &weight, conv.window(), &Default::default()))?;
    let asked = [problem.flops() / 2, (args.batch * args.time * args.channels) as u64, problem.bytes()];
    Ok(row("light_conv", dtype, &width.to_string(), &launch, asked))
}

/// A linear layer of as many outputs as inputs.
fn linear(args: &Args, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let (rows, channels) = (args.batch * args.time, args.channels);
    let problem = LinearProblem::new(rows, channels, channels, dtype)?;
    let x = numbers(&[rows, channels], dtype, device)?;
    let weight = numbers(&[channels, channels], dtype, device)?;
    let launch = profiled(device, || ops::linear(&x, &weight, &Default::default()))?;
    let asked = [problem.flops() / 2, (rows * channels) as u64, problem.bytes()];
    Ok(row("linear", dtype, "", &launch, asked))
}

fn numbers(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i: usize| (i as f32 * 0.7).sin()).collect();
    Tensor::from_f32(&numbers, shape, dtype, device)
}

/// What the one launch of a call did.
fn profiled(device: &Device, call: impl FnOnce() -> Result<Tensor>) -> Result<LaunchProfile> {
    let gpu = device.cuda_gpu().expect("the emulated device is one of CUDA's");
    gpu.start_profile();
    call()?;
    Ok(gpu.take_profile().pop().expect("there are tokens, so there is a launch"))
}

/// `asked` has multiply-adds, outputs and bytes.
fn row(operator: &str, dtype: DType, width: &str, launch: &LaunchProfile, asked: [u64; 3]) -> [String; 10] {
    let [multiply_adds, outputs, bytes] = asked.map(|count| count as f64);
    let profile = &launch.profile;
    let moved = 32 * (profile.global_loads.sectors + profile.global_stores.sectors);
    let (loads, stores) = (profile.shared_loads, profile.shared_stores);
    let (conflicts, passes) = (loads.conflicts() + stores.conflicts(), loads.passes + stores.passes);
    [
        operator.to_owned(),
        dtype.to_string(),
        width.to_owned(),
        format!("{} {}", launch.module, launch.entry),
        launch.grid.to_string(),
        format!("{:.1}", profile.total().threads as f64 / outputs),
        format!("{:.2}", profile.matrix_multiply_adds as f64 / multiply_adds),
        format!("{:.1} MB", moved as f64 / 1e6),
        format!("{:.3}", moved as f64 / bytes),
        format!("{:.1} %", 100.0 * conflicts as f64 / passes as f64),
    ]
}
