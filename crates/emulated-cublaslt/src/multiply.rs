//! Products.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use crate::algorithms::{Algorithm, Kind, Shape};
use crate::descriptions::{Layout, Product};
use crate::driver::{self, Result, Stream};
use crate::numbers::{Type, tf32};
use crate::status::{
    EXECUTION_FAILED, Handle, INVALID_VALUE, NOT_INITIALIZED, NOT_SUPPORTED, SUCCESS, Status, usable, wrong,
};

/// A product, with all that it needs when its turn comes.
#[derive(Clone, Debug)]
struct Job {
    kind: Kind,
    shape: Shape,
    transposes: [bool; 2],
    /// A, B, C and D, and where they lie.
    matrices: [(Layout, u64); 4],
    bias: Option<u64>,
    alpha: f32,
    beta: f32,
    workspace: u64,
}

/// # Safety
///
/// All descriptions are there; `alpha` and `beta` are valid for one read.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    handle: *const Handle,
    product: *const Product,
    alpha: *const f32,
    a: u64,
    a_layout: *const Layout,
    b: u64,
    b_layout: *const Layout,
    beta: *const f32,
    c: u64,
    c_layout: *const Layout,
    d: u64,
    d_layout: *const Layout,
    algorithm: *const Algorithm,
    workspace: u64,
    workspace_bytes: usize,
    stream: Stream,
) -> Status {
    // SAFETY: the caller's promise.
    if !unsafe { usable(handle) } {
        return wrong(NOT_INITIALIZED, "no handle, or no context is current");
    }
    // SAFETY: the caller's promise.
    let (product, algorithm) = unsafe { (&*product, &*algorithm) };
    // SAFETY: the caller's promise.
    let layouts = unsafe { [*a_layout, *b_layout, *c_layout, *d_layout] };
    let shape = match Shape::new(product, layouts.each_ref()) {
        Ok(shape) => shape,
        Err(reason) => return wrong(INVALID_VALUE, reason),
    };
    let Some(kind) = algorithm.kind(&shape, product.bias) else {
        return wrong(NOT_SUPPORTED, format_args!("{algorithm:?} for {shape:?}"));
    };
    let matrices = [(layouts[0], a), (layouts[1], b), (layouts[2], c), (layouts[3], d)];
    let bias = product.bias.then_some(product.bias_address);
    let addresses = matrices.iter().map(|matrix| (matrix.1, algorithm.alignment));
    for (address, alignment) in addresses.chain(bias.map(|bias| (bias, algorithm.bias))) {
        if address == 0 || !address.is_multiple_of(alignment) {
            return wrong(INVALID_VALUE, format_args!("a matrix at {address:#x} for {algorithm:?}"));
        }
    }
    if algorithm.workspace > workspace_bytes as u64 || !workspace.is_multiple_of(16) {
        let what = format_args!("{workspace_bytes} bytes at {workspace:#x} for {algorithm:?}");
        return wrong(INVALID_VALUE, what);
    }
    // SAFETY: the caller's promise.
    let (alpha, beta) = unsafe { (*alpha, *beta) };
    let job = Job { kind, shape, transposes: product.transposes, matrices, bias, alpha, beta, workspace };
    match start(job, stream) {
        Ok(()) => SUCCESS,
        Err(reason) => wrong(EXECUTION_FAILED, reason),
    }
}

/// Does the job, or leaves it to the graph that the stream is captured into.
fn start(job: Job, stream: Stream) -> Result {
    if !driver::is_capturing(stream)? {
        return job.run(stream);
    }
    // A graph may run it at any time, any number of times.
    let job: &'static Job = Box::leak(Box::new(job));
    // SAFETY: the job is never freed, and never changed.
    unsafe { driver::launch(stream, run_captured, std::ptr::from_ref(job).cast_mut().cast()) }
}

/// # Safety
///
/// `job` points to a [`Job`].
unsafe extern "C" fn run_captured(job: *mut c_void) {
    // SAFETY: the caller's promise.
    let job = unsafe { &*job.cast::<Job>() };
    // The graph's own stream is not known. Nobody is told of an error here: so it ends the program.
    if let Err(reason) = job.run(null_mut()) {
        panic!("emulated cuBLASLt, in a graph: {reason}");
    }
}

/// A stream does one thing after another, whichever threads ask; the emulated driver does each at once, where it is asked. Here
/// one job waits for the other, as they may share a workspace.
static TURN: Mutex<()> = Mutex::new(());

impl Job {
    fn run(&self, stream: Stream) -> Result {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let Job { shape, kind, .. } = self;
        let [a, b, c, d] = &self.matrices;
        let cut = |numbers: Vec<f32>| -> Vec<f32> {
            if *kind == Kind::Tf32 { numbers.into_iter().map(tf32).collect() } else { numbers }
        };
        let (a, b) = (cut(read(a, shape.dtype, stream)?), cut(read(b, shape.dtype, stream)?));
        let sums = match kind {
            Kind::Split | Kind::SplitInOutputType => self.by_workspace(&a, &b, stream)?,
            _ => self.sums(&a, &b),
        };
        let c = if self.beta == 0.0 { None } else { Some(read(c, shape.dtype, stream)?) };
        let bias = self.bias.map(|address| {
            let layout =
                Layout { dtype: d.0.dtype, rows: shape.rows as u64, columns: 1, stride: shape.rows as i64 };
            read(&(layout, address), shape.dtype, stream)
        });
        let bias = bias.transpose()?;
        let result = sums.iter().enumerate().map(|(i, sum)| {
            let addend = c.as_ref().map_or(0.0, |c| self.beta * c[i]);
            self.alpha * sum + addend + bias.as_ref().map_or(0.0, |bias| bias[i % shape.rows])
        });
        write(d, &result.collect::<Vec<_>>(), shape.dtype, stream)
    }

    /// The sums of op(A) op(B), in the order of D.
    fn sums(&self, a: &[f32], b: &[f32]) -> Vec<f32> {
        let parts = self.parts();
        self.each(|row, column| {
            let sums = parts.iter().map(|part| self.sum(a, b, [row, column], part.clone()));
            let add = |sum: f32, part: f32| match self.kind {
                Kind::SplitInPlace => self.shape.dtype.round(sum + part),
                _ => sum + part,
            };
            sums.reduce(add).unwrap_or(0.0)
        })
    }

    /// The same by way of the workspace: each part first, then all.
    fn by_workspace(&self, a: &[f32], b: &[f32], stream: Stream) -> Result<Vec<f32>> {
        let shape = &self.shape;
        let stored = if self.kind == Kind::Split { Type::F32 } else { shape.dtype };
        let layout = Layout {
            dtype: 0,
            rows: (shape.rows * shape.columns) as u64,
            columns: 1,
            stride: (shape.rows * shape.columns) as i64,
        };
        let bytes = layout.rows * stored.size() as u64;
        let at = |part: usize| (layout, self.workspace + part as u64 * bytes);
        let parts = self.parts();
        for (i, part) in parts.iter().enumerate() {
            let sums = self.each(|row, column| self.sum(a, b, [row, column], part.clone()));
            write(&at(i), &sums, stored, stream)?;
        }
        let mut all = vec![0.0; shape.rows * shape.columns];
        for i in 0..parts.len() {
            let part = read(&at(i), stored, stream)?;
            all.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        Ok(all)
    }

    fn each(&self, number: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let Shape { rows, columns, .. } = self.shape;
        (0..columns)
            .flat_map(|column| (0..rows).map(move |row| (row, column)))
            .map(|(r, c)| number(r, c))
            .collect()
    }

    /// The terms of each part of a sum.
    fn parts(&self) -> Vec<Range<usize>> {
        let (parts, depth) = (self.kind.parts(), self.shape.depth);
        (0..parts).map(|part| part * depth / parts..(part + 1) * depth / parts).collect()
    }

    /// Some terms of a sum.
    fn sum(&self, a: &[f32], b: &[f32], [row, column]: [usize; 2], terms: Range<usize>) -> f32 {
        let Shape { rows, columns, depth, .. } = self.shape;
        let of_a = |k: usize| if self.transposes[0] { a[row * depth + k] } else { a[k * rows + row] };
        let of_b =
            |k: usize| if self.transposes[1] { b[k * columns + column] } else { b[column * depth + k] };
        if self.kind == Kind::HalfSums {
            return terms.fold(0.0, |sum, k| Type::F16.round(sum + of_a(k) * of_b(k)));
        }
        let products = terms.map(|k| f64::from(of_a(k)) * f64::from(of_b(k)));
        products.sum::<f64>() as f32
    }
}

/// The numbers of a matrix, column after column: only they are read.
fn read((layout, address): &(Layout, u64), dtype: Type, stream: Stream) -> Result<Vec<f32>> {
    let mut column = vec![0; layout.rows as usize * dtype.size()];
    let step = layout.stride as u64 * dtype.size() as u64;
    let mut numbers = Vec::new();
    for i in 0..layout.columns {
        driver::read(address + i * step, &mut column, stream)?;
        numbers.extend(dtype.decode(&column));
    }
    Ok(numbers)
}

/// Writes the numbers of a matrix, column after column, and nothing between them.
fn write((layout, address): &(Layout, u64), numbers: &[f32], dtype: Type, stream: Stream) -> Result {
    let step = layout.stride as u64 * dtype.size() as u64;
    for (column, numbers) in (0..).zip(numbers.chunks(layout.rows as usize)) {
        driver::write(address + column * step, &dtype.encode(numbers), stream)?;
    }
    Ok(())
}
