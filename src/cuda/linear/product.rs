//! Products of the backward pass, of matrices of any type: the plans of `kernels/linear_backward.cu`, and of
//! `kernels/linear_backward_mma.cu` where one of them is of 16 bits.
//!
//! Another operator describes its product as a [`Product`] and where the matrices lie as [`ProductPlaces`]; sums of the
//! columns of a matrix are [`ColumnSums`]. Both say how much scratch memory they want and what they read and write, and
//! their `plan` gives the launches, one or two. [`push_product`] and [`push_sums`] put these into the stream.

use bytemuck::{Pod, Zeroable};

use crate::cuda::call::{Binder, Bound};
use crate::cuda::limits::Limits;
use crate::cuda::modules;
use crate::cuda::plan::{Launch, Place, count, unit};
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::{DType, Layout, Result, SequenceShape};

pub(crate) use crate::cuda::linear::sums::{Chunks, ColumnSums, push_sums};

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Steps of the contraction that a block brings in at once.
const DEPTH: usize = 16;
/// The shortest chunk of a contraction that is divided.
pub(super) const SHORTEST: usize = 256;

/// Which way the matrices of a product lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A B of A `[rows, depth]` and B `[depth, columns]`.
    Plain,
    /// A^T B of A `[depth, rows]` and B `[depth, columns]`.
    Transposed,
    /// A B^T of A `[rows, depth]` and B `[columns, depth]`.
    ByRows,
}

/// What numbers are taken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Those where a matrix of this type is more than zero, zero elsewhere, and NaN where it is NaN.
    Relu(DType),
    /// All of them, times a matrix of this type.
    Times(DType),
}

impl Gate {
    pub(super) fn dtype(self) -> DType {
        match self {
            Gate::Relu(dtype) | Gate::Times(dtype) => dtype,
        }
    }
}

/// A product C `[rows, columns]`, contracted over `depth`, summed in f32 and rounded once: (A B + addend) factor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) form: Form,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Where it is 0 the sums are zero.
    pub(crate) depth: usize,
    pub(crate) a: DType,
    /// What A is taken with, of its shape.
    pub(crate) gate: Option<Gate>,
    pub(crate) b: DType,
    /// Of the shape of C, or one row of it where its stride is 0. It may lie where C does. None beside [`Form::Transposed`].
    pub(crate) addend: Option<DType>,
    /// Of the shape of C. None beside [`Form::Transposed`].
    pub(crate) factor: Option<DType>,
    /// C, which has no gap between its rows beside [`Form::Transposed`].
    pub(crate) c: DType,
    /// The rows of A (beside [`Form::Transposed`] of A and B) are the tokens of these sequences, and what is padding is not
    /// read; rows of C in the padding are zero.
    pub(crate) tokens: Option<SequenceShape>,
}

/// Where the matrices of a [`Product`] lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductPlaces {
    pub(crate) a: Place,
    pub(crate) gate: Place,
    pub(crate) b: Place,
    pub(crate) addend: Place,
    pub(crate) factor: Place,
    pub(crate) c: Place,
    /// Of [`Product::scratch_len`] numbers.
    pub(crate) scratch: Place,
}

/// The same, bound; `list` is the list of the sequences.
pub(crate) struct ProductBound<'a, 'b> {
    pub(crate) a: &'b Bound<'a>,
    pub(crate) gate: &'b Bound<'a>,
    pub(crate) b: &'b Bound<'a>,
    pub(crate) addend: &'b Bound<'a>,
    pub(crate) factor: &'b Bound<'a>,
    pub(crate) list: &'b Bound<'a>,
    pub(crate) c: &'b Bound<'a>,
    pub(crate) scratch: &'b Bound<'a>,
}

impl ProductBound<'_, '_> {
    fn places(&self) -> ProductPlaces {
        ProductPlaces {
            a: self.a.place,
            gate: self.gate.place,
            b: self.b.place,
            addend: self.addend.place,
            factor: self.factor.place,
            c: self.c.place,
            scratch: self.scratch.place,
        }
    }
}

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    a_stride: u64,
    gate_stride: u64,
    b_stride: u64,
    addend_stride: u64,
    factor_stride: u64,
    c_stride: u64,
    c_chunk: u64,
    rows: u32,
    columns: u32,
    depth: u32,
    chunk: u32,
    across: u32,
    down: u32,
    time: u32,
    gating: u32,
    has_addend: u32,
    has_factor: u32,
    a_type: u32,
    gate_type: u32,
    b_type: u32,
    addend_type: u32,
    factor_type: u32,
    c_type: u32,
    a_wide: u32,
    b_wide: u32,
    c_wide: u32,
    unused: u32,
}

/// As kernels number types.
pub(crate) fn type_number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
    }
}

pub(super) fn gating(gate: Option<Gate>) -> (u32, u32) {
    match gate {
        None => (0, 0),
        Some(Gate::Relu(dtype)) => (1, type_number(dtype)),
        Some(Gate::Times(dtype)) => (2, type_number(dtype)),
    }
}

/// Rows of each padded sequence, or 0 where there is no padding.
pub(crate) fn padded_time(tokens: Option<SequenceShape>) -> Result<u32> {
    match tokens.map(SequenceShape::layout) {
        Some(Layout::Padded { time }) => count("the sequences", time),
        _ => Ok(0),
    }
}

/// Sectors of a row.
pub(super) fn row(numbers: usize, dtype: DType) -> u64 {
    (numbers * dtype.size()).div_ceil(SECTOR) as u64
}

impl Product {
    /// A product of matrices of these types, without gate, addend or factor.
    pub(crate) fn new(form: Form, [rows, columns, depth]: [usize; 3], [a, b, c]: [DType; 3]) -> Self {
        Product { form, rows, columns, depth, a, gate: None, b, addend: None, factor: None, c, tokens: None }
    }

    /// Whether tensor cores make it: where a matrix is of 16 bits. Times a gate it is of f32.
    pub(crate) fn on_tensor_cores(&self) -> bool {
        let multiplied = matches!(self.gate, Some(Gate::Times(_)));
        self.b != DType::F32 || self.a != DType::F32 && !multiplied
    }

    fn tiles(&self, side: usize) -> u64 {
        (self.rows.div_ceil(side) as u64).saturating_mul(self.columns.div_ceil(side) as u64)
    }

    /// The side of a tile, and how the contraction is divided.
    fn shape(&self, limits: &Limits) -> (usize, Chunks) {
        let whole = Chunks { length: self.depth.next_multiple_of(DEPTH).max(DEPTH), count: 1 };
        let most = match self.form {
            Form::Transposed => self.depth.div_ceil(SHORTEST).max(1) as u64,
            _ => 1,
        };
        // Big tiles, unless they are so few that multiprocessors would go without.
        let few = self.tiles(128).saturating_mul(most) < u64::from(limits.multiprocessors);
        let side = if few { 64 } else { 128 };
        let chunks = match self.form {
            Form::Transposed => Chunks::new(self.depth, self.tiles(side), [SHORTEST, DEPTH], limits),
            _ => whole,
        };
        (side, chunks)
    }

    /// Numbers of f32 that the chunks of a contraction leave to the launch that adds them up.
    pub(crate) fn scratch_len(&self, limits: &Limits) -> u64 {
        self.shape(limits).1.scratch_len(self.rows * self.columns)
    }

    /// The launches, in order: none where C has no rows. The first takes A, gate, B, addend, factor, the list of sequences
    /// and C, or scratch in its place where there is a second, which takes scratch and C.
    pub(crate) fn plan(&self, places: &ProductPlaces, limits: &Limits) -> Result<Vec<Launch>> {
        if self.rows == 0 || self.columns == 0 {
            return Ok(vec![]);
        }
        let (side, chunks) = self.shape(limits);
        let (sums, scratch) = (self.rows * self.columns, chunks.count > 1);
        debug_assert!(
            self.form != Form::Transposed
                || self.addend.is_none() && self.factor.is_none() && places.c.stride == self.columns,
            "{self:?}"
        );
        let (c, c_type) = if scratch {
            (Place { stride: self.columns, ..places.scratch }, DType::F32)
        } else {
            (places.c, self.c)
        };
        let [a_width, b_width] = match self.form {
            Form::Plain => [self.depth, self.columns],
            Form::Transposed => [self.rows, self.columns],
            Form::ByRows => [self.depth; 2],
        };
        // Whole quads.
        let is_wide = |dtype: DType, width: usize, place: Place| {
            u32::from(unit(dtype, width, &[place]) as usize >= 4 * dtype.size())
        };
        let also =
            |of: Option<DType>, width: usize, place: Place| of.map_or(1, |of| is_wide(of, width, place));
        let (gating, gate_type) = gating(self.gate);
        let (across, down) = (self.columns.div_ceil(side), self.rows.div_ceil(side));
        let params = Params {
            a_stride: places.a.stride as u64,
            gate_stride: places.gate.stride as u64,
            b_stride: places.b.stride as u64,
            addend_stride: places.addend.stride as u64,
            factor_stride: places.factor.stride as u64,
            c_stride: c.stride as u64,
            c_chunk: if scratch { Chunks::stride(sums) } else { 0 },
            rows: count("the product", self.rows)?,
            columns: count("the product", self.columns)?,
            depth: count("the product", self.depth)?,
            chunk: count("the product", chunks.length)?,
            across: count("the product", across)?,
            down: count("the product", down)?,
            time: padded_time(self.tokens)?,
            gating,
            has_addend: self.addend.is_some().into(),
            has_factor: self.factor.is_some().into(),
            a_type: type_number(self.a),
            gate_type,
            b_type: type_number(self.b),
            addend_type: self.addend.map_or(0, type_number),
            factor_type: self.factor.map_or(0, type_number),
            c_type: type_number(c_type),
            a_wide: is_wide(self.a, a_width, places.a)
                & also(self.gate.map(Gate::dtype), a_width, places.gate),
            b_wide: is_wide(self.b, b_width, places.b),
            c_wide: is_wide(c_type, self.columns, c)
                & also(self.addend, self.columns, places.addend)
                & also(self.factor, self.columns, places.factor),
            unused: 0,
        };
        let entry = match (self.form, side) {
            (Form::Plain, 128) => "product",
            (Form::Plain, _) => "product_small",
            (Form::Transposed, 128) => "transposed",
            (Form::Transposed, _) => "transposed_small",
            (Form::ByRows, 128) => "by_rows",
            (Form::ByRows, _) => "by_rows_small",
        };
        let blocks = self.tiles(side).saturating_mul(chunks.count as u64);
        let module =
            if self.on_tensor_cores() { modules::LINEAR_BACKWARD_MMA } else { modules::LINEAR_BACKWARD };
        let first = Launch::new((module, entry), blocks, THREADS, &params, limits)?;
        Ok([first].into_iter().chain(chunks.add_up(sums, self.c, limits)?).collect())
    }

    /// What the launches read and write, where the rows of all matrices begin on a sector and none is padding.
    pub(crate) fn traffic(&self, limits: &Limits) -> Traffic {
        if self.rows == 0 || self.columns == 0 {
            return Traffic::default();
        }
        let (side, chunks) = self.shape(limits);
        let (across, down) = (self.columns.div_ceil(side) as u64, self.rows.div_ceil(side) as u64);
        let (rows, columns, depth) = (self.rows as u64, self.columns as u64, self.depth as u64);
        let of_a = |dtype: DType| match self.form {
            Form::Transposed => depth * row(self.rows, dtype),
            _ => rows * row(self.depth, dtype),
        };
        let b = match self.form {
            Form::ByRows => columns * row(self.depth, self.b),
            _ => depth * row(self.columns, self.b),
        };
        let c = |dtype: DType| rows * row(self.columns, dtype);
        let beside = |of: Option<DType>| of.map_or(0, c);
        let a = of_a(self.a) + self.gate.map_or(0, |gate| of_a(gate.dtype()));
        let mut all = if chunks.count > 1 {
            let mut all = chunks.traffic(self.rows * self.columns, self.c);
            all.written += chunks.count as u64 * c(DType::F32);
            all
        } else {
            Traffic { written: c(self.c), ..Traffic::default() }
        };
        all.read += across * a + down * b + beside(self.addend) + beside(self.factor);
        all
    }
}

/// Puts a product into the stream.
pub(crate) fn push_product(
    binder: Binder<'_>,
    product: &Product,
    bound: &ProductBound<'_, '_>,
) -> Result<()> {
    let ProductBound { a, gate, b, addend, factor, list, c, scratch } = *bound;
    match &product.plan(&bound.places(), binder.gpu.limits())?[..] {
        [] => Ok(()),
        [first] => binder.launch(first, [a, gate, b, addend, factor, list, c]),
        [first, others @ ..] => {
            binder.launch(first, [a, gate, b, addend, factor, list, scratch])?;
            others.iter().try_for_each(|launch| binder.launch(launch, [scratch, c]))
        }
    }
}
