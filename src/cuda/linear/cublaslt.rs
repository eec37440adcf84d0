//! Plain products by cuBLASLt: which they are, and in which terms.

use crate::Result;
use crate::cuda::driver::{Operands, Product};
use crate::cuda::gpu::Gpu;
use crate::cuda::linear::Places;
use crate::cuda::plan::Place;
use crate::cuda::products::Products;
use crate::problem::{Activation, LinearProblem};

/// Bytes: what is aligned to more is taken for aligned to so many, so that the same call has the same bits wherever its memory
/// lies. No algorithm is known to ask for more.
const ALIGNED: u32 = 16;

/// Whose kernels make the product of a problem, and what cuBLASLt needs for it, if it is that.
pub(crate) fn prepare(gpu: &Gpu, problem: &LinearProblem) -> Result<Products> {
    let product = product(problem, &Places::contiguous(problem), 0);
    match gpu.for_products().zip(product) {
        Some((driver, product)) if driver.prepare(&product)? => Ok(Products::CublasLt),
        _ => Ok(Products::Own),
    }
}

/// Has cuBLASLt make a product that was prepared, if it makes it with its memory where it lies; false says that it does not.
///
/// # Safety
///
/// The places and the bias are those of memory of the device with room for the problem's matrices, initialised where it is read,
/// that nothing else writes, nor reads where it is written, until the stream comes past this.
pub(crate) unsafe fn launch(gpu: &Gpu, problem: &LinearProblem, places: &Places, bias: u64) -> Result<bool> {
    let Some((driver, product)) = gpu.for_products().zip(product(problem, places, bias)) else {
        return Ok(false);
    };
    let operands = Operands {
        x: places.x.address,
        weight: places.weight.address,
        bias,
        residual: places.residual.address,
        y: places.y.address,
    };
    // SAFETY: the caller's promise.
    unsafe { driver.multiply(&product, &operands) }
}

/// A problem in terms of cuBLASLt, if it is a plain product.
///
/// Activations stay with our kernels: cuBLASLt does not say what its ReLU makes of NaN, nor how near its GELU (the one by tanh)
/// comes to the formula, and it would add a residual before either. So do products of one input or to one output, which are little
/// work: PyTorch does not trust cuBLASLt with them either.
pub(crate) fn product(problem: &LinearProblem, places: &Places, bias: u64) -> Option<Product> {
    let plain = problem.activation() == Activation::Identity
        && problem.groups() == 1
        && problem.parameters() == problem.dtype()
        && problem.rows() > 0
        && problem.inputs() > 1
        && problem.outputs() > 1;
    if !plain {
        return None;
    }
    let residual = if problem.has_residual() { places.residual } else { places.y };
    let stride = |place: Place| i64::try_from(place.stride).ok();
    Some(Product {
        dtype: problem.dtype(),
        rows: problem.rows(),
        inputs: problem.inputs(),
        outputs: problem.outputs(),
        residual: problem.has_residual(),
        strides: [stride(places.x)?, stride(residual)?, stride(places.y)?],
        alignment: [places.weight, places.x, residual, places.y].map(|place| alignment(place.address)),
        bias: problem.has_bias().then(|| alignment(bias)),
    })
}

/// The power of two that an address is a multiple of, up to [`ALIGNED`].
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(ALIGNED.trailing_zeros())
}
