//! The pinned compilers, as packages of Python: fetched by pip, checked against their sums, unpacked once.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::cannot;

/// A wheel for Linux on x86-64, and which of its files are needed.
struct Wheel {
    package: &'static str,
    version: &'static str,
    file: &'static str,
    sha256: &'static str,
    /// What the names of the files begin with.
    needed: &'static str,
}

/// Compiles CUDA C++ to PTX 8.4, which drivers load from 550 on.
const NVRTC: Wheel = Wheel {
    package: "nvidia-cuda-nvrtc-cu12",
    version: "12.4.127",
    file: "nvidia_cuda_nvrtc_cu12-12.4.127-py3-none-manylinux2014_x86_64.whl",
    sha256: "a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338",
    needed: "nvidia/cuda_nvrtc/lib/",
};

/// The headers of the same version.
const HEADERS: Wheel = Wheel {
    package: "nvidia-cuda-runtime-cu12",
    version: "12.4.127",
    file: "nvidia_cuda_runtime_cu12-12.4.127-py3-none-manylinux2014_x86_64.whl",
    sha256: "64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5",
    needed: "nvidia/cuda_runtime/include/",
};

/// The C++ library of the same version, which candle's kernels want.
const LIBRARY: Wheel = Wheel {
    package: "nvidia-cuda-cccl-cu12",
    version: "12.4.127.post1",
    file: "nvidia_cuda_cccl_cu12-12.4.127.post1-py3-none-manylinux2014_x86_64.whl",
    sha256: "2027fa5fc75fbee703bf24e8275a40a605cf94a3e8fef8a7187897d49b34facb",
    needed: "nvidia/cuda_cccl/include/",
};

/// Assembles for every architecture up to sm_120.
const PTXAS: Wheel = Wheel {
    package: "nvidia-cuda-nvcc-cu12",
    version: "12.9.86",
    file: "nvidia_cuda_nvcc_cu12-12.9.86-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
    sha256: "5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
    needed: "nvidia/cuda_nvcc/bin/ptxas",
};

/// Where the tools lie.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The folder of libnvrtc.
    pub(crate) nvrtc: PathBuf,
    /// The folder of the headers.
    pub(crate) headers: PathBuf,
    /// The assembler.
    pub(crate) ptxas: PathBuf,
}

/// The tools, fetched into `folder` where they are not there yet.
pub(crate) fn tools(folder: &Path) -> Result<Tools, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("the pinned compilers are for Linux on x86-64: run `cargo xtask ptx` there".to_owned());
    }
    let ptxas = unpacked(&PTXAS, folder)?.join(PTXAS.needed);
    // Python's zipfile forgets who may run what.
    crate::executable(&ptxas)?;
    Ok(Tools {
        nvrtc: unpacked(&NVRTC, folder)?.join(NVRTC.needed),
        headers: unpacked(&HEADERS, folder)?.join(HEADERS.needed),
        ptxas,
    })
}

/// The folder of the C++ library's headers, fetched into `folder` where they are not there yet.
pub(crate) fn library(folder: &Path) -> Result<PathBuf, String> {
    Ok(unpacked(&LIBRARY, folder)?.join(LIBRARY.needed))
}

/// What compiles the kernels of others, in a line: another compiler is another line.
pub(crate) fn compilers() -> String {
    [&NVRTC, &HEADERS, &LIBRARY].map(|wheel| format!("{} {}", wheel.package, wheel.version)).join(", ")
}

/// The folder of what is needed of a wheel.
fn unpacked(wheel: &Wheel, folder: &Path) -> Result<PathBuf, String> {
    let done = folder.join(format!("{}-{}", wheel.package, wheel.version));
    if done.is_dir() {
        return Ok(done);
    }
    let archive = fetched(wheel, &folder.join("wheels"))?;
    // Under its own name only when whole, so that what was interrupted is begun anew.
    let partial = folder.join(format!("{}-{}.partial-{}", wheel.package, wheel.version, std::process::id()));
    fs::create_dir_all(&partial).map_err(|error| cannot("create", &partial, error))?;
    const SCRIPT: &str = "import sys, zipfile\n\
        wheel = zipfile.ZipFile(sys.argv[1])\n\
        wheel.extractall(sys.argv[2], [n for n in wheel.namelist() if n.startswith(sys.argv[3])])";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(&archive).arg(&partial).arg(wheel.needed);
    run(&mut command, &format!("unpacking {}", wheel.file))?;
    let renamed = fs::rename(&partial, &done);
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    // Another run may have been faster.
    if done.is_dir() {
        Ok(done)
    } else {
        renamed.map(|()| done.clone()).map_err(|e| cannot("create", &done, e))
    }
}

/// The wheel's file, with the sum that it must have.
fn fetched(wheel: &Wheel, folder: &Path) -> Result<PathBuf, String> {
    let path = folder.join(wheel.file);
    if path.is_file() && sum(&path)? == wheel.sha256 {
        return Ok(path);
    }
    fs::create_dir_all(folder).map_err(|error| cannot("create", folder, error))?;
    let mut command = Command::new("python3");
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"])
        .args(["--quiet", "--dest"])
        .arg(folder)
        .arg(format!("{}=={}", wheel.package, wheel.version));
    eprintln!("== fetching {} {}", wheel.package, wheel.version);
    run(&mut command, &format!("fetching {} {} with pip", wheel.package, wheel.version))?;
    if !path.is_file() {
        return Err(format!("pip fetched {} {}, but not as {}", wheel.package, wheel.version, wheel.file));
    }
    let sum = sum(&path)?;
    if sum != wheel.sha256 {
        let _ = fs::remove_file(&path);
        return Err(format!("{} has the SHA-256 sum {sum}, and not {}", wheel.file, wheel.sha256));
    }
    Ok(path)
}

/// The SHA-256 sum of a file, in hexadecimal.
fn sum(path: &Path) -> Result<String, String> {
    let mut file = fs::File::open(path).map_err(|error| cannot("read", path, error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(|error| cannot("read", path, error))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{what}: cannot run python3: {error}\n{ADVICE}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {}\n{}\n{ADVICE}", output.status, said.trim_end()))
}

const ADVICE: &str = "\
The compilers come as packages of Python. What is needed is python3 with pip, and the package index:
  Debian, Ubuntu: apt-get install python3 python3-pip
  another index:  set PIP_INDEX_URL
  no network:     set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder with the wheels";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standard() {
        let path = std::env::temp_dir().join(format!("lightspan-sum-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        let found = sum(&path);
        fs::remove_file(&path).unwrap();
        // FIPS 180-4.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found.as_deref(), Ok(abc));
    }

    #[test]
    fn what_fails_says_what_to_do() {
        let error = run(&mut Command::new("python3-that-is-not-there"), "fetching").unwrap_err();
        assert!(error.contains("PIP_FIND_LINKS") && error.starts_with("fetching: cannot run"), "{error}");
    }
}
