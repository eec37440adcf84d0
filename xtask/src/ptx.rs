//! From `kernels/*.cu` to the text in `kernels/ptx/` that the crate embeds.
//!
//! The compilers are pinned, and fetched into the target folder: neither a GPU nor a toolkit is needed. The newest PTX
//! that a driver loads depends on the driver, so the kernels are compiled by an old NVRTC; what they become on each
//! architecture is judged by a newer ptxas.

mod modules;
mod nvrtc;
mod ptxas;
mod tidy;
mod wheels;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{env, thread};

use modules::Module;
use nvrtc::Nvrtc;
use wheels::Tools;

/// What the kernels ask of a device at least.
const ARCHITECTURE: &str = "compute_80";

/// Bytes of text at most; an executable holds a fifth of it, since the build packs it.
const LIMIT: u64 = 12_000_000;

/// Compiles every module into `kernels/ptx/`, and removes what no module is called.
pub(crate) fn write(root: &Path) -> Result<(), String> {
    let (_, texts) = compile(root)?;
    let folder = committed(root);
    fs::create_dir_all(&folder).map_err(|error| cannot("create", &folder, error))?;
    for path in stale(&folder, &texts)? {
        fs::remove_file(&path).map_err(|error| cannot("remove", &path, error))?;
    }
    for (name, text) in &texts {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| cannot("write", &path, error))?;
        eprintln!("{name}: {} bytes", text.len());
    }
    within_limit(&texts)
}

/// Compiles every module again and compares; assembles all, and fails where an entry keeps registers in memory.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let (tools, texts) = compile(root)?;
    let fresh = target(root).join("ptx/fresh");
    fs::create_dir_all(&fresh).map_err(|error| cannot("create", &fresh, error))?;
    let folder = committed(root);
    let mut wrong = Vec::new();
    for path in stale(&folder, &texts)? {
        wrong.push(format!("{} is of no module", path.display()));
    }
    for (name, text) in &texts {
        let path = fresh.join(name);
        fs::write(&path, text).map_err(|error| cannot("write", &path, error))?;
        match fs::read_to_string(folder.join(name)) {
            Ok(committed) if committed == *text => {}
            Ok(_) => wrong.push(format!("{} differs from {}", folder.join(name).display(), path.display())),
            Err(error) => wrong.push(cannot("read", &folder.join(name), error)),
        }
    }
    if !wrong.is_empty() {
        wrong.push("`cargo xtask ptx` writes them anew".to_owned());
    }
    let names: Vec<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
    let jobs: Vec<(&str, &ptxas::Architecture)> = names
        .iter()
        .flat_map(|&name| ptxas::ARCHITECTURES.iter().map(move |architecture| (name, architecture)))
        .collect();
    let assembled = in_parallel(&jobs, |&(name, architecture)| {
        ptxas::assemble(&tools.ptxas, &fresh.join(name), architecture)
    });
    let mut rows = Vec::new();
    for (assembled, (name, _)) in assembled.into_iter().zip(&jobs) {
        for row in assembled? {
            let module = name.trim_end_matches(".ptx");
            if row.in_memory() {
                wrong.push(format!(
                    "{module}, {}, {}: {} bytes of stack, {} of spill stores, {} of spill loads",
                    row.entry, row.architecture.name, row.stack, row.spill_stores, row.spill_loads
                ));
            }
            rows.push((module, row));
        }
    }
    print!("{}", ptxas::table(&rows));
    if let Err(error) = within_limit(&texts) {
        wrong.push(error);
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The text of every module, by the name of its file.
fn compile(root: &Path) -> Result<(Tools, Vec<(String, String)>), String> {
    let kernels = root.join("kernels");
    let modules = modules::all(&kernels)?;
    let tools = wheels::tools(&target(root).join("ptx"))?;
    let nvrtc = Nvrtc::load(&tools.nvrtc)?;
    let include = [kernels.as_path(), tools.headers.as_path()];
    let text = |module: &Module| {
        let text = nvrtc.compile(module, ARCHITECTURE, &include)?;
        Ok((format!("{}.ptx", module.name), tidy::tidy(&text)))
    };
    let texts: Result<Vec<_>, String> = in_parallel(&modules, text).into_iter().collect();
    Ok((tools, texts?))
}

/// Fetches what [`foreign`] needs, and says in a line what it is.
pub(crate) fn prepare(root: &Path) -> Result<String, String> {
    let folder = target(root).join("ptx");
    wheels::tools(&folder)?;
    wheels::library(&folder)?;
    Ok(wheels::compilers())
}

/// The PTX of a file of another project, with the headers beside it, those in `include`, and those of CUDA.
pub(crate) fn foreign(root: &Path, path: &Path, include: &Path) -> Result<String, String> {
    let folder = target(root).join("ptx");
    let (tools, library) = (wheels::tools(&folder)?, wheels::library(&folder)?);
    let beside = path.parent().unwrap_or(path);
    let include = [beside, include, &tools.headers, &library];
    Nvrtc::load(&tools.nvrtc)?.compile_foreign(path, ARCHITECTURE, &include)
}

fn within_limit(texts: &[(String, String)]) -> Result<(), String> {
    let bytes: u64 = texts.iter().map(|(_, text)| text.len() as u64).sum();
    println!("{} modules, {bytes} bytes of at most {LIMIT}", texts.len());
    if bytes <= LIMIT { Ok(()) } else { Err(format!("{bytes} bytes of PTX are more than {LIMIT}")) }
}

/// Files of PTX that are not among `texts`.
fn stale(folder: &Path, texts: &[(String, String)]) -> Result<Vec<PathBuf>, String> {
    Ok(files(folder, "ptx")?
        .into_iter()
        .filter(|path| !texts.iter().any(|(name, _)| path.ends_with(name)))
        .collect())
}

/// Files of a folder that end so, in the order of their names; none where there is no folder.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(|error| cannot("read", folder, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| cannot("read", folder, error))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// What `work` makes of each job, in their order, on all processors.
fn in_parallel<J: Sync, T: Send>(jobs: &[J], work: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let result = work(job);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn committed(root: &Path) -> PathBuf {
    root.join("kernels/ptx")
}

/// Where cargo builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

pub(crate) fn cannot(verb: &str, path: &Path, error: impl std::fmt::Display) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_jobs() {
        let jobs: Vec<usize> = (0..100).collect();
        assert_eq!(in_parallel(&jobs, |job| job * 2), (0..100).map(|job| job * 2).collect::<Vec<_>>());
        assert!(in_parallel(&[], |job: &usize| *job).is_empty());
    }

    #[test]
    fn too_much_text_is_an_error() {
        let text = |bytes: usize| vec![("a.ptx".to_owned(), "x".repeat(bytes))];
        assert!(within_limit(&text(LIMIT as usize)).is_ok());
        assert!(within_limit(&text(LIMIT as usize + 1)).is_err());
    }
}
