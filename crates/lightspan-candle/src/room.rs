//! The rooms of lightspan that candle's storages are read and written in.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Storage;
use lightspan::{DType, Error, Result};

pub(crate) use cpu::{Cpu, with_scratch};
#[cfg(feature = "cuda")]
pub(crate) use cuda::Cuda;

/// A room: candle's storage there, and lightspan's views of it.
pub(crate) trait Room {
    /// candle's storage.
    type Storage;
    /// Numbers to read.
    type Elements<'a>;
    /// Numbers to write.
    type ElementsMut<'a>;

    /// A storage, if it is of this room.
    fn of(storage: &Storage) -> Option<&Self::Storage>;

    /// What lies from an element on, if it is of a type that the operators know.
    fn elements(storage: &Self::Storage, start: usize) -> Option<Self::Elements<'_>>;

    /// Memory for an output, all of which is going to be written.
    fn output(&self, dtype: DType, len: usize) -> Result<Self::Storage>;

    /// All of an output.
    fn elements_mut(storage: &mut Self::Storage) -> Option<Self::ElementsMut<'_>>;

    /// A storage for a tensor.
    fn into_storage(storage: Self::Storage) -> Storage;
}

/// An input of an operator: its numbers, and for tokens how far apart they are.
pub(crate) struct Input<E> {
    pub(crate) elements: E,
    pub(crate) stride: Option<usize>,
}

/// An input that the operator must have.
pub(crate) fn there<E>(input: Option<Input<E>>, tensor: &'static str) -> Result<Input<E>> {
    input.ok_or(Error::Missing { tensor })
}
