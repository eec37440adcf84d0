//! Packs the kernels for NVIDIA GPUs, which are text that says the same thing often: a fifth of it goes into an executable.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels/ptx");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    for entry in fs::read_dir("kernels/ptx")? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|end| end == "ptx")) {
            let packed = miniz_oxide::deflate::compress_to_vec(&fs::read(&path)?, 9);
            fs::write(Path::new(&out).join(name).with_extension("deflate"), packed)?;
        }
    }
    Ok(())
}
