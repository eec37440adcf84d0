//! Long sums of the backward pass: chunks of a contraction, added up in their order, and sums of the columns of a matrix.

use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Bound};
use crate::cuda::limits::Limits;
use crate::cuda::linear::product::{Gate, SHORTEST, THREADS, gating, padded_time, row, type_number};
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count};
use crate::cuda::traffic::Traffic;
use crate::{DType, Result, SequenceShape};

/// Columns of a block that adds columns up.
const COLUMNS: usize = 32;

/// The structure `ColumnParams` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct ColumnParams {
    stride: u64,
    gate_stride: u64,
    sum_chunk: u64,
    rows: u32,
    columns: u32,
    chunk: u32,
    across: u32,
    time: u32,
    gating: u32,
    dtype: u32,
    gate_type: u32,
    sum_type: u32,
    unused: u32,
}

/// The structure `ChunkParams` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct ChunkParams {
    numbers: u64,
    stride: u64,
    chunks: u32,
    dtype: u32,
}

/// How a long sum is divided: into chunks of a length that depends on the problem and the device alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Terms of a chunk.
    pub(crate) length: usize,
    pub(crate) count: usize,
}

impl Chunks {
    /// Of `depth` terms, for `blocks` blocks each: as many as give all multiprocessors work, of no fewer than `shortest`
    /// terms. Lengths are multiples of `step`.
    pub(crate) fn new(depth: usize, blocks: u64, [shortest, step]: [usize; 2], limits: &Limits) -> Self {
        let wanted = u64::from(2 * limits.multiprocessors).div_ceil(blocks.max(1));
        let wanted = usize::try_from(wanted).unwrap_or(1);
        let length = depth.div_ceil(wanted).max(shortest).next_multiple_of(step);
        Chunks { length, count: depth.div_ceil(length).max(1) }
    }

    /// Numbers of f32 from the sums of one chunk to those of the next, where there is more than one: whole sectors.
    pub(crate) fn stride(sums: usize) -> u64 {
        (sums as u64).next_multiple_of(8)
    }

    /// Numbers of scratch memory for `sums` sums of each chunk.
    pub(crate) fn scratch_len(&self, sums: usize) -> u64 {
        if self.count > 1 { (self.count as u64).saturating_mul(Chunks::stride(sums)) } else { 0 }
    }

    /// The launch that adds up `sums` sums of each chunk, which become numbers of type `dtype` side by side; none where there
    /// is one chunk. It takes the chunks and the sums.
    pub(crate) fn add_up(&self, sums: usize, dtype: DType, limits: &Limits) -> Result<Option<Launch>> {
        if self.count == 1 {
            return Ok(None);
        }
        let params = ChunkParams {
            numbers: sums as u64,
            stride: Chunks::stride(sums),
            chunks: count("the sum", self.count)?,
            dtype: type_number(dtype),
        };
        let blocks = params.numbers.div_ceil(THREADS.into());
        Launch::new((modules::LINEAR_BACKWARD, "add_chunks"), blocks, THREADS, &params, limits).map(Some)
    }

    /// What that launch reads and writes; and what the launch before wrote is counted with it.
    pub(crate) fn traffic(&self, sums: usize, dtype: DType) -> Traffic {
        let written = row(sums, dtype);
        let partial = if self.count > 1 { self.count as u64 * row(sums, DType::F32) } else { 0 };
        Traffic { read: partial, written, parameters: 0 }
    }
}

/// The sums of the columns of a matrix `[rows, columns]`, in f32, rounded once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnSums {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) dtype: DType,
    /// What its numbers are taken with, of its shape.
    pub(crate) gate: Option<Gate>,
    /// Of the sums.
    pub(crate) sum: DType,
    /// The rows are the tokens of these sequences, and what is padding is not read.
    pub(crate) tokens: Option<SequenceShape>,
}

impl ColumnSums {
    fn chunks(&self, limits: &Limits) -> Chunks {
        Chunks::new(self.rows, self.columns.div_ceil(COLUMNS) as u64, [SHORTEST / 2, 8], limits)
    }

    /// Numbers of f32 that chunks leave to the launch that adds them up.
    pub(crate) fn scratch_len(&self, limits: &Limits) -> u64 {
        self.chunks(limits).scratch_len(self.columns)
    }

    /// The launches, in order. The first takes the matrix, its gate, the list of sequences and the sums, or scratch in their
    /// place where there is a second, which takes scratch and the sums.
    pub(crate) fn plan(&self, [matrix, gate]: [Place; 2], limits: &Limits) -> Result<Vec<Launch>> {
        let chunks = self.chunks(limits);
        let across = self.columns.div_ceil(COLUMNS);
        let (gating, gate_type) = gating(self.gate);
        let params = ColumnParams {
            stride: matrix.stride as u64,
            gate_stride: gate.stride as u64,
            sum_chunk: if chunks.count > 1 { Chunks::stride(self.columns) } else { 0 },
            rows: count("the sum", self.rows)?,
            columns: count("the sum", self.columns)?,
            chunk: count("the sum", chunks.length)?,
            across: count("the sum", across)?,
            time: padded_time(self.tokens)?,
            gating,
            dtype: type_number(self.dtype),
            gate_type,
            sum_type: type_number(if chunks.count > 1 { DType::F32 } else { self.sum }),
            unused: 0,
        };
        let blocks = (across as u64).saturating_mul(chunks.count as u64);
        let first = Launch::new((modules::LINEAR_BACKWARD, "column_sums"), blocks, THREADS, &params, limits)?;
        Ok([first].into_iter().chain(chunks.add_up(self.columns, self.sum, limits)?).collect())
    }

    /// What the launches read and write, where rows begin on a sector and none is padding.
    pub(crate) fn traffic(&self, limits: &Limits) -> Traffic {
        let chunks = self.chunks(limits);
        let mut all = chunks.traffic(self.columns, self.sum);
        if chunks.count > 1 {
            all.written += chunks.count as u64 * row(self.columns, DType::F32);
        }
        let of = |dtype| self.rows as u64 * row(self.columns, dtype);
        all.read += of(self.dtype) + self.gate.map_or(0, |gate| of(gate.dtype()));
        all
    }
}

/// Puts sums of columns into the stream: `bound` are the matrix, its gate, the list of sequences, the sums, and scratch.
pub(crate) fn push_sums(binder: Binder<'_>, sums: &ColumnSums, bound: [&Bound<'_>; 5]) -> Result<()> {
    let [matrix, gate, list, out, scratch] = bound;
    match &sums.plan([matrix.place, gate.place], binder.gpu.limits())?[..] {
        [] => Ok(()),
        [first] => binder.launch(first, [matrix, gate, list, out]),
        [first, others @ ..] => {
            binder.launch(first, [matrix, gate, list, scratch])?;
            others.iter().try_for_each(|launch| binder.launch(launch, [scratch, out]))
        }
    }
}
