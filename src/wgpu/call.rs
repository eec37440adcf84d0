use std::num::NonZero;
use std::sync::Arc;

use ::wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferUsages,
    CommandEncoder, ComputePass,
};

use crate::gpu::word;
use crate::problem::Convolution;
use crate::wgpu::gpu::Gpu;
use crate::wgpu::pipeline::Pipeline;
use crate::wgpu::plan::{Launch, Place, Tokens};
use crate::wgpu::sequences::DeviceSequences;
use crate::{DType, Error, Result};

/// Numbers in a buffer of yours, which has the usage `STORAGE`: 16-bit ones two in a word, the buffer padded to whole
/// words.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    buffer: &'a Buffer,
    offset: usize,
}

impl<'a> Elements<'a> {
    /// From element `offset` of the buffer on.
    pub fn at(buffer: &'a Buffer, offset: usize) -> Self {
        Elements { buffer, offset }
    }
}

impl<'a> From<&'a Buffer> for Elements<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Elements { buffer, offset: 0 }
    }
}

/// Tokens in a buffer: token t begins at element offset + t * stride. Written rows leave what lies between them as it is.
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

/// A checked range of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    name: &'static str,
    buffer: &'a Buffer,
    start: u64,
    size: u64,
    /// Where the numbers lie in it.
    pub(crate) place: Place,
}

impl<'a> Bound<'a> {
    fn resource(self) -> BindingResource<'a> {
        let Bound { buffer, start: offset, size, .. } = self;
        BindingResource::Buffer(BufferBinding { buffer, offset, size: NonZero::new(size) })
    }

    /// The same as rows of a tensor, without a gap.
    pub(crate) fn as_rows(mut self, channels: usize) -> Self {
        self.place.stride = channels;
        self
    }
}

/// The ranges of a call's buffers, checked.
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
        tokens: usize,
        channels: usize,
    ) -> Result<Bound<'a>> {
        let stride = rows.stride.unwrap_or(channels);
        if stride < channels {
            return Err(Error::Stride { tensor: name, stride, channels });
        }
        let too_large = || Error::TooLarge { what: name, sizes: vec![tokens, stride] };
        let extent = match tokens.checked_sub(1) {
            None => 0,
            Some(last) => {
                last.checked_mul(stride).and_then(|at| at.checked_add(channels)).ok_or_else(too_large)?
            }
        };
        self.range(name, rows.elements, dtype, extent, stride)
    }

    /// `len` numbers.
    pub(crate) fn elements(
        self,
        name: &'static str,
        elements: Elements<'a>,
        dtype: DType,
        len: usize,
    ) -> Result<Bound<'a>> {
        self.range(name, elements, dtype, len, len)
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
        match elements {
            Some(elements) if wanted => self.elements(name, elements, dtype, len),
            Some(_) => Err(Error::Surplus { tensor: name }),
            None if wanted => Err(Error::Missing { tensor: name }),
            None => Ok(self.nothing(name)),
        }
    }

    /// The seed of the dropout, which is there exactly if the problem has one; otherwise it does not matter.
    pub(crate) fn seed(self, conv: &Convolution, seed: Option<u64>) -> Result<u64> {
        match (seed, conv.dropout()) {
            (Some(seed), Some(_)) => Ok(seed),
            (None, None) => Ok(0),
            (Some(_), None) => Err(Error::Surplus { tensor: "seed" }),
            (None, Some(_)) => Err(Error::Missing { tensor: "seed" }),
        }
    }

    /// Rows that are there exactly if the problem has them.
    pub(crate) fn optional_rows(
        self,
        name: &'static str,
        rows: Option<Rows<'a>>,
        wanted: bool,
        dtype: DType,
        tokens: usize,
        channels: usize,
    ) -> Result<Bound<'a>> {
        match rows {
            Some(rows) if wanted => self.rows(name, rows, dtype, tokens, channels),
            Some(_) => Err(Error::Surplus { tensor: name }),
            None if wanted => Err(Error::Missing { tensor: name }),
            None => Ok(self.nothing(name)),
        }
    }

    /// What a kernel reads in the place of an input that there is not.
    pub(crate) fn nothing(self, name: &'static str) -> Bound<'a> {
        self.whole(name, self.gpu.nothing())
    }

    /// A buffer of our own.
    pub(crate) fn whole(self, name: &'static str, buffer: &'a Buffer) -> Bound<'a> {
        Bound { name, buffer, start: 0, size: buffer.size(), place: Place { offset: 0, stride: 0 } }
    }

    /// Scratch memory of `len` numbers, of which there need be none.
    pub(crate) fn scratch(self, scratch: Option<&'a Buffer>, len: u64) -> Result<Bound<'a>> {
        let got = scratch.map_or(0, |buffer| buffer.size() / 4);
        if got < len {
            let elements = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
            return Err(Error::Scratch { expected: elements(len), got: elements(got) });
        }
        match scratch {
            Some(buffer) if len > 0 => self.elements("scratch", buffer.into(), DType::F32, len as usize),
            _ => Ok(self.nothing("scratch")),
        }
    }

    fn range(
        self,
        name: &'static str,
        elements: Elements<'a>,
        dtype: DType,
        extent: usize,
        stride: usize,
    ) -> Result<Bound<'a>> {
        if extent == 0 {
            return Ok(Bound { place: Place { offset: 0, stride }, ..self.nothing(name) });
        }
        let Elements { buffer, offset } = elements;
        let size = dtype.size() as u64;
        let too_large = || Error::TooLarge { what: name, sizes: vec![offset, extent] };
        let expected = offset.checked_add(extent).ok_or_else(too_large)?;
        let end = (expected as u64).checked_mul(size).ok_or_else(too_large)?.next_multiple_of(4);
        if end > buffer.size() {
            let got = usize::try_from(buffer.size() / size).unwrap_or(usize::MAX);
            let expected = usize::try_from(end / size).unwrap_or(usize::MAX);
            return Err(Error::Length { tensor: name, expected, got });
        }
        if !buffer.usage().contains(BufferUsages::STORAGE) {
            return Err(Error::BufferUsage { tensor: name, usage: "STORAGE" });
        }
        // A binding begins where the device allows; the kernel skips what is left.
        let limits = self.gpu.limits();
        let alignment = u64::from(limits.offset_alignment).next_multiple_of(4);
        let start = offset as u64 * size / alignment * alignment;
        limits.check_binding(name, end - start)?;
        let place = Place { offset: ((offset as u64 * size - start) / size) as usize, stride };
        word("elements of", name, place.offset.saturating_add(extent))?;
        word("elements from row to row of", name, stride)?;
        Ok(Bound { name, buffer, start, size: end - start, place })
    }
}

/// A prepared operator with its buffers: what is left to do is to record it, as often as you like.
///
/// It holds its buffers, and reads what they hold when the recorded commands run.
#[derive(Clone, Debug)]
pub struct Call {
    dispatches: Vec<Dispatch>,
    /// Buffers that the launches write, and read, by the names of their tensors.
    written: Vec<(&'static str, Buffer)>,
    read: Vec<(&'static str, Buffer)>,
}

#[derive(Clone, Debug)]
struct Dispatch {
    pipeline: Arc<Pipeline>,
    group: BindGroup,
    grid: [u32; 3],
}

impl Call {
    /// A call that does nothing yet.
    pub(crate) fn empty() -> Self {
        Call { dispatches: vec![], written: vec![], read: vec![] }
    }

    /// Adds a launch that writes `output` and reads `inputs`.
    pub(crate) fn push(
        &mut self,
        gpu: &Gpu,
        launch: &Launch,
        output: Bound<'_>,
        inputs: &[Bound<'_>],
    ) -> Result<()> {
        self.remember(gpu, output, inputs)?;
        let pipeline = gpu.pipeline(&launch.kernel)?;
        let mut words: Vec<u32> = launch.parameters.iter().map(|&(_, value)| value).collect();
        words.resize(words.len().next_multiple_of(4), 0);
        let parameters = gpu.upload("parameters", &words, BufferUsages::UNIFORM)?;
        let resources = [output].into_iter().chain(inputs.iter().copied()).map(Bound::resource);
        let resources = [parameters.as_entire_binding()].into_iter().chain(resources);
        let entries: Vec<_> =
            (0..).zip(resources).map(|(binding, resource)| BindGroupEntry { binding, resource }).collect();
        let descriptor = BindGroupDescriptor {
            label: Some(launch.kernel.name),
            layout: &pipeline.layout,
            entries: &entries,
        };
        let group = gpu.scoped(launch.kernel.name, 0, || gpu.device().create_bind_group(&descriptor))?;
        self.dispatches.push(Dispatch { pipeline, group, grid: launch.grid });
        Ok(())
    }

    /// An error where a buffer that one launch writes is read by any as something else, in whatever order: a call has read
    /// nothing that it has written, but its own scratch.
    fn remember(&mut self, gpu: &Gpu, output: Bound<'_>, inputs: &[Bound<'_>]) -> Result<()> {
        let named = |bound: &Bound<'_>| (bound.name, bound.buffer.clone());
        self.written.push(named(&output));
        self.read.extend(inputs.iter().filter(|input| input.buffer != gpu.nothing()).map(named));
        for (output, written) in self.written.iter().rev() {
            let others = self.read.iter().chain(&self.written).filter(|(name, _)| name != output);
            if let Some((input, _)) = others.into_iter().find(|(_, buffer)| buffer == written) {
                return Err(Error::SharedBuffer { output, input });
            }
        }
        Ok(())
    }

    /// Whether there is nothing to do: the problem has no tokens, or no gradient is wanted.
    pub fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    /// How many dispatches it takes.
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }

    /// Records the call into a pass of its own. Nothing is allocated or submitted.
    pub fn record(&self, encoder: &mut CommandEncoder) {
        if !self.is_empty() {
            self.record_in(&mut encoder.begin_compute_pass(&Default::default()));
        }
    }

    /// Records the call into a pass of yours, with others or with your timestamps.
    pub fn record_in(&self, pass: &mut ComputePass<'_>) {
        for Dispatch { pipeline, group, grid: [x, y, z] } in &self.dispatches {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

/// The buffers that convolutions have in common, checked.
pub(crate) struct Convolved<'a> {
    /// List of sequences, x, history.
    pub(crate) inputs: [Bound<'a>; 3],
    pub(crate) y: Bound<'a>,
    /// Where they lie; the bias is not among them.
    pub(crate) tokens: Tokens,
}

impl<'a> Binder<'a> {
    /// The tokens of a convolution, named as `names` says: x, history and y.
    pub(crate) fn convolved(
        self,
        names: [&'static str; 3],
        conv: &Convolution,
        sequences: &'a DeviceSequences,
        x: Rows<'a>,
        history: Option<Elements<'a>>,
        y: (Rows<'a>, DType, usize),
    ) -> Result<Convolved<'a>> {
        sequences.check(self.gpu, conv.sequences())?;
        // Kernels read the history of every sequence that has one.
        if sequences.continues() && !conv.has_history() {
            return Err(Error::Missing { tensor: names[1] });
        }
        let (dtype, tokens) = (conv.dtype(), conv.sequences().tokens());
        let x = self.rows(names[0], x, dtype, tokens, conv.channels())?;
        let len = conv.history_shape().iter().product();
        let history = self.optional(names[1], history, conv.has_history(), dtype, len)?;
        let (y, dtype, channels) = y;
        let y = self.rows(names[2], y, dtype, tokens, channels)?;
        let list = self.whole("sequences", sequences.list());
        let tokens = Tokens { x: x.place, y: y.place, history: history.place.offset, bias: 0 };
        Ok(Convolved { inputs: [list, x, history], y, tokens })
    }
}
