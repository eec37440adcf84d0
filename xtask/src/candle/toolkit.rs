//! What the build of candle's CUDA devices finds in the place of a CUDA toolkit.
//!
//! - A compiler. To candle it is `nvcc`; kernels that are PTX, which the driver compiles further, are made by the NVRTC that
//!   makes ours. Where it is not told of one, and for what is machine code in a library of its own (quantised models,
//!   mixtures of experts), it makes empty files: a program that called any of that would not link.
//! - Libraries, of names only. The machine that runs the program has the real ones: they are asked for without a version, so
//!   that whoever starts the program chooses which.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ptx::{cannot, prepare};
use crate::{cargo, command, output, run};

/// The CUDA version whose functions candle calls: that of the compiler of its kernels.
const VERSION: &str = "12040";

/// What the kernels are compiled for, as ours are.
const CAPABILITY: &str = "80";

/// Tells [`NVCC`] the program that makes PTX of `SOURCE` in a folder: `PROGRAM kernel SOURCE FOLDER`.
const COMPILER: &str = "LIGHTSPAN_KERNEL_COMPILER";

/// Stands in for NVIDIA's compiler.
const NVCC: &str = r#"#!/bin/sh
out= folder= source=
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift ;;
        --output-directory) folder=$2; shift ;;
        *.cu) source=$1 ;;
    esac
    shift
done
if [ -n "$folder" ] && [ -n "$LIGHTSPAN_KERNEL_COMPILER" ]; then
    exec "$LIGHTSPAN_KERNEL_COMPILER" kernel "$source" "$folder"
elif [ -n "$folder" ]; then
    : > "$folder/$(basename "$source" .cu).ptx"
fi
case $out in
    "") ;;
    *.a) echo '!<arch>' > "$out" ;;
    *) : > "$out" ;;
esac
"#;

/// The modules of cudarc that declare the functions of a library, the library, and the name by which a program asks for it:
/// what `run.sh` finds for the program.
const LIBRARIES: [(&str, &str, &str); 4] = [
    ("driver", "cuda", "libcuda.so.1"),
    ("cublas", "cublas", "libcublas.so"),
    ("cublaslt", "cublasLt", "libcublasLt.so"),
    ("curand", "curand", "libcurand.so"),
];

/// Libraries that candle names too, and of which nothing is called but by the kernels that are left out: not a function.
const UNUSED: [&str; 2] = ["nvrtc", "cudart"];

/// Lets a command of cargo check candle's CUDA devices: no type depends on what is in the kernels, and nothing is linked.
pub(crate) fn check(command: &mut Command, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| cannot("create", folder, error))?;
    build_with(command, &nvcc(folder)?);
    Ok(())
}

/// Lets a command of cargo build candle's CUDA devices, in that profile.
pub(crate) fn link(root: &Path, command: &mut Command, profile: &str, folder: &Path) -> Result<(), String> {
    // candle's build keeps what it compiled while its sources stay the same, whatever compiles them.
    let made_by = format!("{}\n{}", prepare(root)?, headers(&include(root))?);
    let note = folder.join("made-by.txt");
    if fs::read_to_string(&note).ok().as_ref() != Some(&made_by) {
        cargo(["clean", "--profile", profile, "--package", "candle-kernels"])?;
    }
    let libraries = folder.join("lib");
    fs::create_dir_all(&libraries).map_err(|error| cannot("create", &libraries, error))?;
    let declared = declarations()?;
    for (module, library, soname) in LIBRARIES {
        let path = declared.join(format!("src/{module}/sys/mod.rs"));
        let text = fs::read_to_string(&path).map_err(|error| cannot("read", &path, error))?;
        let names = functions(&text);
        if names.is_empty() {
            return Err(format!("{} declares no function", path.display()));
        }
        names_only(&libraries, library, soname, &names)?;
    }
    for library in UNUSED {
        names_only(&libraries, library, &format!("lib{library}.so"), &[])?;
    }
    build_with(command, &nvcc(folder)?);
    let program = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    command.env("CUDA_HOME", folder).env(COMPILER, program);
    fs::write(&note, made_by).map_err(|error| cannot("write", &note, error))
}

/// Makes the PTX of a kernel of candle's: what [`NVCC`] hands over.
pub(crate) fn kernel(root: &Path, source: &Path, folder: &Path) -> Result<(), String> {
    let ptx = crate::ptx::foreign(root, source, &include(root))?;
    let name = Path::new(source.file_name().unwrap_or_default()).with_extension("ptx");
    let path = folder.join(name);
    fs::write(&path, ptx).map_err(|error| cannot("write", &path, error))
}

/// Headers of the host that the kernels want, and NVRTC has not.
fn include(root: &Path) -> PathBuf {
    root.join("xtask/src/candle/include")
}

/// The text of every header in a folder.
fn headers(folder: &Path) -> Result<String, String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| cannot("read", folder, error))? {
        let path = entry.map_err(|error| cannot("read", folder, error))?.path();
        texts.push(fs::read_to_string(&path).map_err(|error| cannot("read", &path, error))?);
    }
    texts.sort();
    Ok(texts.concat())
}

/// Without a toolkit, neither its version nor the GPU's architecture can be found out.
fn build_with(command: &mut Command, nvcc: &Path) {
    command.env("NVCC", nvcc).env("CUDARC_CUDA_VERSION", VERSION).env("CUDA_COMPUTE_CAP", CAPABILITY);
}

/// Writes the compiler, and says where it is.
fn nvcc(folder: &Path) -> Result<PathBuf, String> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).map_err(|error| cannot("create", &bin, error))?;
    let path = bin.join("nvcc");
    // What is there already may be in use.
    if fs::read_to_string(&path).ok().as_deref() != Some(NVCC) {
        fs::write(&path, NVCC).map_err(|error| cannot("write", &path, error))?;
    }
    crate::executable(&path)?;
    Ok(path)
}

/// The folder of cudarc's source.
fn declarations() -> Result<PathBuf, String> {
    let metadata = output(&mut command(["metadata", "--format-version", "1", "--all-features"]))?;
    // The package itself begins so, and those that depend on it do not.
    let package = metadata.split_once("{\"name\":\"cudarc\",\"version\":").map(|(_, rest)| rest);
    let manifest = package.and_then(|rest| rest.split_once("\"manifest_path\":\"")?.1.split_once('"'));
    let folder = manifest.and_then(|(path, _)| Path::new(path).parent());
    folder.map(Path::to_owned).ok_or_else(|| "cargo does not say where cudarc's source is".to_owned())
}

/// The functions that a module of cudarc declares, for any version.
fn functions<'a>(text: &'a str) -> Vec<&'a str> {
    let name = |line: &'a str| Some(line.strip_prefix("pub unsafe fn ")?.split_once('(')?.0);
    let mut names: Vec<&str> = text.lines().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Makes a library of functions that do nothing.
fn names_only(folder: &Path, library: &str, soname: &str, names: &[&str]) -> Result<(), String> {
    let source = folder.join(format!("{library}.c"));
    let text: String = names.iter().map(|name| format!("void {name}(void) {{}}\n")).collect();
    fs::write(&source, text).map_err(|error| cannot("write", &source, error))?;
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-nostdlib", "-o"]).arg(folder.join(format!("lib{library}.so")));
    run(command.arg(format!("-Wl,-soname,{soname}")).arg(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_once() {
        let text = "pub unsafe fn b(x: i32) -> i32 {\n        fn b(x: i32);\n}\npub unsafe fn a() {\n}\n\
                    pub unsafe fn b(x: i64) -> i32 {\npub type c = i32;\n";
        assert_eq!(functions(text), ["a", "b"]);
    }

    #[test]
    fn what_candle_wants_of_a_c_header_is_there() {
        let root = crate::root();
        let texts = headers(&include(&root)).unwrap();
        for name in ["INFINITY", "M_SQRT1_2", "M_2_SQRTPI", "cuda/std/cstdint"] {
            assert!(texts.contains(name), "{name}");
        }
    }
}
