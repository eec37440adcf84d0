//! Plans: what a call launches, as data. Pure functions of a problem, of how its tensors lie, and of what the device has.

use bytemuck::{NoUninit, Pod, Zeroable, bytes_of};

use crate::cuda::limits::Limits;
use crate::cuda::modules::Module;
use crate::gpu::{Tiles, window, within, word};
use crate::problem::Convolution;
use crate::{DType, Result};

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) module: &'static Module,
    pub(crate) entry: &'static str,
    /// Blocks.
    pub(crate) grid: u32,
    /// Threads of a block.
    pub(crate) block: u32,
    /// Bytes of shared memory that a block has beside what its kernel declares. A kernel has some in every launch, or in
    /// none.
    pub(crate) shared: u32,
    pub(crate) params: Params,
}

impl Launch {
    /// An error where there are more blocks than the device takes.
    pub(crate) fn new(
        (module, entry): (&'static Module, &'static str),
        blocks: u64,
        block: u32,
        params: &impl NoUninit,
        limits: &Limits,
    ) -> Result<Self> {
        within("blocks of", entry, blocks, limits.blocks.into())?;
        Ok(Launch { module, entry, grid: blocks as u32, block, shared: 0, params: Params::new(params) })
    }

    /// With so many bytes of shared memory for each block, or an error where the device has less.
    pub(crate) fn with_shared(self, bytes: u64, limits: &Limits) -> Result<Self> {
        within("bytes of shared memory of", self.entry, bytes, limits.shared_memory.into())?;
        Ok(Launch { shared: bytes as u32, ..self })
    }
}

/// The numbers of a call: the structure `Params` of its kernel.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    words: [u64; Params::CAPACITY],
    /// Bytes that the kernel takes; the emulator is told.
    #[cfg_attr(not(feature = "emulator"), expect(dead_code))]
    len: usize,
}

impl Params {
    /// The most that a kernel takes, in words of 8 bytes.
    pub(crate) const CAPACITY: usize = 32;

    fn new<T: NoUninit>(params: &T) -> Self {
        const { assert!(size_of::<T>() <= 8 * Params::CAPACITY && align_of::<T>() <= 8) };
        let mut words = [0; Params::CAPACITY];
        bytemuck::bytes_of_mut(&mut words)[..size_of::<T>()].copy_from_slice(bytes_of(params));
        Params { words, len: size_of::<T>() }
    }

    pub(crate) fn words(&self) -> &[u64; Params::CAPACITY] {
        &self.words
    }

    #[cfg(feature = "emulator")]
    pub(crate) fn bytes(&self) -> &[u8] {
        &bytes_of(&self.words)[..self.len]
    }
}

/// Where a tensor's rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of the first element, in bytes.
    pub(crate) address: u64,
    /// From one row to the next, in elements.
    pub(crate) stride: usize,
}

impl Place {
    /// Rows of `channels` without a gap, in an allocation of their own.
    pub(crate) fn contiguous(channels: usize) -> Self {
        Place { address: 0, stride: channels }
    }
}

/// Bytes of the unit in which rows of `channels` numbers can be read or written: 16, or the most that divides every row,
/// and where each begins.
pub(crate) fn unit(dtype: DType, channels: usize, places: &[Place]) -> u32 {
    let size = dtype.size();
    let fits = |unit: usize| {
        let whole = |elements: usize| elements.is_multiple_of(unit / size);
        let aligned = |place: &Place| place.address.is_multiple_of(unit as u64) && whole(place.stride);
        unit > size && whole(channels) && places.iter().all(aligned)
    };
    [16, 8, 4].into_iter().find(|&unit| fits(unit)).unwrap_or(size) as u32
}

/// The structure `Tiles` of `kernels/shared/tiles.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct TileParams {
    pub(crate) time: u32,
    pub(crate) sequences: u32,
    pub(crate) stretches: u32,
    pub(crate) span: u32,
    pub(crate) tiles: u32,
    pub(crate) dilation: u32,
    pub(crate) phases: u32,
    pub(crate) steps: u32,
    pub(crate) listed: u32,
    pub(crate) columns: u32,
}

impl TileParams {
    pub(crate) fn new(tiles: &Tiles) -> Result<Self> {
        let count = |size| word("tokens of", "the call", size);
        Ok(TileParams {
            time: count(tiles.time)?,
            sequences: count(tiles.sequences)?,
            stretches: count(tiles.stretches)?,
            span: count(tiles.span)?,
            tiles: count(tiles.tiles)?,
            dilation: count(tiles.dilation)?,
            phases: count(tiles.phases)?,
            steps: count(tiles.steps)?,
            listed: tiles.listed.into(),
            columns: count(tiles.columns)?,
        })
    }
}

/// The structure `Window` of `kernels/shared/stage.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct WindowParams {
    pub(crate) width: u32,
    pub(crate) dilation: u32,
    pub(crate) left: u32,
    pub(crate) reach: u32,
}

impl WindowParams {
    pub(crate) fn new(conv: &Convolution) -> Result<Self> {
        let window = window(conv);
        let count = |size| word("tokens of", "the window", size);
        Ok(WindowParams {
            width: count(window.width())?,
            dilation: count(window.dilation())?,
            left: count(window.left())?,
            reach: count(window.reach())?,
        })
    }
}

/// The structure `Dropout` of `kernels/shared/dropout.cuh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DropoutParams {
    threshold: u32,
    scale: f32,
    /// Low word first.
    seed: [u32; 2],
}

impl DropoutParams {
    /// Of a call with that seed; it has one exactly where its weights are dropped.
    pub(crate) fn new(conv: &Convolution, seed: Option<u64>) -> Self {
        match (conv.dropout(), seed) {
            (Some(rate), Some(seed)) => DropoutParams {
                threshold: rate.threshold(),
                scale: rate.scale(),
                seed: [seed as u32, (seed >> 32) as u32],
            },
            _ => DropoutParams::default(),
        }
    }
}

/// A size as kernels count it: in 31 bits, so that the last tile may reach past the end.
pub(crate) fn count(of: &'static str, size: usize) -> Result<u32> {
    within("elements along an axis of", of, size as u64, (1 << 31) - 1)?;
    Ok(size as u32)
}
