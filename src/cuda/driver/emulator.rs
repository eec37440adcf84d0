//! The emulator: runs the kernels on the CPU, checks what they do and counts their traffic.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ptx_emulator::{Arg, MemoryError, Profile};

use crate::cuda::driver::{Address, Driver, Kernel, Memory, Queue, Source, Target};
use crate::cuda::limits::Limits;
use crate::cuda::modules::Module;
use crate::cuda::plan::Launch;
use crate::gpu::lock;
use crate::{Error, Result};

/// An emulated device.
pub(crate) struct Emulator {
    limits: Limits,
    memory: ptx_emulator::Memory,
    modules: Mutex<HashMap<&'static str, Arc<ptx_emulator::Module>>>,
    /// What the launches did, while somebody wants to know.
    profiles: Mutex<Option<Vec<LaunchProfile>>>,
}

/// What one launch on the emulator did.
#[derive(Clone, Debug)]
pub struct LaunchProfile {
    /// The module of the kernel.
    pub module: &'static str,
    /// The kernel.
    pub entry: &'static str,
    /// Blocks.
    pub grid: u32,
    /// What was counted.
    pub profile: Profile,
}

impl Emulator {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let (memory, modules, profiles) = Default::default();
        Arc::new(Emulator { limits, memory, modules, profiles })
    }

    /// Begins to keep what launches do.
    pub(crate) fn start_profile(&self) {
        lock(&self.profiles).get_or_insert_default();
    }

    /// What the launches did since it was begun, and the end of it.
    pub(crate) fn take_profile(&self) -> Vec<LaunchProfile> {
        lock(&self.profiles).take().unwrap_or_default()
    }

    fn module(&self, module: &Module) -> Result<Arc<ptx_emulator::Module>> {
        let mut modules = lock(&self.modules);
        if let Some(loaded) = modules.get(module.name) {
            return Ok(loaded.clone());
        }
        let loaded = ptx_emulator::Module::load(&module.ptx()?, &self.memory);
        let loaded = loaded.map_err(|error| refused(module.name, &error))?;
        Ok(modules.entry(module.name).insert_entry(Arc::new(loaded)).get().clone())
    }
}

impl Driver for Arc<Emulator> {
    fn name(&self) -> &str {
        "emulated"
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn allocate(&self, what: &'static str, bytes: usize) -> Result<Box<dyn Memory>> {
        let address = self.memory.allocate(what, bytes as u64).map_err(|error| match error {
            MemoryError::NotAnAllocation(_) => refused(what, &error),
            _ => Error::OutOfMemory { what, bytes },
        })?;
        Ok(Box::new(Region { emulator: self.clone(), address, bytes }))
    }

    fn kernel(&self, launch: &Launch) -> Result<Arc<dyn Kernel>> {
        Ok(Arc::new(Function { module: self.module(launch.module)?, entry: launch.entry }))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn queue(&self) -> Queue<'_> {
        Queue::Emulator(self)
    }
}

struct Function {
    module: Arc<ptx_emulator::Module>,
    entry: &'static str,
}

impl Kernel for Function {
    unsafe fn launch(&self, queue: Queue<'_>, launch: &Launch, addresses: &[u64]) -> Result<()> {
        let Queue::Emulator(emulator) = queue else {
            let (expected, got) = ("the emulator".to_owned(), "a CUDA stream".to_owned());
            return Err(Error::Device { tensor: "the queue", expected, got });
        };
        let mut arguments: Vec<_> = addresses.iter().map(|&address| Arg::U64(address)).collect();
        arguments.push(Arg::Bytes(launch.params.bytes().to_vec()));
        let mut shape = ptx_emulator::Launch::linear(launch.grid, launch.block);
        shape.dynamic_shared = launch.shared;
        shape.shared_limit = emulator.limits.shared_memory;
        let profile = self
            .module
            .launch(self.entry, &shape, &arguments, &emulator.memory)
            .map_err(|error| refused(self.entry, &error))?;
        if let Some(profiles) = lock(&emulator.profiles).as_mut() {
            profiles.push(LaunchProfile {
                module: launch.module.name,
                entry: self.entry,
                grid: launch.grid,
                profile,
            });
        }
        Ok(())
    }
}

/// An allocation.
struct Region {
    emulator: Arc<Emulator>,
    address: u64,
    bytes: usize,
}

impl Region {
    fn on<'a>(&self, queue: Queue<'a>) -> Option<Address<'a>> {
        match queue {
            Queue::Emulator(emulator) if Arc::ptr_eq(emulator, &self.emulator) => {
                Some(Address { address: self.address, _in_use: None })
            }
            _ => None,
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // It was allocated, and is freed once.
        let _ = self.emulator.memory.free(self.address);
    }
}

impl Source for Region {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn address<'a>(&'a self, queue: Queue<'a>) -> Option<Address<'a>> {
        self.on(queue)
    }
}

impl Target for Region {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn address_mut<'a>(&'a mut self, queue: Queue<'a>) -> Option<Address<'a>> {
        self.on(queue)
    }
}

impl Memory for Region {
    fn clear(&mut self) -> Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        for start in (0..self.bytes).step_by(ZEROS.len()) {
            let part = &ZEROS[..ZEROS.len().min(self.bytes - start)];
            let written = self.emulator.memory.write(self.address + start as u64, part);
            written.map_err(|error| refused("to clear memory", &error))?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.emulator.memory.write(self.address, bytes).map_err(|error| refused("an upload", &error))
    }

    fn read(&self, bytes: &mut [u8]) -> Result<()> {
        let read = self.emulator.memory.read_into(self.address, bytes);
        read.map_err(|error| refused("a download", &error))
    }
}

fn refused(what: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Driver { what, reason: error.to_string() }
}
