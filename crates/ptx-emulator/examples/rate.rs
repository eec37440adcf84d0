//! How fast kernels run here, in thread-instructions a second.

use std::error::Error;
use std::time::Instant;

use ptx_emulator::{Arg, Launch, Memory, Module, Profile};

fn report(name: &str, from: Instant, profile: &Profile) {
    let (n, seconds) = (profile.total().threads as f64, from.elapsed().as_secs_f64());
    println!(
        "{name}: {n:.2e} thread-instructions in {seconds:.2} s, {:.0} million a second",
        n / seconds / 1e6
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let memory = Memory::new();
    let n = 1 << 20;
    let zeros = vec![0; 4 * n];
    let (x, y) = (memory.allocate("x", 4 * n as u64)?, memory.allocate("y", 4 * n as u64)?);
    memory.write(x, &zeros)?;
    memory.write(y, &zeros)?;

    let module = Module::load(include_str!("../tests/fixtures/saxpy.ptx"), &memory)?;
    let args = [Arg::I32(n as i32), Arg::F32(0.5), Arg::U64(x), Arg::U64(y)];
    let from = Instant::now();
    let mut sum = Profile::default();
    for _ in 0..20 {
        sum += &module.launch("saxpy", &Launch::linear(64, 256), &args, &memory)?;
    }
    report("saxpy", from, &sum);

    let module = Module::load(include_str!("../tests/fixtures/softmax.ptx"), &memory)?;
    let args = [Arg::I32(1024), Arg::U64(x), Arg::U64(y)];
    for kernel in ["softmax_f32", "softmax_f16"] {
        let from = Instant::now();
        let profile = module.launch(kernel, &Launch::linear(1024, 256), &args, &memory)?;
        report(kernel, from, &profile);
    }

    let module = Module::load(include_str!("../tests/fixtures/matmul.ptx"), &memory)?;
    let d = memory.allocate("d", 16 * 8 * 4)?;
    let args = [Arg::I32(1 << 14), Arg::U64(x), Arg::U64(x), Arg::U64(d)];
    let from = Instant::now();
    let profile = module.launch("matmul_f16", &Launch::linear(64, 32), &args, &memory)?;
    report("matmul_f16", from, &profile);
    println!("matmul_f16: {:.2e} multiply-adds", profile.matrix_multiply_adds as f64);
    Ok(())
}
