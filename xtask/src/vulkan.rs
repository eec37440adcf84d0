//! An adapter for the tests of wgpu: one that the machine has, or software that is installed for them.

use std::fs;
use std::process::Command;

/// Mesa's software Vulkan and the library that finds it, as Debian and Ubuntu call them.
const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];

/// What the example `devices` prints before the name of an adapter.
const REAL: &str = "wgpu, real: ";
const SOFTWARE: &str = "wgpu, software: ";

/// Which adapter wgpu is tested on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Adapter {
    pub(crate) name: String,
    /// Software is opened only by its name.
    pub(crate) real: bool,
}

impl Adapter {
    /// The first real one that the example `devices` lists, or else the first: the choice of the tests.
    fn listed(devices: &str) -> Option<Adapter> {
        let first = |prefix: &str, real| {
            let name = devices.lines().find_map(|line| line.strip_prefix(prefix))?;
            Some(Adapter { name: name.to_owned(), real })
        };
        first(REAL, true).or_else(|| first(SOFTWARE, false))
    }

    /// How the examples are told to run on it.
    pub(crate) fn flags(&self) -> [&str; 2] {
        if self.real { ["--backend", "wgpu"] } else { ["--adapter", &self.name] }
    }

    /// How the benchmarks are told.
    pub(crate) fn bench_device(&self) -> &str {
        if self.real { "wgpu" } else { &self.name }
    }
}

/// An adapter of this machine, by what `devices` lists; where there is none, software is installed if that may be.
pub(crate) fn adapter(devices: impl Fn() -> Result<String, String>) -> Result<Adapter, String> {
    if let Some(adapter) = Adapter::listed(&devices()?) {
        return Ok(adapter);
    }
    eprintln!(
        "== wgpu finds no adapter: the tests need a GPU with a driver for it, or Mesa's software Vulkan"
    );
    install().map_err(|why| format!("{why}\n{}", advice()))?;
    Adapter::listed(&devices()?)
        .ok_or_else(|| format!("{} are installed, and yet no adapter is found\n{}", packages(), advice()))
}

/// Installs [`PACKAGES`], where the system has apt and the rights are there.
fn install() -> Result<(), String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian(&release) {
        return Err("this is neither Debian nor Ubuntu: nothing was installed".to_owned());
    }
    // Not asked for a password: nobody may be there to give it.
    let root: &[&str] = if is_root() {
        &[]
    } else if succeeds(&["sudo", "-n", "true"]) {
        &["sudo", "-n"]
    } else {
        return Err("not root, and sudo wants a password: nothing was installed".to_owned());
    };
    // A list of packages that cannot be fetched need not be one of those that are needed.
    if let Err(error) = apt(root, &["update"]) {
        eprintln!("== {error}; going on with the lists that are there");
    }
    apt(root, &[&["install", "--yes", "--no-install-recommends"], PACKAGES.as_slice()].concat())
}

fn apt(root: &[&str], args: &[&str]) -> Result<(), String> {
    let line = [root, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat();
    eprintln!("== {}", line.join(" "));
    let status = Command::new(line[0]).args(&line[1..]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", line.join(" "))),
        Err(error) => Err(format!("cannot run {}: {error}", line.join(" "))),
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn succeeds(line: &[&str]) -> bool {
    Command::new(line[0]).args(&line[1..]).output().is_ok_and(|output| output.status.success())
}

/// Whether `/etc/os-release` is that of Debian, Ubuntu or one made of them.
fn is_debian(release: &str) -> bool {
    let values =
        release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    values.flat_map(|value| value.trim_matches('"').split(' ')).any(|id| id == "debian" || id == "ubuntu")
}

fn packages() -> String {
    PACKAGES.join(" and ")
}

fn advice() -> String {
    format!(
        "wgpu needs an adapter: a GPU with its driver for Vulkan, Metal or DX12, or Mesa's software Vulkan:\n  \
         Debian, Ubuntu: apt-get install {}\n  \
         Fedora:         dnf install mesa-vulkan-drivers vulkan-loader\n  \
         Arch:           pacman -S vulkan-swrast vulkan-icd-loader\n\
         or test everything else: cargo xtask test --skip wgpu",
        PACKAGES.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_adapters_come_first() {
        let software =
            "cpu: cpu (2 threads)\n  Device::cpu()\nwgpu, software: llvmpipe (LLVM 15)\n  by name\n";
        let adapter = |name: &str, real| Some(Adapter { name: name.to_owned(), real });
        assert_eq!(Adapter::listed("cpu: cpu (2 threads)\n"), None);
        assert_eq!(Adapter::listed(software), adapter("llvmpipe (LLVM 15)", false));
        assert_eq!(Adapter::listed(&format!("{software}wgpu, real: A GPU\n")), adapter("A GPU", true));
    }

    #[test]
    fn what_is_not_debian_is_not_touched() {
        for debian in ["NAME=x\nID=debian\n", "ID=ubuntu\nID_LIKE=debian\n", "ID_LIKE=\"ubuntu debian\"\n"] {
            assert!(is_debian(debian), "{debian:?}");
        }
        for other in ["", "ID=fedora\n", "ID=arch\nID_LIKE=\"rhel fedora\"\n", "NAME=debian\n"] {
            assert!(!is_debian(other), "{other:?}");
        }
    }

    #[test]
    fn without_an_adapter_and_without_one_to_install_there_is_none() {
        let broken = adapter(|| Err("the example does not build".to_owned()));
        assert_eq!(broken, Err("the example does not build".to_owned()));
        assert!(advice().contains("cargo xtask test --skip wgpu"));
    }
}
