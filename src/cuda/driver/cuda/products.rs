//! Plain products by NVIDIA's library, cuBLASLt.

use std::collections::HashMap;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use ::cudarc::driver::sys::CUresult;
use ::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};

use super::library::{self, Algorithm, Description, Library, Opaque, Proposal, SUCCESS};
use super::{Cuda, describe, refused, unavailable};
use crate::gpu::lock;
use crate::{DType, Error, Result};

/// y = residual + x W^T + bias, the residual and the bias where it has them. x `[rows, in]`, W `[out, in]` without gaps, y and
/// residual `[rows, out]`, bias `[out]`, all of one type; all is formed in f32 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) residual: bool,
    /// Numbers from one row to the next of x, of the residual (of y where there is none) and of y.
    pub(crate) strides: [i64; 3],
    /// Bytes that the addresses of W, of x, of the residual (of y where there is none) and of y are multiples of.
    pub(crate) alignment: [u32; 4],
    /// The same of the bias, where there is one.
    pub(crate) bias: Option<u32>,
}

/// Where the matrices of a product lie. What it has not is not looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) x: u64,
    pub(crate) weight: u64,
    pub(crate) bias: u64,
    pub(crate) residual: u64,
    pub(crate) y: u64,
}

/// The library on one context, and how it makes each product there.
pub(super) struct CublasLt {
    api: &'static Library,
    handle: Opaque,
    context: Arc<CudaContext>,
    /// Bytes that an algorithm may use.
    workspace: usize,
    /// How a product is made, the same way each time; none where the library does not make it as it has to be made.
    chosen: Mutex<HashMap<Product, Option<Algorithm>>>,
}

// SAFETY: the handle is no thread's own.
unsafe impl Send for CublasLt {}
// SAFETY: NVIDIA allows several threads to use a handle at a time.
unsafe impl Sync for CublasLt {}

/// How many products are kept in mind: then all are forgotten, and asked for again.
const KEPT: usize = 1 << 16;

/// Proposals that are looked through for one that computes as it has to.
const PROPOSALS: usize = 8;

impl CublasLt {
    /// An error that says why it cannot be used here.
    fn new(context: &Arc<CudaContext>, capability: [u32; 2]) -> Result<Self, String> {
        let library = Library::find()?;
        context.bind_to_thread().map_err(describe)?;
        let mut handle = null_mut();
        // SAFETY: the library writes one pointer, to what it has on the context that is current.
        let status = unsafe { (library.create)(&mut handle) };
        if status != SUCCESS {
            return Err(format!("cublasLtCreate says {}", library.describe(status)));
        }
        // What NVIDIA recommends for Hopper and newer, and for what is older.
        let workspace = if capability[0] >= 9 { 32 << 20 } else { 4 << 20 };
        Ok(CublasLt { api: library, handle, context: context.clone(), workspace, chosen: Mutex::default() })
    }

    /// How a product is made: the first time the library is asked, on the host.
    fn algorithm(&self, product: &Product) -> Result<Option<Algorithm>> {
        if let Some(algorithm) = lock(&self.chosen).get(product) {
            return Ok(*algorithm);
        }
        let algorithm = self.choose(product)?;
        let mut chosen = lock(&self.chosen);
        if chosen.len() >= KEPT {
            chosen.clear();
        }
        // Where two threads asked, both go by the first answer.
        Ok(*chosen.entry(*product).or_insert(algorithm))
    }

    fn choose(&self, product: &Product) -> Result<Option<Algorithm>> {
        let library = self.api;
        // To ask, the library looks at no more of the bias than how its address is aligned.
        let described = Described::new(library, product, product.bias.unwrap_or(0).into())?;
        let forbidden = forbidden(product.dtype);
        let preference = library.preference()?;
        library.set_preference(
            &preference,
            library::PREFERENCE_MAX_WORKSPACE_BYTES,
            self.workspace as u64,
        )?;
        let scheme = library::REDUCTION_COMPUTE_TYPE;
        library.set_preference(&preference, library::PREFERENCE_REDUCTION_SCHEME_MASK, scheme)?;
        library.set_preference(&preference, library::PREFERENCE_IMPL_MASK, !forbidden)?;
        for (matrix, alignment) in (library::PREFERENCE_MIN_ALIGNMENT_A_BYTES..).zip(product.alignment) {
            library.set_preference(&preference, matrix, alignment)?;
        }
        self.bind()?;
        let (mut proposals, mut count) = ([Proposal::default(); PROPOSALS], 0);
        let [a, b, c, d] = described.matrices();
        // SAFETY: all descriptions are there, and there is room for so many proposals.
        let status = unsafe {
            (library.propose)(
                self.handle,
                described.product.pointer,
                a,
                b,
                c,
                d,
                preference.pointer,
                PROPOSALS as _,
                proposals.as_mut_ptr(),
                &mut count,
            )
        };
        // What it does not make, in the words that different versions have for it.
        if [library::NOT_SUPPORTED, library::INVALID_VALUE, library::ARCH_MISMATCH].contains(&status) {
            return Ok(None);
        }
        library.done("cublasLtMatmulAlgoGetHeuristic", status)?;
        let proposals = proposals.iter().take(usize::try_from(count).unwrap_or(0));
        let right = |proposal: &&Proposal| {
            // The mask says it already. But TF32 can be asked for by the environment of a program too.
            let flags = library.computes_with(&proposal.algorithm);
            proposal.state == SUCCESS
                && proposal.workspace <= self.workspace
                && flags.is_some_and(|flags| flags & forbidden == 0)
        };
        Ok(proposals.into_iter().find(right).map(|proposal| proposal.algorithm))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|error| refused("cuBLASLt", error))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: it was made by the library, and is given back once.
            unsafe { (self.api.destroy)(self.handle) };
        }
    }
}

/// What an algorithm may not compute with: nothing is formed in less than f32, and no f32 is cut short.
fn forbidden(dtype: DType) -> u64 {
    let short = library::ACCUMULATOR_16F | library::INPUT_TF32;
    match dtype {
        DType::F32 => short | library::INPUT_16F | library::INPUT_16BF,
        DType::F16 | DType::BF16 => short,
    }
}

/// A product in the library's terms. Its matrices have their columns side by side, and so are our transposes:
/// y^T = W x^T, where W is the transpose of what lies in memory.
struct Described {
    product: Description,
    weight: Description,
    x: Description,
    residual: Description,
    y: Description,
}

impl Described {
    fn new(library: &Library, product: &Product, bias: u64) -> Result<Self> {
        let dtype = match product.dtype {
            DType::F32 => library::R_32F,
            DType::F16 => library::R_16F,
            DType::BF16 => library::R_16BF,
        };
        let Product { rows, inputs, outputs, strides: [x, residual, y], .. } = *product;
        let described = Described {
            product: library.product()?,
            weight: library.layout(dtype, [inputs, outputs], inputs as i64)?,
            x: library.layout(dtype, [inputs, rows], x)?,
            residual: library.layout(dtype, [outputs, rows], residual)?,
            y: library.layout(dtype, [outputs, rows], y)?,
        };
        library.set_product(&described.product, library::PRODUCT_TRANSPOSES_A, library::OP_T)?;
        if product.bias.is_some() {
            library.set_product(&described.product, library::PRODUCT_EPILOGUE, library::EPILOGUE_BIAS)?;
            library.set_product(&described.product, library::PRODUCT_BIAS_POINTER, bias)?;
        }
        Ok(described)
    }

    fn matrices(&self) -> [Opaque; 4] {
        [&self.weight, &self.x, &self.residual, &self.y].map(|matrix| matrix.pointer)
    }
}

/// Memory for the algorithms of one stream, where one product follows another.
pub(super) struct Workspace {
    _memory: CudaSlice<u8>,
    address: u64,
}

impl Workspace {
    fn new(library: &CublasLt, stream: &Arc<CudaStream>) -> Result<Self> {
        let (what, bytes) = ("the workspace of cuBLASLt", library.workspace);
        // SAFETY: algorithms read of it what they have written.
        let memory = unsafe { stream.alloc::<u8>(bytes) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { what, bytes },
            _ => refused(what, error),
        })?;
        let address = memory.device_ptr(stream).0;
        Ok(Workspace { _memory: memory, address })
    }
}

impl Cuda {
    fn cublaslt(&self) -> Result<&CublasLt, &str> {
        let open = || CublasLt::new(self.stream.context(), self.limits.capability);
        self.cublaslt.get_or_init(open).as_ref().map_err(String::as_str)
    }

    /// The version of cuBLASLt that there is: major, minor, patch.
    pub(crate) fn cublaslt_version(&self) -> Result<[u32; 3]> {
        let version = self.cublaslt().map(|library| library.api.version());
        version.map_err(|reason| unavailable(format!("there is no cuBLASLt to use: {reason}")))
    }

    /// Whether cuBLASLt is there and makes a product as it has to be made; with all that it needs for that, which the first
    /// product allocates.
    pub(crate) fn prepare(&self, product: &Product) -> Result<bool> {
        let Ok(library) = self.cublaslt() else {
            return Ok(false);
        };
        let makes = library.algorithm(product)?.is_some();
        if makes && self.workspace.get().is_none() {
            let workspace = Workspace::new(library, &self.stream)?;
            self.workspace.get_or_init(|| workspace);
        }
        Ok(makes)
    }

    /// Puts a product into the stream, if cuBLASLt makes it; false says that it does not. One of the same sizes was prepared.
    ///
    /// # Safety
    ///
    /// The operands are memory of the device with room for the product's matrices, initialised where it is read, that nothing
    /// else writes, nor reads where it is written, until the stream comes past this.
    pub(crate) unsafe fn multiply(&self, product: &Product, operands: &Operands) -> Result<bool> {
        let (Ok(cublaslt), Some(workspace)) = (self.cublaslt(), self.workspace.get()) else {
            return Ok(false);
        };
        let library = cublaslt.api;
        let Some(algorithm) = cublaslt.algorithm(product)? else {
            return Ok(false);
        };
        let described = Described::new(library, product, operands.bias)?;
        let (addend, beta) = if product.residual { (operands.residual, 1.0) } else { (operands.y, 0.0) };
        let [weight_layout, x_layout, addend_layout, y_layout] = described.matrices();
        cublaslt.bind()?;
        // SAFETY: the descriptions are there, and the algorithm is one for them. The workspace is used in the order of the
        // stream. That the operands are there is the caller's promise.
        let status = unsafe {
            (library.multiply)(
                cublaslt.handle,
                described.product.pointer,
                &1.0,
                operands.weight,
                weight_layout,
                operands.x,
                x_layout,
                &beta,
                addend,
                addend_layout,
                operands.y,
                y_layout,
                &algorithm,
                workspace.address,
                cublaslt.workspace,
                self.stream.cu_stream(),
            )
        };
        library.done("cublasLtMatmul", status)?;
        Ok(true)
    }
}
