//! The algorithms there are, and which of them are proposed.

use std::ffi::{c_int, c_void};

use crate::descriptions::{Layout, Preference, Product};
use crate::numbers::Type;
use crate::status::{Handle, INVALID_VALUE, NOT_INITIALIZED, NOT_SUPPORTED, SUCCESS, Status, usable, wrong};

/// How sums are formed. The first are the ones that a caller may want to exclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// Inputs cut to TF32.
    Tf32 = 1,
    /// Sums in f16.
    HalfSums,
    /// Parts of sums rounded to the type of D, in the workspace.
    SplitInOutputType,
    /// Parts of sums added up in D.
    SplitInPlace,
    /// Parts of sums in f32, in the workspace.
    Split,
    /// For matrices aligned to 16 bytes.
    Aligned,
    /// For all others.
    Plain,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Tf32,
        Kind::HalfSums,
        Kind::SplitInOutputType,
        Kind::SplitInPlace,
        Kind::Split,
        Kind::Aligned,
        Kind::Plain,
    ];

    /// As the masks of preferences have it.
    fn reduction(self) -> u32 {
        match self {
            Kind::SplitInPlace => 1,
            Kind::Split => 2,
            Kind::SplitInOutputType => 4,
            _ => 0,
        }
    }

    /// Parts that a sum has.
    pub(crate) fn parts(self) -> usize {
        match self {
            Kind::SplitInOutputType | Kind::SplitInPlace | Kind::Split => 3,
            Kind::Aligned => 2,
            _ => 1,
        }
    }

    /// What it computes with.
    fn flags(self, dtype: Type) -> u64 {
        let (fma, tensor_cores, in_f16, in_f32) = (1, 2, 1 << 8, 2 << 8);
        match (self, dtype) {
            (Kind::Tf32, _) => tensor_cores | in_f32 | 4 << 16,
            (Kind::HalfSums, _) => tensor_cores | in_f16 | 1 << 16,
            (_, Type::F32) => fma | in_f32 | 8 << 16,
            (_, Type::F16) => tensor_cores | in_f32 | 1 << 16,
            (_, Type::BF16) => tensor_cores | in_f32 | 2 << 16,
        }
    }

    /// Bytes that the matrices have to be aligned to.
    fn alignment(self) -> u64 {
        if self == Kind::Aligned { 16 } else { 4 }
    }
}

/// A product whose descriptions fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) dtype: Type,
    /// Of op(A) op(B): rows, columns, and terms of each sum.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

impl Shape {
    /// An error that says what does not fit.
    pub(crate) fn new(product: &Product, [a, b, c, d]: [&Layout; 4]) -> Result<Self, String> {
        let dtype = Type::of(a.dtype).filter(|_| [b, c, d].iter().all(|other| other.dtype == a.dtype));
        let dtype = dtype.ok_or_else(|| format!("types {:?}", [a, b, c, d].map(|layout| layout.dtype)))?;
        for layout in [a, b, c, d] {
            let wide_enough = u64::try_from(layout.stride).is_ok_and(|stride| stride >= layout.rows);
            if layout.rows == 0 || layout.columns == 0 || !wide_enough {
                return Err(format!("{layout:?}"));
            }
        }
        let of = |layout: &Layout, transposed| {
            if transposed { [layout.columns, layout.rows] } else { [layout.rows, layout.columns] }
        };
        let ([rows, depth], [depth_of_b, columns]) =
            (of(a, product.transposes[0]), of(b, product.transposes[1]));
        let result = [rows, columns];
        if depth != depth_of_b || of(c, false) != result || of(d, false) != result {
            return Err(format!("{a:?}, {b:?}, {c:?} and {d:?} do not fit: {product:?}"));
        }
        Ok(Shape { dtype, rows: rows as usize, columns: columns as usize, depth: depth as usize })
    }
}

/// What a program carries from a proposal to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Algorithm {
    /// That of a [`Kind`], or nothing of ours.
    kind: u64,
    /// What it was proposed for.
    shape: [u64; 4],
    /// Bytes that the bias is aligned to, as its address then was; none where there is none.
    pub(crate) bias: u64,
    /// Bytes that the matrices are aligned to.
    pub(crate) alignment: u64,
    /// Bytes of workspace that it needs.
    pub(crate) workspace: u64,
}

impl Algorithm {
    fn new(kind: Kind, shape: &Shape, bias: u64) -> Self {
        let numbers = (shape.rows * shape.columns) as u64;
        let workspace = match kind {
            Kind::Split => kind.parts() as u64 * numbers * 4,
            Kind::SplitInOutputType => kind.parts() as u64 * numbers * shape.dtype.size() as u64,
            _ => 0,
        };
        let sizes = [shape.dtype as u64, shape.rows as u64, shape.columns as u64, shape.depth as u64];
        let alignment = kind.alignment();
        Algorithm { kind: kind as u64, shape: sizes, bias, alignment, workspace }
    }

    /// How it forms sums, if it is one for such a product.
    pub(crate) fn kind(&self, shape: &Shape, bias: bool) -> Option<Kind> {
        let same = |kind: &Kind| *self == Algorithm::new(*kind, shape, self.bias);
        Kind::ALL.into_iter().find(same).filter(|_| bias == (self.bias > 0))
    }
}

#[repr(C)]
struct Proposal {
    algorithm: Algorithm,
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// # Safety
///
/// All descriptions are there, and `proposals` has room for `room` of them; `count` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: *const Handle,
    product: *const Product,
    a: *const Layout,
    b: *const Layout,
    c: *const Layout,
    d: *const Layout,
    preference: *const Preference,
    room: c_int,
    proposals: *mut Proposal,
    count: *mut c_int,
) -> Status {
    // SAFETY: the caller's promise.
    if !unsafe { usable(handle) } {
        return wrong(NOT_INITIALIZED, "no handle, or no context is current");
    }
    // SAFETY: the caller's promise.
    let (product, layouts, preference) = unsafe { (&*product, [&*a, &*b, &*c, &*d], &*preference) };
    let shape = match Shape::new(product, layouts) {
        Ok(shape) => shape,
        Err(reason) => return wrong(INVALID_VALUE, reason),
    };
    if product.bias && product.bias_address == 0 {
        return wrong(INVALID_VALUE, "a bias without an address");
    }
    // As NVIDIA's library has it: what is asked for goes by the address.
    let bias: u64 = if product.bias { 1 << product.bias_address.trailing_zeros().min(8) } else { 0 };
    let aligned = |kind: &Kind| {
        let (bytes, size) = (kind.alignment(), shape.dtype.size() as u64);
        let matrices =
            preference.alignment.iter().all(|&alignment| u64::from(alignment).is_multiple_of(bytes));
        let columns = layouts.iter().all(|layout| (layout.stride as u64 * size).is_multiple_of(bytes));
        // What reads whole vectors wants them from every column.
        matrices && bias.is_multiple_of(bytes) && (columns || *kind != Kind::Aligned)
    };
    let fits = |kind: &Kind| match (kind, shape.dtype) {
        (Kind::Tf32, Type::F32) | (Kind::HalfSums, Type::F16) => true,
        (Kind::Tf32 | Kind::HalfSums, _) => false,
        (Kind::Split | Kind::SplitInOutputType | Kind::SplitInPlace, _) => shape.depth >= 16,
        _ => true,
    };
    let wanted = |kind: &Kind| {
        let flags = kind.flags(shape.dtype);
        let reduction = kind.reduction();
        flags & !preference.flags == 0
            && (reduction == 0 || reduction & preference.reductions != 0)
            && aligned(kind)
            && Algorithm::new(*kind, &shape, bias).workspace <= preference.workspace
    };
    let chosen = Kind::ALL.into_iter().filter(fits).filter(wanted).take(usize::try_from(room).unwrap_or(0));
    let mut found = 0;
    for kind in chosen {
        let algorithm = Algorithm::new(kind, &shape, bias);
        let workspace = algorithm.workspace as usize;
        // SAFETY: the caller's promise; there are no more than there is room for.
        unsafe {
            proposals.add(found).write(Proposal {
                algorithm,
                workspace,
                state: SUCCESS,
                waves: 1.0,
                reserved: [0; 4],
            });
        }
        found += 1;
    }
    // SAFETY: the caller's promise.
    unsafe { count.write(found as c_int) };
    if found == 0 { NOT_SUPPORTED } else { SUCCESS }
}

/// # Safety
///
/// `to` is valid for writes of `bytes` bytes, and `written` for one.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoCapGetAttribute(
    algorithm: *const Algorithm,
    attribute: u32,
    to: *mut c_void,
    bytes: usize,
    written: *mut usize,
) -> Status {
    // SAFETY: the caller's promise.
    let algorithm = unsafe { &*algorithm };
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u64 == algorithm.kind);
    let dtype =
        [Type::F32, Type::F16, Type::BF16].into_iter().find(|&dtype| dtype as u64 == algorithm.shape[0]);
    match (kind, dtype) {
        (Some(kind), Some(dtype)) if attribute == 15 && bytes == 8 => {
            // SAFETY: the caller's promise.
            unsafe {
                to.cast::<[u8; 8]>().write(kind.flags(dtype).to_ne_bytes());
                written.write(bytes);
            }
            SUCCESS
        }
        _ => wrong(INVALID_VALUE, format_args!("attribute {attribute} of {algorithm:?}")),
    }
}
