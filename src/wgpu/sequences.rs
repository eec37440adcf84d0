use ::wgpu::{Buffer, BufferUsages};

use crate::gpu::words;
use crate::wgpu::gpu::{Gpu, Owner};
use crate::{Error, Result, SequenceShape, Sequences};

/// Sequences in a device's memory: uploaded once, used by any number of calls on the same [`Gpu`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceSequences {
    owner: Owner,
    shape: SequenceShape,
    /// Tokens of the longest.
    longest: usize,
    /// As [`Sequences::furthest`] says.
    furthest: (usize, usize),
    /// Whether kernels read the list: the sequences of a whole batch that begins with this call are known without one.
    listed: bool,
    /// Whether any of them began in an earlier call.
    continues: bool,
    list: Buffer,
}

impl DeviceSequences {
    /// Uploads `sequences`.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) for more tokens than kernels can count,
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn new(gpu: &Gpu, sequences: &Sequences) -> Result<Self> {
        let longest = sequences.as_slice().iter().map(|sequence| sequence.length).max().unwrap_or(0);
        let (shape, continues, furthest) = (sequences.shape(), sequences.continues(), sequences.furthest());
        let Some(words) = words(sequences)? else {
            let list = gpu.nothing().clone();
            return Ok(DeviceSequences {
                owner: gpu.owner(),
                shape,
                longest,
                furthest,
                listed: false,
                continues,
                list,
            });
        };
        gpu.limits().check_binding("the sequences", 4 * words.len() as u64)?;
        let list = gpu.upload("sequences", &words, BufferUsages::STORAGE)?;
        Ok(DeviceSequences { owner: gpu.owner(), shape, longest, furthest, listed: true, continues, list })
    }

    /// The shape of the sequences.
    pub fn shape(&self) -> SequenceShape {
        self.shape
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The sequence that comes furthest, and how many of its tokens have gone by then.
    pub(crate) fn furthest(&self) -> (usize, usize) {
        self.furthest
    }

    pub(crate) fn listed(&self) -> bool {
        self.listed
    }

    pub(crate) fn continues(&self) -> bool {
        self.continues
    }

    /// An error unless these are sequences on the device of a call, of the shape that its problem was made for.
    pub(crate) fn check(&self, gpu: &Gpu, expected: SequenceShape) -> Result<()> {
        if !self.owner.is(gpu) {
            let (expected, got) = (gpu.name().to_owned(), "another device".to_owned());
            return Err(Error::Device { tensor: "sequences", expected, got });
        }
        expected.check(self.shape)
    }

    /// An error where any of them began in an earlier call: for operators that have no history.
    pub(crate) fn check_begins(&self) -> Result<()> {
        if self.continues { Err(Error::Missing { tensor: "history" }) } else { Ok(()) }
    }

    pub(crate) fn list(&self) -> &Buffer {
        &self.list
    }
}
