//! Rows of tokens in slices: what a caller gives, and what kernels read and write once it is checked.

use std::marker::PhantomData;
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use half::{bf16, f16};

use crate::cpu::buffer::{Elements, ElementsMut};
use crate::{DType, Error, Result};

/// Tokens in a slice: token t begins at element t * stride.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub(crate) data: Elements<'a>,
    stride: Option<usize>,
}

impl<'a> Rows<'a> {
    /// Token after token, without a gap.
    pub fn contiguous(data: impl Into<Elements<'a>>) -> Self {
        Rows { data: data.into(), stride: None }
    }

    /// `stride` elements from one token to the next, at least the channels of one.
    pub fn strided(data: impl Into<Elements<'a>>, stride: usize) -> Self {
        Rows { data: data.into(), stride: Some(stride) }
    }

    /// The rows of a tensor `[tokens, channels]` of type `dtype`, or what is wrong with them.
    pub(crate) fn check(
        self,
        tensor: &'static str,
        dtype: DType,
        tokens: usize,
        channels: usize,
    ) -> Result<Source<'a>> {
        let stride = check_stride(tensor, self.stride, channels)?;
        self.data.check(tensor, dtype, extent(tensor, tokens, stride, channels)?)?;
        Ok(Source { data: self.data, stride })
    }
}

/// Tokens in a mutable slice: token t begins at element t * stride. What lies between the rows is left as it is.
#[derive(Debug)]
pub struct RowsMut<'a> {
    data: ElementsMut<'a>,
    stride: Option<usize>,
}

impl<'a> RowsMut<'a> {
    /// Token after token, without a gap.
    pub fn contiguous(data: impl Into<ElementsMut<'a>>) -> Self {
        RowsMut { data: data.into(), stride: None }
    }

    /// `stride` elements from one token to the next, at least the channels of one.
    pub fn strided(data: impl Into<ElementsMut<'a>>, stride: usize) -> Self {
        RowsMut { data: data.into(), stride: Some(stride) }
    }

    /// The rows of a tensor `[tokens, channels]` of type `dtype`, or what is wrong with them.
    pub(crate) fn check(
        self,
        tensor: &'static str,
        dtype: DType,
        tokens: usize,
        channels: usize,
    ) -> Result<Sink<'a>> {
        let stride = check_stride(tensor, self.stride, channels)?;
        let expected = extent(tensor, tokens, stride, channels)?;
        let (pointer, got, len) = match self.data {
            ElementsMut::F32(slice) => (Pointer::F32(slice.as_mut_ptr()), DType::F32, slice.len()),
            ElementsMut::F16(slice) => (Pointer::F16(slice.as_mut_ptr()), DType::F16, slice.len()),
            ElementsMut::BF16(slice) => (Pointer::BF16(slice.as_mut_ptr()), DType::BF16, slice.len()),
        };
        if got != dtype {
            return Err(Error::DType { tensor, expected: vec![dtype], got });
        }
        if len < expected {
            return Err(Error::Length { tensor, expected, got: len });
        }
        Ok(Sink { pointer, stride, channels, tokens, slice: PhantomData })
    }
}

fn check_stride(tensor: &'static str, stride: Option<usize>, channels: usize) -> Result<usize> {
    match stride {
        Some(stride) if stride < channels => Err(Error::Stride { tensor, stride, channels }),
        // Also where there is but one row: products take strides as signed numbers.
        Some(stride) if stride > isize::MAX as usize => {
            Err(Error::TooLarge { what: tensor, sizes: vec![stride] })
        }
        stride => Ok(stride.unwrap_or(channels)),
    }
}

/// Elements from the first of the first token to the last of the last.
fn extent(tensor: &'static str, tokens: usize, stride: usize, channels: usize) -> Result<usize> {
    let Some(last) = tokens.checked_sub(1) else { return Ok(0) };
    last.checked_mul(stride)
        .and_then(|start| start.checked_add(channels))
        .ok_or_else(|| Error::TooLarge { what: tensor, sizes: vec![tokens, stride] })
}

/// Checked rows to read.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    data: Elements<'a>,
    pub(crate) stride: usize,
}

impl<'a> Source<'a> {
    /// Rows of `channels` numbers, one after another.
    pub(crate) fn of(data: &'a [f32], channels: usize) -> Self {
        Source { data: data.into(), stride: channels }
    }

    /// The checked elements of a matrix, rows of `channels` one after another.
    pub(crate) fn of_elements(data: Elements<'a>, channels: usize) -> Self {
        Source { data, stride: channels }
    }

    /// The type of the elements.
    pub(crate) fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Columns from `column` on of one row, as f32.
    pub(crate) fn load(&self, row: usize, column: usize, out: &mut [f32]) {
        self.data.load(row * self.stride + column, out);
    }

    /// Columns of one row as they lie in memory.
    fn bytes(&self, row: usize, columns: Range<usize>) -> &'a [u8] {
        let (start, size) = (row * self.stride, self.data.dtype().size());
        &self.data.bytes()[(start + columns.start) * size..(start + columns.end) * size]
    }

    /// Columns from `column` on of one row in blocks, as [`Elements::load_blocks`].
    pub(crate) fn load_blocks(
        &self,
        row: usize,
        columns: Range<usize>,
        block: usize,
        stride: usize,
        out: &mut [f32],
    ) {
        self.data.load_blocks(row * self.stride + columns.start, columns.len(), block, stride, out);
    }

    /// The elements from one row on, where they are f32 and need no conversion.
    pub(crate) fn as_f32(&self, row: usize) -> Option<&'a [f32]> {
        match self.data {
            Elements::F32(slice) => Some(&slice[row * self.stride..]),
            _ => None,
        }
    }

    /// Rows as f32 with `width` columns from `column` on: where they lie, or a copy in `copy`; and their stride.
    pub(crate) fn stage<'b>(
        &self,
        rows: Range<usize>,
        column: usize,
        width: usize,
        copy: &'b mut [f32],
    ) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        if rows.is_empty() {
            return (&[], width);
        }
        if let Some(slice) = self.as_f32(rows.start) {
            return (&slice[column..], self.stride);
        }
        for (row, out) in rows.zip(copy.chunks_exact_mut(width)) {
            self.load(row, column, out);
        }
        (copy, width)
    }
}

#[derive(Clone, Copy)]
enum Pointer {
    F32(*mut f32),
    F16(*mut f16),
    BF16(*mut bf16),
}

/// Checked rows to write, from several threads, each row and column by one of them.
pub(crate) struct Sink<'a> {
    pointer: Pointer,
    stride: usize,
    channels: usize,
    tokens: usize,
    slice: PhantomData<&'a mut ()>,
}

// SAFETY: a Sink is the unique borrow of a slice of plain numbers, which may be sent; writing through it from several
// threads is made safe by the contract of `store`.
unsafe impl Send for Sink<'_> {}
// SAFETY: as above; `store` and `load` are the only access, and their callers promise that no two threads write the same
// element, and that none reads what another writes.
unsafe impl Sync for Sink<'_> {}

impl<'a> Sink<'a> {
    /// Rows of `channels` numbers, one after another.
    pub(crate) fn of(data: &'a mut [f32], channels: usize) -> Self {
        let tokens = data.len() / channels.max(1);
        Sink {
            pointer: Pointer::F32(data.as_mut_ptr()),
            stride: channels,
            channels,
            tokens,
            slice: PhantomData,
        }
    }
}

impl Sink<'_> {
    /// Rounds `values` into one row, from `column` on.
    ///
    /// # Safety
    ///
    /// No other thread may write any of these elements during the call.
    pub(crate) unsafe fn store(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: the caller promises what `part` asks for.
        unsafe { self.part(row, column, values.len()) }.store(values);
    }

    /// Moves columns of a row of `from`, which has the same type, into the same columns of one row, bit by bit.
    ///
    /// # Safety
    ///
    /// No other thread may write any of these elements during the call.
    pub(crate) unsafe fn copy(&self, row: usize, columns: Range<usize>, from: &Source<'_>, from_row: usize) {
        // SAFETY: the caller promises what `part` asks for.
        let to = unsafe { self.part(row, columns.start, columns.len()) };
        to.into_bytes().copy_from_slice(from.bytes(from_row, columns));
    }

    /// `len` elements of one row, from `column` on.
    ///
    /// # Safety
    ///
    /// No other thread may write any of these elements as long as they are held.
    unsafe fn part(&self, row: usize, column: usize, len: usize) -> ElementsMut<'_> {
        assert!(row < self.tokens && column + len <= self.channels);
        let start = row * self.stride + column;
        // SAFETY: the assertion above keeps the range inside the slice that `RowsMut::check` measured, and the caller
        // promises that nobody else writes it. The same for each type.
        unsafe {
            match self.pointer {
                Pointer::F32(pointer) => ElementsMut::F32(from_raw_parts_mut(pointer.add(start), len)),
                Pointer::F16(pointer) => ElementsMut::F16(from_raw_parts_mut(pointer.add(start), len)),
                Pointer::BF16(pointer) => ElementsMut::BF16(from_raw_parts_mut(pointer.add(start), len)),
            }
        }
    }

    /// Columns from `column` on of one row, as f32.
    ///
    /// # Safety
    ///
    /// No other thread may write any of these elements during the call, and all must have been written before.
    pub(crate) unsafe fn load(&self, row: usize, column: usize, out: &mut [f32]) {
        assert!(row < self.tokens && column + out.len() <= self.channels);
        let (start, len) = (row * self.stride + column, out.len());
        // SAFETY: as in `part`.
        let row = unsafe {
            match self.pointer {
                Pointer::F32(pointer) => Elements::F32(from_raw_parts(pointer.add(start), len)),
                Pointer::F16(pointer) => Elements::F16(from_raw_parts(pointer.add(start), len)),
                Pointer::BF16(pointer) => Elements::BF16(from_raw_parts(pointer.add(start), len)),
            }
        };
        row.load(0, out);
    }

    /// Writes zeros to some columns of rows.
    ///
    /// # Safety
    ///
    /// No other thread may write any of these elements during the call.
    pub(crate) unsafe fn zero(&self, rows: Range<usize>, columns: Range<usize>) {
        const ZEROS: [f32; 64] = [0.0; 64];
        for row in rows {
            for start in columns.clone().step_by(ZEROS.len()) {
                let count = ZEROS.len().min(columns.end - start);
                // SAFETY: the caller's promise holds for each part.
                unsafe { self.store(row, start, &ZEROS[..count]) };
            }
        }
    }
}
