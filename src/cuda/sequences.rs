use std::fmt;
use std::sync::Arc;

use crate::cuda::driver::{Memory, Source};
use crate::cuda::gpu::Gpu;
use crate::gpu::words;
use crate::{Result, SequenceShape, Sequences};

/// Sequences in a device's memory: uploaded once, used by any number of calls on the same device. Cheap to clone.
#[derive(Clone)]
pub struct DeviceSequences {
    shape: SequenceShape,
    /// Whether any of them began in an earlier call.
    continues: bool,
    /// Tokens of the longest.
    longest: usize,
    /// As [`Sequences::furthest`] says.
    furthest: (usize, usize),
    /// The sequences of a whole batch that begins with this call are known without a list.
    list: Option<Arc<dyn Memory>>,
}

impl DeviceSequences {
    /// Uploads `sequences`.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) for more tokens than kernels can count,
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn new(gpu: &Gpu, sequences: &Sequences) -> Result<Self> {
        let list = match words(sequences)? {
            None => None,
            Some(words) => {
                let mut list = gpu.allocate("sequences", size_of_val(&words[..]))?;
                list.write(bytemuck::cast_slice(&words))?;
                Some(Arc::from(list))
            }
        };
        let longest = sequences.as_slice().iter().map(|sequence| sequence.length).max().unwrap_or(0);
        let (shape, continues) = (sequences.shape(), sequences.continues());
        Ok(DeviceSequences { shape, continues, longest, furthest: sequences.furthest(), list })
    }

    /// The shape of the sequences.
    pub fn shape(&self) -> SequenceShape {
        self.shape
    }

    pub(crate) fn continues(&self) -> bool {
        self.continues
    }

    /// Tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// The sequence that comes furthest, and how many of its tokens have gone by then.
    pub(crate) fn furthest(&self) -> (usize, usize) {
        self.furthest
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.list.is_some()
    }

    /// The list that kernels read, where they need one.
    pub(crate) fn list(&self) -> Option<&dyn Source> {
        self.list.as_deref().map(|list| list as &dyn Source)
    }
}

impl fmt::Debug for DeviceSequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSequences({})", self.shape)
    }
}
