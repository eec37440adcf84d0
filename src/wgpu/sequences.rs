use ::wgpu::{Buffer, BufferUsages};

use crate::wgpu::gpu::{Gpu, Owner};
use crate::wgpu::limits::word;
use crate::{Error, Layout, Result, SequenceShape, Sequences};

/// Sequences in a device's memory: uploaded once, used by any number of calls on the same [`Gpu`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceSequences {
    owner: Owner,
    shape: SequenceShape,
    /// Tokens of the longest.
    longest: usize,
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
        let (shape, continues) = (sequences.shape(), sequences.continues());
        if !listed(shape) && !continues || shape.sequences() == 0 {
            let list = gpu.nothing().clone();
            return Ok(DeviceSequences {
                owner: gpu.owner(),
                shape,
                longest,
                listed: false,
                continues,
                list,
            });
        }
        gpu.limits().check_binding("the sequences", 16 * shape.sequences() as u64)?;
        let mut words = Vec::with_capacity(4 * shape.sequences());
        for sequence in sequences.as_slice() {
            let room = sequence.length + sequence.padding;
            for size in [sequence.first, sequence.length, room] {
                words.push(word("tokens of", "the sequences", size)?);
            }
            // Only the last of them are in reach of a window, and no window reaches so far.
            words.push(sequence.past.min(i32::MAX as usize) as u32);
        }
        let list = gpu.upload("sequences", &words, BufferUsages::STORAGE)?;
        Ok(DeviceSequences { owner: gpu.owner(), shape, longest, listed: true, continues, list })
    }

    /// The shape of the sequences.
    pub fn shape(&self) -> SequenceShape {
        self.shape
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
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

    pub(crate) fn list(&self) -> &Buffer {
        &self.list
    }
}

/// Whether the sequences of a shape are listed, although none of them began before this call.
pub(crate) fn listed(shape: SequenceShape) -> bool {
    !matches!(shape.layout(), Layout::Batch { .. })
}
