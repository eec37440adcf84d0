use std::fmt;

use ::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use crate::cuda::driver::{Address, Source, Target};
use crate::cuda::gpu::Gpu;
use crate::cuda::plan::{DropoutParams, Launch, Place};
use crate::cuda::sequences::DeviceSequences;
use crate::problem::Convolution;
use crate::{DType, Element, Error, Result};

/// Numbers on a device: a slice or a view of cudarc's, or those of a [`Tensor`](crate::Tensor), by
/// [`Tensor::cuda`](crate::Tensor::cuda).
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    source: &'a dyn Source,
    dtype: DType,
    offset: usize,
}

/// The same to write.
pub struct ElementsMut<'a> {
    target: &'a mut dyn Target,
    dtype: DType,
    offset: usize,
}

impl<'a> Elements<'a> {
    pub(crate) fn of(source: &'a dyn Source, dtype: DType) -> Self {
        Elements { source, dtype, offset: 0 }
    }

    /// From element `offset` of these on.
    pub fn at(self, offset: usize) -> Self {
        Elements { offset: self.offset.saturating_add(offset), ..self }
    }
}

impl<'a> ElementsMut<'a> {
    pub(crate) fn of(target: &'a mut dyn Target, dtype: DType) -> Self {
        ElementsMut { target, dtype, offset: 0 }
    }

    /// From element `offset` of these on.
    pub fn at(self, offset: usize) -> Self {
        ElementsMut { offset: self.offset.saturating_add(offset), ..self }
    }

    /// The same numbers for a shorter time: all memory of a call is borrowed for one.
    pub fn reborrow(&mut self) -> ElementsMut<'_> {
        ElementsMut { target: &mut *self.target, dtype: self.dtype, offset: self.offset }
    }
}

impl<'a, E: Element> From<&'a CudaSlice<E>> for Elements<'a> {
    fn from(source: &'a CudaSlice<E>) -> Self {
        Elements::of(source, E::DTYPE)
    }
}

impl<'a, E: Element> From<&'a CudaView<'_, E>> for Elements<'a> {
    fn from(source: &'a CudaView<'_, E>) -> Self {
        Elements::of(source, E::DTYPE)
    }
}

impl<'a, E: Element> From<&'a mut CudaSlice<E>> for ElementsMut<'a> {
    fn from(target: &'a mut CudaSlice<E>) -> Self {
        ElementsMut::of(target, E::DTYPE)
    }
}

impl<'a, E: Element> From<&'a mut CudaViewMut<'_, E>> for ElementsMut<'a> {
    fn from(target: &'a mut CudaViewMut<'_, E>) -> Self {
        ElementsMut::of(target, E::DTYPE)
    }
}

impl fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Elements({} from {} in {} bytes)", self.dtype, self.offset, self.source.bytes())
    }
}

impl fmt::Debug for ElementsMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ElementsMut({} from {} in {} bytes)", self.dtype, self.offset, self.target.bytes())
    }
}

/// Tokens on a device: token t begins at element t * stride.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    elements: Elements<'a>,
    stride: Option<usize>,
}

impl<'a> Rows<'a> {
    /// Token after token, without a gap.
    pub fn contiguous(elements: impl Into<Elements<'a>>) -> Self {
        Rows { elements: elements.into(), stride: None }
    }

    /// `stride` elements from one token to the next, at least the channels of one.
    pub fn strided(elements: impl Into<Elements<'a>>, stride: usize) -> Self {
        Rows { elements: elements.into(), stride: Some(stride) }
    }
}

/// The same to write. What lies between rows stays as it is.
#[derive(Debug)]
pub struct RowsMut<'a> {
    elements: ElementsMut<'a>,
    stride: Option<usize>,
}

impl<'a> RowsMut<'a> {
    /// Token after token, without a gap.
    pub fn contiguous(elements: impl Into<ElementsMut<'a>>) -> Self {
        RowsMut { elements: elements.into(), stride: None }
    }

    /// `stride` elements from one token to the next, at least the channels of one.
    pub fn strided(elements: impl Into<ElementsMut<'a>>, stride: usize) -> Self {
        RowsMut { elements: elements.into(), stride: Some(stride) }
    }
}

/// Memory of a call, checked, and held until the launch is in the queue.
pub(crate) struct Bound<'a> {
    _in_use: Option<Address<'a>>,
    pub(crate) place: Place,
}

impl Bound<'_> {
    /// What is given in the place of an input that there is not: no kernel reads it.
    pub(crate) fn nothing() -> Self {
        Bound { _in_use: None, place: Place { address: 0, stride: 0 } }
    }

    /// What lies from f32 number `numbers` of it on, as rows so many elements apart. It is held as long as this is.
    pub(crate) fn part(&self, numbers: u64, stride: usize) -> Bound<'_> {
        let address = self.place.address + 4 * numbers;
        Bound { _in_use: None, place: Place { address, stride } }
    }

    /// The same memory as rows so many elements apart.
    pub(crate) fn with_stride(self, stride: usize) -> Self {
        Bound { place: Place { stride, ..self.place }, ..self }
    }
}

/// What is asked of a tensor's memory.
struct Wanted {
    name: &'static str,
    dtype: DType,
    /// From the first element to the end of the last row.
    extent: usize,
    stride: usize,
}

impl Wanted {
    fn rows(
        name: &'static str,
        dtype: DType,
        [tokens, channels]: [usize; 2],
        stride: Option<usize>,
    ) -> Result<Self> {
        let stride = stride.unwrap_or(channels);
        if stride < channels {
            return Err(Error::Stride { tensor: name, stride, channels });
        }
        let extent = match tokens.checked_sub(1) {
            None => Some(0),
            Some(last) => last.checked_mul(stride).and_then(|at| at.checked_add(channels)),
        };
        let extent = extent.ok_or_else(|| Error::TooLarge { what: name, sizes: vec![tokens, stride] })?;
        Ok(Wanted { name, dtype, extent, stride })
    }

    /// An error unless so many bytes of numbers of type `dtype` have room for it.
    fn check(&self, dtype: DType, offset: usize, bytes: usize) -> Result<()> {
        if dtype != self.dtype {
            return Err(Error::DType { tensor: self.name, expected: vec![self.dtype], got: dtype });
        }
        let too_large = || Error::TooLarge { what: self.name, sizes: vec![offset, self.extent] };
        let expected = offset.checked_add(self.extent).ok_or_else(too_large)?;
        let got = bytes / dtype.size();
        if got < expected {
            return Err(Error::Length { tensor: self.name, expected, got });
        }
        Ok(())
    }

    /// The memory, if it is on the device of the call.
    fn bound<'a>(&self, gpu: &Gpu, offset: usize, address: Option<Address<'a>>) -> Result<Bound<'a>> {
        let Some(in_use) = address else {
            let (expected, got) = (gpu.name().to_owned(), "another device".to_owned());
            return Err(Error::Device { tensor: self.name, expected, got });
        };
        let address = in_use.address + (offset * self.dtype.size()) as u64;
        Ok(Bound { _in_use: Some(in_use), place: Place { address, stride: self.stride } })
    }
}

/// A tensor that is there exactly if the problem has it.
fn there<T>(name: &'static str, tensor: Option<T>, wanted: bool) -> Result<Option<T>> {
    match tensor {
        Some(_) if !wanted => Err(Error::Surplus { tensor: name }),
        None if wanted => Err(Error::Missing { tensor: name }),
        tensor => Ok(tensor),
    }
}

/// The memory of a call's tensors, checked.
#[derive(Clone, Copy)]
pub(crate) struct Binder<'a> {
    pub(crate) gpu: &'a Gpu,
}

impl<'a> Binder<'a> {
    /// The rows of a tensor `[tokens, channels]`.
    pub(crate) fn rows(
        self,
        name: &'static str,
        rows: Rows<'a>,
        dtype: DType,
        sizes: [usize; 2],
    ) -> Result<Bound<'a>> {
        self.source(Wanted::rows(name, dtype, sizes, rows.stride)?, rows.elements)
    }

    /// The same to write.
    pub(crate) fn rows_mut<'b: 'a>(
        self,
        name: &'static str,
        rows: RowsMut<'b>,
        dtype: DType,
        sizes: [usize; 2],
    ) -> Result<Bound<'a>> {
        let wanted = Wanted::rows(name, dtype, sizes, rows.stride)?;
        let ElementsMut { target, dtype, offset } = rows.elements;
        let target: &'a mut dyn Target = target;
        wanted.check(dtype, offset, target.bytes())?;
        wanted.bound(self.gpu, offset, target.address_mut(self.gpu.queue()))
    }

    /// `len` numbers.
    pub(crate) fn elements(
        self,
        name: &'static str,
        elements: Elements<'a>,
        dtype: DType,
        len: usize,
    ) -> Result<Bound<'a>> {
        self.source(Wanted { name, dtype, extent: len, stride: len }, elements)
    }

    fn source(self, wanted: Wanted, elements: Elements<'a>) -> Result<Bound<'a>> {
        let Elements { source, dtype, offset } = elements;
        wanted.check(dtype, offset, source.bytes())?;
        wanted.bound(self.gpu, offset, source.address(self.gpu.queue()))
    }

    /// `len` numbers that are there exactly if the problem has them.
    pub(crate) fn optional(
        self,
        name: &'static str,
        elements: Option<Elements<'a>>,
        wanted: bool,
        dtype: DType,
        len: usize,
    ) -> Result<Bound<'a>> {
        match there(name, elements, wanted)? {
            Some(elements) => self.elements(name, elements, dtype, len),
            None => Ok(Bound::nothing()),
        }
    }

    /// Rows that are there exactly if the problem has them.
    pub(crate) fn optional_rows(
        self,
        name: &'static str,
        rows: Option<Rows<'a>>,
        wanted: bool,
        dtype: DType,
        sizes: [usize; 2],
    ) -> Result<Bound<'a>> {
        match there(name, rows, wanted)? {
            Some(rows) => self.rows(name, rows, dtype, sizes),
            None => Ok(Bound::nothing()),
        }
    }

    /// Rows to write that are there exactly if they are wanted.
    pub(crate) fn wanted_rows<'b: 'a>(
        self,
        name: &'static str,
        rows: Option<RowsMut<'b>>,
        wanted: bool,
        dtype: DType,
        sizes: [usize; 2],
    ) -> Result<Bound<'a>> {
        match there(name, rows, wanted)? {
            Some(rows) => self.rows_mut(name, rows, dtype, sizes),
            None => Ok(Bound::nothing()),
        }
    }

    /// The same of `len` numbers side by side.
    pub(crate) fn wanted_elements<'b: 'a>(
        self,
        name: &'static str,
        elements: Option<ElementsMut<'b>>,
        wanted: bool,
        dtype: DType,
        len: usize,
    ) -> Result<Bound<'a>> {
        self.wanted_rows(name, elements.map(RowsMut::contiguous), wanted, dtype, [1, len])
    }

    /// The numbers of a call's weight dropout: it has a seed exactly where its weights are dropped.
    pub(crate) fn dropout(self, conv: &Convolution, seed: Option<u64>) -> Result<DropoutParams> {
        match (conv.dropout(), seed) {
            (Some(_), None) => Err(Error::Missing { tensor: "seed" }),
            (None, Some(_)) => Err(Error::Surplus { tensor: "seed" }),
            _ => Ok(DropoutParams::new(conv, seed)),
        }
    }

    /// The list of a call's sequences, which are those of the problem.
    pub(crate) fn sequences(self, sequences: &'a DeviceSequences, conv: &Convolution) -> Result<Bound<'a>> {
        conv.sequences().check(sequences.shape())?;
        // Kernels read the history of every sequence that has one.
        if sequences.continues() && !conv.has_history() {
            return Err(Error::Missing { tensor: "history" });
        }
        self.list(sequences)
    }

    /// The list of sequences, where there is one.
    pub(crate) fn list(self, sequences: &'a DeviceSequences) -> Result<Bound<'a>> {
        let Some(source) = sequences.list() else {
            return Ok(Bound::nothing());
        };
        let wanted = Wanted { name: "sequences", dtype: DType::F32, extent: 0, stride: 0 };
        wanted.bound(self.gpu, 0, source.address(self.gpu.queue()))
    }

    /// `len` numbers of f32 that a call writes and reads again, where it needs any.
    pub(crate) fn scratch<'b: 'a>(self, scratch: Option<ElementsMut<'b>>, len: u64) -> Result<Bound<'a>> {
        match scratch {
            _ if len == 0 => Ok(Bound::nothing()),
            None => Err(Error::Missing { tensor: "scratch" }),
            Some(scratch) => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                self.rows_mut("scratch", RowsMut::contiguous(scratch), DType::F32, [1, len])
            }
        }
    }

    /// Launches what reads and writes the memory `bound`, in the order of the kernel's parameters.
    pub(crate) fn launch<const N: usize>(self, launch: &Launch, bound: [&Bound<'_>; N]) -> Result<()> {
        let kernel = self.gpu.kernel(launch)?;
        let addresses = bound.map(|bound| bound.place.address);
        // SAFETY: the plan of a call stays within the rows of its tensors, which lie in memory that is checked to have room
        // for them; it is held for the launch, and by its lifetime nobody else writes what is bound to be read, or touches
        // what is bound to be written.
        unsafe { kernel.launch(self.gpu.queue(), launch, &addresses) }
    }
}
