//! Which devices there are, and which one is opened.

use ::wgpu::{Adapter, BackendOptions, Backends, DeviceDescriptor, DeviceType, Instance, InstanceDescriptor};

use crate::wgpu::gpu::Gpu;
use crate::{Error, Result};

impl Gpu {
    /// The best real adapter there is. A software one is opened only by its name: the CPU room is faster.
    ///
    /// The environment variable `WGPU_ADAPTER_NAME` names another one, as in [`Gpu::open_named`].
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where there is none; the message lists what there is.
    pub async fn open() -> Result<Self> {
        if let Ok(name) = std::env::var("WGPU_ADAPTER_NAME") {
            return Gpu::open_named(&name).await;
        }
        let adapters = adapters().await;
        let rank = |adapter: &Adapter| match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        };
        match adapters.iter().filter(|adapter| rank(adapter) < 4).min_by_key(|adapter| rank(adapter)) {
            Some(adapter) => Gpu::open_adapter(adapter).await,
            None => Err(unavailable("no GPU has a driver for Vulkan, Metal or DX12", &adapters)),
        }
    }

    /// The first adapter whose name contains `name`, upper or lower case: `"llvmpipe"` is Mesa's software Vulkan.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where there is none; the message lists what there is.
    pub async fn open_named(name: &str) -> Result<Self> {
        let adapters = adapters().await;
        let name = name.to_lowercase();
        match adapters.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&name)) {
            Some(adapter) => Gpu::open_adapter(adapter).await,
            None => Err(unavailable(&format!("no adapter is called {name:?}"), &adapters)),
        }
    }

    async fn open_adapter(adapter: &Adapter) -> Result<Self> {
        let descriptor = DeviceDescriptor {
            label: Some("lightspan"),
            required_features: adapter.features() & ::wgpu::Features::TIMESTAMP_QUERY,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| {
            let reason = format!("{} cannot be opened: {error}", adapter.get_info().name);
            Error::Unavailable { backend: "wgpu", reason }
        })?;
        let gpu = Gpu::new(device, queue)?;
        gpu.watch();
        Ok(gpu)
    }
}

/// The names of the adapters that this machine has, and whether each is a real one.
pub async fn adapter_names() -> Vec<(String, bool)> {
    let adapters = adapters().await;
    adapters
        .iter()
        .map(Adapter::get_info)
        .map(|info| (info.name, info.device_type != DeviceType::Cpu))
        .collect()
}

async fn adapters() -> Vec<Adapter> {
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::PRIMARY;
    descriptor.backend_options = BackendOptions::from_env_or_default();
    Instance::new(descriptor).enumerate_adapters(Backends::PRIMARY).await
}

fn unavailable(reason: &str, adapters: &[Adapter]) -> Error {
    let names: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
    let found = if names.is_empty() {
        "no adapter was found (on Linux: install a Vulkan driver)".to_owned()
    } else {
        format!("there is {}; software adapters are opened by name only", names.join(", "))
    };
    Error::Unavailable { backend: "wgpu", reason: format!("{reason}; {found}") }
}
