//! The device of a command line.

use lightspan::{Backend, Device};

/// A backend, or an adapter of wgpu by a part of its name; without either the fastest there is.
pub(crate) fn open(backend: Option<Backend>, adapter: Option<&str>) -> Result<Device, String> {
    let opened = match (backend, adapter) {
        (None, None) => Ok(Device::best()),
        (Some(backend), None) => Device::open(backend),
        (None | Some(Backend::Wgpu), Some(name)) => named(name),
        (Some(backend), Some(_)) => return Err(format!("--adapter is for wgpu, not for {backend}")),
    };
    opened.map_err(|error| error.to_string())
}

#[cfg(feature = "wgpu")]
fn named(adapter: &str) -> lightspan::Result<Device> {
    Device::wgpu_named(adapter)
}

/// The error that says why there is none.
#[cfg(not(feature = "wgpu"))]
fn named(_: &str) -> lightspan::Result<Device> {
    Device::open(Backend::Wgpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_the_one_asked_for() {
        assert_eq!(open(Some(Backend::Cpu), None).unwrap().backend(), Backend::Cpu);
        let error = |backend, adapter| open(backend, Some(adapter)).err().unwrap();
        assert_eq!(error(Some(Backend::Cpu), "llvmpipe"), "--adapter is for wgpu, not for cpu");
        assert!(error(None, "no such adapter").starts_with("wgpu is not available: "));
    }
}
