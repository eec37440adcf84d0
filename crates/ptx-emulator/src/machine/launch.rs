//! Modules and launches: the face of the crate.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ast::Storage;
use crate::decode::{Symbols, decode};
use crate::error::{Located, ParseError};
use crate::fault::Fault;
use crate::machine::block::Block;
use crate::memory::{Memory, MemoryError};
use crate::parse::parse;
use crate::profile::Profile;
use crate::program::Program;

/// Warp instructions that take about as long as a thread to start.
const WORTH_A_THREAD: u64 = 2000;

/// A module that can be launched: decoded, its variables in memory.
#[derive(Debug)]
pub struct Module {
    source: String,
    programs: Vec<Program>,
    /// Where its variables lie.
    variables: Vec<u64>,
}

/// A module that could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The text.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Room for its variables.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// An argument of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// Four bytes.
    U32(u32),
    /// Four bytes.
    I32(i32),
    /// Four bytes.
    F32(f32),
    /// Eight bytes; an address is one of these.
    U64(u64),
    /// A structure, as it lies in memory.
    Bytes(Vec<u8>),
}

/// How a kernel is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block along each axis.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Bytes of shared memory that a block may have, static and dynamic: by default 227 KiB, the most of any device.
    pub shared_limit: u32,
    /// Whether shared memory is watched for races. On unless turned off.
    pub races: bool,
    /// Warp instructions that a block may run.
    pub instruction_limit: u64,
    /// Blocks that run at the same time, at most; by default as many as the machine has threads.
    pub threads: Option<NonZero<usize>>,
}

/// A launch that was refused, or a kernel that faulted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// What the kernel did. Of several faulting blocks, the first.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// No entry of that name.
    #[error("the module has no entry `{0}`")]
    NoEntry(String),
    /// Arguments that do not fit the parameters.
    #[error("{0}")]
    Arguments(String),
    /// A grid or block that no device would run, or that the kernel's directives rule out.
    #[error("{0}")]
    Shape(String),
}

/// The numbers of a launch that its blocks ask for.
#[derive(Debug)]
pub(crate) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub instruction_limit: u64,
    pub races: bool,
}

impl Shape {
    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// `%tid` of a thread.
    pub(crate) fn thread(&self, linear: u32) -> [u32; 3] {
        unravel(linear.into(), self.block)
    }
}

fn unravel(linear: u64, of: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = of.map(u64::from);
    [(linear % x) as u32, (linear / x % y) as u32, (linear / x / y) as u32]
}

impl Launch {
    /// Blocks and threads along one axis.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self::new([blocks, 1, 1], [threads, 1, 1])
    }

    /// Blocks and threads along three axes, all checks on, no dynamic shared memory.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        let (races, instruction_limit, threads) = (true, 1 << 32, None);
        Self { grid, block, dynamic_shared: 0, shared_limit: 227 << 10, races, instruction_limit, threads }
    }

    fn check(&self, program: &Program) -> Result<(), LaunchError> {
        let threads = self.block.iter().map(|&n| u64::from(n)).product::<u64>();
        let shape = |what: String| Err(LaunchError::Shape(what));
        if self.grid.contains(&0) || self.grid[1] > 65535 || self.grid[2] > 65535 {
            return shape(format!("a grid of {:?} blocks", self.grid));
        }
        if threads == 0 || threads > 1024 || self.block[2] > 64 {
            return shape(format!("a block of {:?} threads", self.block));
        }
        if program.max_threads.is_some_and(|n| threads > n.iter().map(|&n| u64::from(n)).product()) {
            return shape(format!("{threads} threads where `.maxntid` has {:?}", program.max_threads));
        }
        if program.required_threads.is_some_and(|n| n != self.block) {
            return shape(format!(
                "{:?} threads where `.reqntid` has {:?}",
                self.block, program.required_threads
            ));
        }
        let shared = program.shared_bytes + u64::from(self.dynamic_shared);
        if shared > u64::from(self.shared_limit) {
            return shape(format!("{shared} bytes of shared memory where a block has {}", self.shared_limit));
        }
        Ok(())
    }
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::U32(v) => v.to_le_bytes().to_vec(),
            Self::I32(v) => v.to_le_bytes().to_vec(),
            Self::F32(v) => v.to_le_bytes().to_vec(),
            Self::U64(v) => v.to_le_bytes().to_vec(),
            Self::Bytes(v) => v.clone(),
        }
    }
}

impl Module {
    /// Reads a module and puts its variables into memory.
    pub fn load(source: &str, memory: &Memory) -> Result<Self, LoadError> {
        let mut module = Self { source: source.to_owned(), programs: Vec::new(), variables: Vec::new() };
        match module.read(memory) {
            Ok(()) => Ok(module),
            Err(error) => {
                module.unload(memory)?;
                Err(error)
            }
        }
    }

    fn read(&mut self, memory: &Memory) -> Result<(), LoadError> {
        let parsed = parse(&self.source)?;
        let located = |e: Located| e.in_source(&self.source);
        let mut symbols = Symbols::default();
        for variable in &parsed.variables {
            let mut address = 0;
            if matches!(variable.storage, Storage::Global | Storage::Const) {
                let read_only = variable.storage == Storage::Const;
                address = memory.allocate_as(&variable.name, variable.bytes, read_only)?;
                self.variables.push(address);
                // What has no initial value is zero.
                let mut bytes = variable.initial.clone();
                bytes.resize(variable.bytes as usize, 0);
                memory.write(address, &bytes)?;
            }
            symbols.add(variable, address).map_err(located)?;
        }
        let programs = parsed.entries.iter().map(|e| decode(e, &symbols));
        self.programs = programs.collect::<Result<_, _>>().map_err(located)?;
        Ok(())
    }

    /// Gives back the memory of the module's variables, which stays theirs otherwise. The memory must be that which the
    /// module was loaded into.
    pub fn unload(self, memory: &Memory) -> Result<(), MemoryError> {
        self.variables.iter().try_for_each(|&address| memory.free(address))
    }

    /// The names of the kernels.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().map(|p| p.name.as_str())
    }

    /// Bytes of each parameter of a kernel, in their order; none where there is no such kernel.
    pub fn parameters(&self, entry: &str) -> Option<Vec<u64>> {
        let program = self.programs.iter().find(|p| p.name == entry)?;
        Some(program.params.iter().map(|param| param.bytes).collect())
    }

    /// Bytes of shared memory that a kernel declares; none where there is no such kernel.
    pub fn shared_bytes(&self, entry: &str) -> Option<u64> {
        self.programs.iter().find(|p| p.name == entry).map(|program| program.shared_bytes)
    }

    /// The text of a line of the source, counted from 1, trimmed.
    pub fn line(&self, line: u32) -> &str {
        self.source.lines().nth((line as usize).wrapping_sub(1)).unwrap_or("").trim()
    }

    /// Runs a kernel to its end.
    ///
    /// Blocks run at the same time unless the kernel has atomics on global memory: then they run one after another,
    /// so that what comes out is always the same.
    pub fn launch(
        &self,
        entry: &str,
        launch: &Launch,
        args: &[Arg],
        memory: &Memory,
    ) -> Result<Profile, LaunchError> {
        let found = self.programs.iter().find(|p| p.name == entry);
        let program = found.ok_or_else(|| LaunchError::NoEntry(entry.to_owned()))?;
        launch.check(program)?;
        let params = arguments(program, args)?;
        let &Launch { grid, block, dynamic_shared, instruction_limit, .. } = launch;
        let shape = Shape { grid, block, dynamic_shared, instruction_limit, races: launch.races };
        let blocks = grid.iter().map(|&n| u64::from(n)).product::<u64>();
        let threads = if program.ordered { NonZero::new(1) } else { launch.threads };
        let threads = threads.or(std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
        let memory = memory.table();
        let next = AtomicU64::new(0);
        // The lowest block that faulted so far: blocks above it need not run, those below it must.
        let lowest = AtomicU64::new(u64::MAX);
        let result = Mutex::new((Profile::of(&program.counted), None::<(u64, Box<Fault>)>));
        // Runs blocks until there are none left, or until `enough` says so of what ran.
        let work = |block: &mut Block, enough: &dyn Fn(&Profile) -> bool| {
            let mut fault = None;
            while !enough(&block.profile) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= blocks || index > lowest.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(found) = block.run(unravel(index, grid)) {
                    lowest.fetch_min(index, Ordering::Relaxed);
                    fault = Some((index, found));
                    break;
                }
            }
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            result.0.gather(&mut block.profile);
            if let Some(fault) = fault
                && result.1.as_ref().is_none_or(|other| fault.0 < other.0)
            {
                result.1 = Some(fault);
            }
        };
        let new = || Block::new(program, &memory, &params, &self.source, &shape);
        let mut own = new();
        // What is done before a thread has started is not worth one.
        work(&mut own, &|profile| threads > 1 && profile.total().warps >= WORTH_A_THREAD);
        let left = blocks.saturating_sub(next.load(Ordering::Relaxed));
        let others = (threads as u64 - 1).min(left.saturating_sub(1));
        if left > 0 {
            std::thread::scope(|scope| {
                for _ in 0..others {
                    scope.spawn(|| work(&mut new(), &|_| false));
                }
                work(&mut own, &|_| false);
            });
        }
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            (_, Some((_, fault))) => Err(fault.into()),
            (profile, None) => Ok(profile.finish()),
        }
    }
}

fn arguments(program: &Program, args: &[Arg]) -> Result<Vec<u8>, LaunchError> {
    if args.len() != program.params.len() {
        let what = format!("{} arguments where `{}` has {}", args.len(), program.name, program.params.len());
        return Err(LaunchError::Arguments(what));
    }
    let mut out = vec![0; program.param_bytes as usize];
    for (param, arg) in program.params.iter().zip(args) {
        let bytes = arg.bytes();
        if bytes.len() as u64 != param.bytes {
            let what = format!("{} bytes where `{}` has {}", bytes.len(), param.name, param.bytes);
            return Err(LaunchError::Arguments(what));
        }
        out[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(out)
}
