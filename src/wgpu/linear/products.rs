//! The gradients of a linear layer, one by one: what every operator that has such a layer in it makes its own of.
//!
//! With da `[tokens, outputs]` the gradient that flows in, they are dx = da W, dW = da^T x, and the column sums of da. An
//! operator describes da once ([`Products`]), and pushes what is wanted of it to its call:
//!
//! ```ignore
//! // dlogits [tokens, H K], f32 in scratch; q [tokens, Cq]; W [H K, Cq].
//! let products = Products::new(tokens, logits, query_channels, Incoming::plain(DType::F32), conv.sequences());
//! let flows = Flow { dy: Operand::new(dlogits, DType::F32), factor: None, sequences: list };
//! products.push_input(&mut call, gpu, flows, Operand::new(weight, parameters), addend, Operand::new(dquery, dtype))?;
//! products.push_weight(&mut call, gpu, flows, Operand::new(query, dtype), partial, Operand::new(dweight, gradients))?;
//! products.push_bias(&mut call, gpu, flows, partial, Operand::new(dweight_bias, gradients))?;
//! ```
//!
//! `dlogits`, `query`, `addend` are [`Bound`]s with the strides of their rows; `partial` is scratch memory of f32 numbers in
//! a buffer that none of the other operands is in, of [`Products::weight_scratch`] or [`Products::bias_scratch`] numbers from
//! its place on (the launches use it one after another). Where plans are made before there are buffers,
//! [`Products::plan_input`] and its like say which kernels will be needed.
//!
//! Sums over tokens leave out what lies in the padding of a padded batch, and dx there is zero. All of it is deterministic:
//! chunks of tokens depend on the sizes alone, and their sums are added in order.

use crate::gpu::word;
use crate::wgpu::call::{Binder, Bound, Call};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::linear::kernels::{Over, columns_kernel, product_kernel};
use crate::wgpu::plan::{Launch, Parameter, Place, parameters};
use crate::wgpu::product::Blocks;
use crate::wgpu::reduce::{self, Parts};
use crate::{DType, Layout, Result, SequenceShape};

/// What dy goes through on its way to da.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    /// da = dy where this, the output of a ReLU, is above zero, and zero elsewhere; NaN where it is NaN.
    Relu(DType),
    /// da = dy times this, element by element.
    Times(DType),
}

/// How da comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) dy: DType,
    pub(crate) factor: Option<Factor>,
}

impl Incoming {
    /// da is dy.
    pub(crate) fn plain(dy: DType) -> Self {
        Incoming { dy, factor: None }
    }

    fn factor_dtype(self) -> DType {
        match self.factor {
            None => DType::F32,
            Some(Factor::Relu(dtype) | Factor::Times(dtype)) => dtype,
        }
    }
}

/// Rows of numbers of a type, as they lie in a binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) place: Place,
}

impl Matrix {
    /// Rows of `columns` without a gap.
    pub(crate) fn contiguous(dtype: DType, columns: usize) -> Self {
        Matrix { dtype, place: Place::contiguous(columns) }
    }
}

/// The same with the binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a> {
    bound: Bound<'a>,
    dtype: DType,
}

impl<'a> Operand<'a> {
    pub(crate) fn new(bound: Bound<'a>, dtype: DType) -> Self {
        Operand { bound, dtype }
    }

    fn matrix(&self) -> Matrix {
        Matrix { dtype: self.dtype, place: self.bound.place }
    }
}

/// Where dy and what it goes through lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowPlaces {
    pub(crate) dy: Place,
    pub(crate) factor: Place,
}

/// The buffers that da is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow<'a> {
    pub(crate) dy: Bound<'a>,
    /// Where dy goes through something.
    pub(crate) factor: Option<Bound<'a>>,
    /// The list of sequences.
    pub(crate) sequences: Bound<'a>,
}

impl<'a> Flow<'a> {
    /// What every kernel binds first.
    fn inputs(&self, nothing: Bound<'a>) -> [Bound<'a>; 3] {
        [self.sequences, self.dy, self.factor.unwrap_or(nothing)]
    }

    fn places(&self) -> FlowPlaces {
        let factor = self.factor.map_or(Place::contiguous(0), |factor| factor.place);
        FlowPlaces { dy: self.dy.place, factor }
    }
}

/// The products of one da.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Products {
    tokens: usize,
    outputs: usize,
    inputs: usize,
    incoming: Incoming,
    /// Rows of each sequence of a padded batch; 0 where there is no padding.
    time: usize,
}

/// Tiles that keep a big GPU busy.
const BUSY: usize = 256;

/// The fewest tokens of a chunk: its sums, which are written and read again, are worth as many products.
const CHUNK: usize = 256;

/// The most tokens of a chunk, unless memory for partial sums runs out: a sum of so many has drifted little, and no device
/// gives up on it.
const LONG_CHUNK: usize = 8192;

/// Partial sums that there is always room for.
const PARTIAL: usize = 16 << 20;

/// Tokens of the `parts` chunks that `tokens` are divided into, and their number.
fn chunks(tokens: usize, parts: usize) -> (usize, usize) {
    let chunk = tokens.div_ceil(parts.max(1)).max(CHUNK);
    (chunk, tokens.div_ceil(chunk).max(1))
}

impl Products {
    /// For da `[tokens, outputs]`, x `[tokens, inputs]` and W `[outputs, inputs]`; none of `sequences` for rows that are no
    /// tokens of sequences.
    pub(crate) fn new(
        [tokens, outputs, inputs]: [usize; 3],
        incoming: Incoming,
        sequences: Option<SequenceShape>,
    ) -> Self {
        let time = match sequences.map(SequenceShape::layout) {
            Some(Layout::Padded { time }) => time,
            _ => 0,
        };
        Products { tokens, outputs, inputs, incoming, time }
    }

    /// Where da lies before there are buffers.
    pub(crate) fn contiguous(&self) -> FlowPlaces {
        let place = Place::contiguous(self.outputs);
        FlowPlaces { dy: place, factor: place }
    }

    /// Tokens of a chunk of dW, and chunks.
    fn weight_chunks(&self) -> (usize, usize) {
        let tiles = self.outputs.div_ceil(64).saturating_mul(self.inputs.div_ceil(64));
        let room = (PARTIAL / self.outputs.saturating_mul(self.inputs).min(PARTIAL)).max(1);
        chunks(self.tokens, BUSY.div_ceil(tiles).max(self.tokens.div_ceil(LONG_CHUNK)).min(room))
    }

    /// Tokens of a chunk of the column sums, and chunks.
    fn bias_chunks(&self) -> (usize, usize) {
        let room = (PARTIAL / self.outputs.min(PARTIAL)).max(1);
        chunks(self.tokens, BUSY.max(self.tokens.div_ceil(LONG_CHUNK)).min(room))
    }

    fn scratch((_, chunks): (usize, usize), count: usize) -> u64 {
        // One chunk is the whole sum.
        if chunks == 1 { 0 } else { (chunks as u64).saturating_mul(count as u64) }
    }

    /// Numbers of scratch memory for dW.
    pub(crate) fn weight_scratch(&self) -> u64 {
        Products::scratch(self.weight_chunks(), self.outputs * self.inputs)
    }

    /// Numbers of scratch memory for the column sums.
    pub(crate) fn bias_scratch(&self) -> u64 {
        Products::scratch(self.bias_chunks(), self.outputs)
    }

    /// y `[tokens, inputs]` = da W, and an addend of f32; none where there are no tokens.
    pub(crate) fn plan_input(
        &self,
        flow: FlowPlaces,
        weight: Matrix,
        addend: Option<Place>,
        y: Matrix,
        limits: &Limits,
    ) -> Result<Option<Launch>> {
        if self.tokens == 0 {
            return Ok(None);
        }
        let call = Lies { flow, b: weight.place, addend, y: y.place, chunk: self.tokens, chunks: 1 };
        let product = Over { tokens: false, b: weight.dtype, y: y.dtype };
        self.product(product, self.tokens, call, limits).map(Some)
    }

    /// y `[outputs, inputs]` = da^T x: one launch, or that of the chunks, whose sums go to scratch memory from `partial` on,
    /// and that of their sum.
    pub(crate) fn plan_weight(
        &self,
        flow: FlowPlaces,
        x: Matrix,
        partial: usize,
        y: Matrix,
        limits: &Limits,
    ) -> Result<Vec<Launch>> {
        let (chunk, chunks) = self.weight_chunks();
        let direct = chunks == 1;
        let place = Place { offset: if direct { y.place.offset } else { partial }, stride: self.inputs };
        let call = Lies { flow, b: x.place, addend: None, y: place, chunk, chunks };
        let dtype = if direct { y.dtype } else { DType::F32 };
        let product =
            self.product(Over { tokens: true, b: x.dtype, y: dtype }, self.outputs, call, limits)?;
        let parts = Parts { parts: chunks, count: self.outputs * self.inputs, offset: partial };
        with_sum(product, parts, y, limits)
    }

    /// y `[outputs]`, the column sums of da: launches as those of [`Products::plan_weight`].
    pub(crate) fn plan_bias(
        &self,
        flow: FlowPlaces,
        partial: usize,
        y: Matrix,
        limits: &Limits,
    ) -> Result<Vec<Launch>> {
        /// Outputs of a workgroup.
        const COLUMNS: usize = 64;
        let (chunk, chunks) = self.bias_chunks();
        let direct = chunks == 1;
        let offset = if direct { y.place.offset } else { partial };
        let place = Place { offset, stride: self.outputs };
        let call = Lies { flow, b: Place::contiguous(0), addend: None, y: place, chunk, chunks };
        let tiles = self.outputs.div_ceil(COLUMNS);
        let none = Blocks { row_quads: 1, rows: 0, columns: 0 };
        let all = self.parameters(call, none, tiles, tiles)?;
        let whole_words = place.whole_words();
        let dtype = if direct { y.dtype } else { DType::F32 };
        let kernel = columns_kernel(self.incoming, self.paired(flow), dtype, whole_words);
        let sums = Launch::new(kernel, tiles as u64 * chunks as u64, all, limits)?;
        with_sum(sums, Parts { parts: chunks, count: self.outputs, offset: partial }, y, limits)
    }

    /// Adds the launch of dx, if there is one.
    pub(crate) fn push_input(
        &self,
        call: &mut Call,
        gpu: &Gpu,
        flow: Flow<'_>,
        weight: Operand<'_>,
        addend: Option<Bound<'_>>,
        y: Operand<'_>,
    ) -> Result<()> {
        let place = addend.map(|addend| addend.place);
        let launch = self.plan_input(flow.places(), weight.matrix(), place, y.matrix(), gpu.limits())?;
        let Some(launch) = launch else { return Ok(()) };
        let nothing = Binder { gpu }.nothing("nothing");
        let inputs = flow.inputs(nothing).into_iter().chain([weight.bound, addend.unwrap_or(nothing)]);
        call.push(gpu, &launch, y.bound, &inputs.collect::<Vec<_>>())
    }

    /// Adds the launches of dW, with `partial` for the sums of chunks.
    pub(crate) fn push_weight(
        &self,
        call: &mut Call,
        gpu: &Gpu,
        flow: Flow<'_>,
        x: Operand<'_>,
        partial: Bound<'_>,
        y: Operand<'_>,
    ) -> Result<()> {
        let offset = partial.place.offset;
        let launches = self.plan_weight(flow.places(), x.matrix(), offset, y.matrix(), gpu.limits())?;
        let nothing = Binder { gpu }.nothing("nothing");
        let inputs: Vec<_> = flow.inputs(nothing).into_iter().chain([x.bound, nothing]).collect();
        push_with_sum(call, gpu, &launches, &inputs, partial, y.bound)
    }

    /// Adds the launches of the column sums, with `partial` for the sums of chunks.
    pub(crate) fn push_bias(
        &self,
        call: &mut Call,
        gpu: &Gpu,
        flow: Flow<'_>,
        partial: Bound<'_>,
        y: Operand<'_>,
    ) -> Result<()> {
        let launches = self.plan_bias(flow.places(), partial.place.offset, y.matrix(), gpu.limits())?;
        let inputs = flow.inputs(Binder { gpu }.nothing("nothing"));
        push_with_sum(call, gpu, &launches, &inputs, partial, y.bound)
    }

    fn product(&self, over: Over, rows: usize, call: Lies, limits: &Limits) -> Result<Launch> {
        let blocks = |row_quads, most| Blocks::new(row_quads, rows.min(most), self.inputs);
        let tiles =
            |blocks: Blocks| rows.div_ceil(blocks.tile_rows()) * self.inputs.div_ceil(blocks.tile_columns());
        let (small, big) = (blocks(1, 64), blocks(2, 128));
        let blocks = if tiles(big).saturating_mul(call.chunks) < BUSY { small } else { big };
        let tiles = tiles(blocks);
        let all = self.parameters(call, blocks, self.inputs.div_ceil(blocks.tile_columns()), tiles)?;
        let paired = self.paired(call.flow) && (over.b == DType::F32 || call.b.whole_words());
        let whole_words = call.y.whole_words() && self.inputs.is_multiple_of(2);
        let kernel =
            product_kernel(self.incoming, over, call.addend.is_some(), paired, whole_words, blocks.row_quads);
        Launch::new(kernel, tiles as u64 * call.chunks as u64, all, limits)
    }

    fn parameters(&self, call: Lies, blocks: Blocks, columns: usize, tiles: usize) -> Result<Vec<Parameter>> {
        let Lies { flow, b, addend, y, chunk, chunks } = call;
        let addend = addend.unwrap_or(Place::contiguous(0));
        parameters(&[
            ("tokens", self.tokens),
            ("outputs", self.outputs),
            ("inputs", self.inputs),
            ("time", self.time),
            ("chunk", chunk),
            ("chunks", chunks),
            ("dy_offset", flow.dy.offset),
            ("dy_stride", flow.dy.stride),
            ("factor_offset", flow.factor.offset),
            ("factor_stride", flow.factor.stride),
            ("b_offset", b.offset),
            ("b_stride", b.stride),
            ("addend_offset", addend.offset),
            ("addend_stride", addend.stride),
            ("y_offset", y.offset),
            ("y_stride", y.stride),
            ("row_groups", blocks.rows),
            ("column_groups", blocks.columns),
            ("columns", columns),
            ("tiles", tiles),
            ("groups", tiles.saturating_mul(chunks)),
            ("unused_1", 0),
            ("unused_2", 0),
            ("unused_3", 0),
        ])
    }

    /// Whether pairs of da fill whole words. Numbers of 32 bits are whole words anyway.
    fn paired(&self, flow: FlowPlaces) -> bool {
        let whole = |dtype: DType, place: Place| dtype == DType::F32 || place.whole_words();
        let factor = self.incoming.factor.is_none() || whole(self.incoming.factor_dtype(), flow.factor);
        whole(self.incoming.dy, flow.dy) && factor
    }
}

/// Where the operands of a launch lie, and how its tokens are divided.
#[derive(Clone, Copy, Debug)]
struct Lies {
    flow: FlowPlaces,
    b: Place,
    addend: Option<Place>,
    y: Place,
    chunk: usize,
    chunks: usize,
}

/// The launch of a sum over tokens, and where it makes several parts that of their sum.
fn with_sum(launch: Launch, parts: Parts, y: Matrix, limits: &Limits) -> Result<Vec<Launch>> {
    if parts.parts == 1 {
        return Ok(vec![launch]);
    }
    let len = parts.parts.saturating_mul(parts.count);
    word("elements of", "scratch", parts.offset.saturating_add(len))?;
    Ok(vec![launch, reduce::plan(parts, y.dtype, y.place.offset, limits)?])
}

fn push_with_sum(
    call: &mut Call,
    gpu: &Gpu,
    launches: &[Launch],
    inputs: &[Bound<'_>],
    partial: Bound<'_>,
    y: Bound<'_>,
) -> Result<()> {
    match launches {
        [sums, sum] => {
            call.push(gpu, sums, partial, inputs)?;
            call.push(gpu, sum, y, &[partial])
        }
        direct => direct.iter().try_for_each(|launch| call.push(gpu, launch, y, inputs)),
    }
}
