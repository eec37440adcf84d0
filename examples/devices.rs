//! Which devices are there? Lists all that this build and this machine have, how to open each, and which is the best:
//!
//! ```text
//! cargo run --all-features --example devices
//! ```
//!
//! An adapter of wgpu is a GPU, or software that does as a GPU does: right, and slower than the CPU's own kernels. So
//! software is opened only by its name. With `--require wgpu` it is an error that there is no adapter at all, with
//! `--require cuda` that no NVIDIA GPU can be opened: the emulator is none.

use std::process::ExitCode;

use clap::Parser;
use lightspan::{Backend, Device};

#[derive(Parser)]
#[command(about = "Lists the devices that this build and this machine have.")]
struct Args {
    /// Fail where there is no device of this kind, be it software: cpu, wgpu, cuda or cuda-emulated
    #[arg(long, value_name = "BACKEND")]
    require: Option<Backend>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut found = vec![Backend::Cpu];
    println!("cpu: {}\n  Device::cpu()", Device::cpu());
    for (name, real) in adapters() {
        found.push(Backend::Wgpu);
        if real {
            println!("wgpu, real: {name}\n  Device::wgpu(), or among several Device::wgpu_named({name:?})");
        } else {
            println!("wgpu, software: {name}\n  Device::wgpu_named({name:?})");
        }
    }
    if let Err(error) = cuda(&mut found) {
        println!("no CUDA device: {error}");
    }
    if let Ok(device) = Device::open(Backend::CudaEmulated) {
        found.push(Backend::CudaEmulated);
        println!(
            "cuda-emulated: {device}\n  Device::cuda_emulated(), to test kernels for NVIDIA GPUs without one"
        );
    }
    println!("Device::best() is {}", Device::best());
    match args.require {
        Some(backend) if !found.contains(&backend) => {
            eprintln!("devices: there is none of {backend}{}", reason(backend));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The adapters of wgpu by name, and whether each is real.
#[cfg(feature = "wgpu")]
fn adapters() -> Vec<(String, bool)> {
    pollster::block_on(lightspan::wgpu::adapter_names())
}

#[cfg(not(feature = "wgpu"))]
fn adapters() -> Vec<(String, bool)> {
    vec![]
}

/// Prints the devices of CUDA, those that cannot be opened with the reason.
#[cfg(feature = "cuda")]
fn cuda(found: &mut Vec<Backend>) -> lightspan::Result<()> {
    for ordinal in 0..lightspan::cuda::Gpu::count()? {
        match Device::cuda(ordinal) {
            Ok(device) => {
                found.push(Backend::Cuda);
                println!("cuda: {device}\n  Device::cuda({ordinal})");
                match device.cuda_gpu().map(lightspan::cuda::Gpu::cublaslt) {
                    Some(Ok([major, minor, patch])) => println!("  with cuBLASLt {major}.{minor}.{patch}"),
                    Some(Err(error)) => println!("  without cuBLASLt: {error}"),
                    None => {}
                }
            }
            Err(error) => println!("cuda, device {ordinal}: {error}"),
        }
    }
    Ok(())
}

/// The error that says why there is none.
#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Vec<Backend>) -> lightspan::Result<()> {
    Device::open(Backend::Cuda).map(drop)
}

/// Why there is none.
fn reason(backend: Backend) -> String {
    Device::open(backend).err().map_or(String::new(), |error| format!(": {error}"))
}
