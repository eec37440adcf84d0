//! A folder that tests and measures the crate on a machine with an NVIDIA GPU: programs, fixtures and a script, for any
//! Linux on x86-64, without Rust and without a network.
//!
//! It is a whole build with a profile of its own, eight minutes of processor time where nothing is built yet: that is why
//! `.ci/run` leaves it out. What the script does is tested with programs that only pretend.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ptx::cannot;
use crate::{candle, command, executable, output, ptx};

/// A program: what it is to cargo, its name there, and its name in the bundle.
type Program = (&'static str, &'static str, &'static str);

const PROGRAMS: [Program; 5] = [
    ("--test", "suite", "suite"),
    ("--example", "conformance", "conformance"),
    ("--example", "race", "race"),
    ("--example", "devices", "devices"),
    ("--bench", "operators", "operators"),
];

/// Those of the crate for candle, which want CUDA's libraries besides the driver.
const CANDLE: [Program; 2] = [("--test", "suite", "candle-suite"), ("--bench", "candle", "candle")];

const PROFILE: &str = "portable";

/// Bytes of the whole folder at most.
const LIMIT: u64 = 60_000_000;

/// What the machine runs.
const SCRIPT: &str = include_str!("bundle/run.sh");

/// What a bundle is made of, in `NAME=VALUE` lines for the script. Also the sign that a folder is one.
const NOTE: &str = "bundle.txt";

/// Makes the bundle in `folder`, in place of an earlier one.
pub(crate) fn write(root: &Path, folder: &Path) -> Result<(), String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("a bundle holds programs for Linux on x86-64: make it there".to_owned());
    }
    let programs = build(root)?;
    clear(folder)?;
    let mut newest = Vec::new();
    for (name, from) in programs {
        let to = folder.join("bin").join(name);
        copy(&from, &to)?;
        let program = fs::read(&to).map_err(|error| cannot("read", &to, error))?;
        newest = newest.max(newest_glibc(&program));
        pack(&to)?;
    }
    copy(&root.join("tests/fixtures"), &folder.join("fixtures"))?;
    for script in ["pytorch.py", "pytorch_layers.py", "pytorch_operators.py"] {
        copy(&root.join("benches").join(script), &folder.join(script))?;
    }
    save(&folder.join("run.sh"), SCRIPT)?;
    executable(&folder.join("run.sh"))?;
    let glibc = dotted(&newest);
    let note = format!("commit={}\nglibc={glibc}\n", commit(root));
    save(&folder.join(NOTE), &note)?;

    let mut bytes = 0;
    for (path, size) in sizes(folder)? {
        bytes += size;
        if size >= 1 << 20 {
            eprintln!("{:>10} bytes: {}", size, path.display());
        }
    }
    println!("{}: {bytes} bytes of at most {LIMIT}; it needs glibc {glibc} or newer", folder.display());
    if bytes <= LIMIT { Ok(()) } else { Err(format!("{bytes} bytes are more than {LIMIT}")) }
}

/// Leaves a file gzipped, a third of its size, with its mode; the script unpacks it.
fn pack(path: &Path) -> Result<(), String> {
    crate::run(Command::new("gzip").arg("-9").arg(path))
}

/// Builds the programs; their names in the bundle, and where they are.
fn build(root: &Path) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let flags =
        ["build", "--profile", PROFILE, "--all-features", "--message-format", "json-render-diagnostics"];
    let own = output(&mut command(flags.into_iter().chain(targets(&PROGRAMS))))?;
    let targets: Vec<&str> = targets(&CANDLE).collect();
    let candle = candle::build(root, &ptx::target(root), PROFILE, &targets)?;
    Ok([found(&PROGRAMS, &own)?, found(&CANDLE, &candle)?].concat())
}

/// How cargo is told what to build.
fn targets(programs: &[Program]) -> impl Iterator<Item = &'static str> {
    programs.iter().flat_map(|&(kind, name, _)| [kind, name])
}

/// The programs among those that cargo says it built.
fn found(programs: &[Program], messages: &str) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let built = executables(messages);
    let find = |&(_, name, bundled): &Program| {
        let path = built.iter().find(|path| is_program(path, name));
        path.map(|path| (bundled, path.clone())).ok_or_else(|| format!("cargo built no program {name}"))
    };
    programs.iter().map(find).collect()
}

/// The programs that cargo's messages, a line of JSON each, say were built.
fn executables(messages: &str) -> Vec<PathBuf> {
    // No backslash: cargo writes paths of Linux as they are, but for quotes and backslashes, which nobody has in them.
    let path = |line: &str| Some(line.split_once("\"executable\":\"")?.1.split_once('"')?.0.into());
    messages.lines().filter_map(path).collect()
}

/// Whether a file is the program of that name, with or without cargo's hash.
fn is_program(path: &Path, name: &str) -> bool {
    let hash = |rest: &str| rest.len() == 16 && rest.chars().all(|c| c.is_ascii_hexdigit());
    let rest = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(hash))
}

/// An empty folder. What is there goes only if it is an earlier bundle.
fn clear(folder: &Path) -> Result<(), String> {
    if folder.join(NOTE).is_file() {
        fs::remove_dir_all(folder).map_err(|error| cannot("remove", folder, error))?;
    }
    fs::create_dir_all(folder).map_err(|error| cannot("create", folder, error))?;
    let mut entries = fs::read_dir(folder).map_err(|error| cannot("read", folder, error))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => {
            Err(format!("{} holds something else than a bundle: nothing was written", folder.display()))
        }
    }
}

/// Copies a file or a whole folder.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if from.is_dir() {
        for entry in fs::read_dir(from).map_err(|error| cannot("read", from, error))? {
            let entry = entry.map_err(|error| cannot("read", from, error))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|error| cannot("create", folder, error))?;
    }
    fs::copy(from, to).map(drop).map_err(|error| cannot("copy", from, error))
}

fn save(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| cannot("write", path, error))
}

/// The files of a folder at any depth, in order, and their bytes.
fn sizes(folder: &Path) -> Result<Vec<(PathBuf, u64)>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| cannot("read", folder, error))?;
    let paths: Result<BTreeSet<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    for path in paths.map_err(|error| cannot("read", folder, error))? {
        if path.is_dir() {
            found.extend(sizes(&path)?);
        } else {
            let data = path.metadata().map_err(|error| cannot("read", &path, error))?;
            found.push((path, data.len()));
        }
    }
    Ok(found)
}

/// The newest version of glibc whose symbols a program wants: they stand in it by name, `GLIBC_2.34`.
fn newest_glibc(program: &[u8]) -> Vec<u32> {
    const PREFIX: &[u8] = b"GLIBC_";
    let version = |at: usize| {
        let digits =
            program[at + PREFIX.len()..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
        let digits: String = digits.map(|&byte| char::from(byte)).collect();
        digits.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    let starts = program.windows(PREFIX.len()).enumerate().filter(|(_, window)| *window == PREFIX);
    starts.filter_map(|(at, _)| version(at)).max().unwrap_or_default()
}

fn dotted(version: &[u32]) -> String {
    version.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// The commit that is built, and whether anything was changed since.
fn commit(root: &Path) -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
    if changed { format!("{commit}, changed") } else { commit }
}

#[cfg(test)]
mod tests;
