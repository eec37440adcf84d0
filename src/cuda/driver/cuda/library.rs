//! NVIDIA's library of matrix products, cuBLASLt, loaded where there is one.
//!
//! cudarc has its calls too, but panics where there is no library, and looks for it under the names of the toolkit that it was
//! built beside. So it is loaded here, once for the process. Numbers and structures are those of `cublasLt.h`, the same in
//! CUDA 12 and 13; of another version, the library is taken for none.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use ::cudarc::driver::sys;
use ::libloading::Library as Loaded;
use bytemuck::{NoUninit, bytes_of};

use crate::{Error, Result};

pub(super) type Status = c_int;
pub(super) const SUCCESS: Status = 0;
pub(super) const INVALID_VALUE: Status = 7;
pub(super) const ARCH_MISMATCH: Status = 8;
pub(super) const NOT_SUPPORTED: Status = 15;

/// Types of numbers, of `cudaDataType`.
pub(super) const R_32F: c_int = 0;
pub(super) const R_16F: c_int = 2;
pub(super) const R_16BF: c_int = 14;

/// All arithmetic in f32, of `cublasComputeType_t`.
const COMPUTE_32F: c_int = 68;

/// Attributes of a product.
pub(super) const PRODUCT_TRANSPOSES_A: u32 = 3;
pub(super) const PRODUCT_EPILOGUE: u32 = 7;
pub(super) const PRODUCT_BIAS_POINTER: u32 = 8;

pub(super) const OP_T: i32 = 1;
pub(super) const EPILOGUE_BIAS: u32 = 4;

/// Attributes of what is wanted of an algorithm: alignments of A, B, C and D come one after another.
pub(super) const PREFERENCE_MAX_WORKSPACE_BYTES: u32 = 1;
pub(super) const PREFERENCE_REDUCTION_SCHEME_MASK: u32 = 3;
pub(super) const PREFERENCE_MIN_ALIGNMENT_A_BYTES: u32 = 5;
pub(super) const PREFERENCE_IMPL_MASK: u32 = 12;

/// Parts of a sum are kept in f32, and added up in a step of its own; or a sum has no parts.
pub(super) const REDUCTION_COMPUTE_TYPE: u32 = 2;

/// What an algorithm computes with, of `cublasLtNumericalImplFlags_t`.
const CAP_NUMERICAL_IMPL_FLAGS: u32 = 15;
pub(super) const ACCUMULATOR_16F: u64 = 1 << 8;
pub(super) const INPUT_16F: u64 = 1 << 16;
pub(super) const INPUT_16BF: u64 = 2 << 16;
pub(super) const INPUT_TF32: u64 = 4 << 16;

/// What the library keeps behind a pointer: a handle, or a description.
pub(super) type Opaque = *mut c_void;

/// A description, given back when it is dropped.
pub(super) struct Description {
    pub(super) pointer: Opaque,
    destroy: Destroy,
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: the library made it, by the twin of this function, and it is given back once.
        unsafe { (self.destroy)(self.pointer) };
    }
}

/// How a product is made, in words that only the library reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Algorithm([u64; 8]);

/// An algorithm that the library proposes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Proposal {
    pub(super) algorithm: Algorithm,
    /// Bytes that it wants.
    pub(super) workspace: usize,
    pub(super) state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

type Destroy = unsafe extern "C" fn(Opaque) -> Status;
type SetAttribute = unsafe extern "C" fn(Opaque, u32, *const c_void, usize) -> Status;

/// The library, by the calls that a product needs.
pub(super) struct Library {
    get_version: unsafe extern "C" fn() -> usize,
    get_status_name: unsafe extern "C" fn(Status) -> *const c_char,
    pub(super) create: unsafe extern "C" fn(*mut Opaque) -> Status,
    pub(super) destroy: Destroy,
    layout_create: unsafe extern "C" fn(*mut Opaque, c_int, u64, u64, i64) -> Status,
    layout_destroy: Destroy,
    desc_create: unsafe extern "C" fn(*mut Opaque, c_int, c_int) -> Status,
    desc_set: SetAttribute,
    desc_destroy: Destroy,
    pref_create: unsafe extern "C" fn(*mut Opaque) -> Status,
    pref_set: SetAttribute,
    pref_destroy: Destroy,
    /// Handle, product, layouts of A, B, C and D, preference; room for proposals, where they go, and how many there are.
    pub(super) propose: unsafe extern "C" fn(
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        c_int,
        *mut Proposal,
        *mut c_int,
    ) -> Status,
    capability: unsafe extern "C" fn(*const Algorithm, u32, *mut c_void, usize, *mut usize) -> Status,
    /// Handle, product; alpha, A and its layout, B and its layout; beta, C and its layout, D and its layout; algorithm,
    /// workspace and its bytes, stream.
    pub(super) multiply: unsafe extern "C" fn(
        Opaque,
        Opaque,
        *const f32,
        u64,
        Opaque,
        u64,
        Opaque,
        *const f32,
        u64,
        Opaque,
        u64,
        Opaque,
        *const Algorithm,
        u64,
        usize,
        sys::CUstream,
    ) -> Status,
    /// What the functions are in.
    _loaded: Loaded,
}

impl Library {
    /// The library of this process, or why there is none.
    pub(super) fn find() -> Result<&'static Self, &'static str> {
        static FOUND: OnceLock<Result<Library, String>> = OnceLock::new();
        FOUND.get_or_init(Library::search).as_ref().map_err(String::as_str)
    }

    /// The first that can be loaded, is of a version that is known, and is no newer than the driver.
    fn search() -> Result<Self, String> {
        let mut driver = 0;
        // SAFETY: the driver writes one number. Who has a stream has found the driver's library.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(|error| format!("{error:?}"))?;
        // The first is what a toolkit, or who starts the program, chooses; cudarc looks for it first, too.
        let names = if cfg!(windows) {
            ["cublasLt.dll", "cublasLt64_13.dll", "cublasLt64_12.dll"]
        } else {
            ["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"]
        };
        let mut reasons = Vec::new();
        for name in names {
            // A library for a newer driver is not even loaded, where its name says so.
            if name.contains("13") && driver < 13_000 {
                continue;
            }
            match Library::load(name).and_then(|library| library.check_version(driver)) {
                Ok(library) => return Ok(library),
                Err(reason) => reasons.push(format!("{name}: {reason}")),
            }
        }
        Err(reasons.join("; "))
    }

    fn load(name: &str) -> Result<Self, String> {
        // SAFETY: what runs when NVIDIA's library is loaded is its own initialisation.
        let loaded = unsafe { Loaded::new(name) }.map_err(|error| {
            // What the system says is behind what libloading says.
            error.source().map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        /// A symbol of the type that its field has.
        fn symbol<T: Copy>(loaded: &Loaded, name: &str) -> Result<T, String> {
            // SAFETY: the types of the fields are those of the functions in NVIDIA's header.
            unsafe { loaded.get::<T>(name) }.map(|symbol| *symbol).map_err(|error| error.to_string())
        }
        Ok(Library {
            get_version: symbol(&loaded, "cublasLtGetVersion")?,
            get_status_name: symbol(&loaded, "cublasLtGetStatusName")?,
            create: symbol(&loaded, "cublasLtCreate")?,
            destroy: symbol(&loaded, "cublasLtDestroy")?,
            layout_create: symbol(&loaded, "cublasLtMatrixLayoutCreate")?,
            layout_destroy: symbol(&loaded, "cublasLtMatrixLayoutDestroy")?,
            desc_create: symbol(&loaded, "cublasLtMatmulDescCreate")?,
            desc_set: symbol(&loaded, "cublasLtMatmulDescSetAttribute")?,
            desc_destroy: symbol(&loaded, "cublasLtMatmulDescDestroy")?,
            pref_create: symbol(&loaded, "cublasLtMatmulPreferenceCreate")?,
            pref_set: symbol(&loaded, "cublasLtMatmulPreferenceSetAttribute")?,
            pref_destroy: symbol(&loaded, "cublasLtMatmulPreferenceDestroy")?,
            propose: symbol(&loaded, "cublasLtMatmulAlgoGetHeuristic")?,
            capability: symbol(&loaded, "cublasLtMatmulAlgoCapGetAttribute")?,
            multiply: symbol(&loaded, "cublasLtMatmul")?,
            _loaded: loaded,
        })
    }

    fn check_version(self, driver: c_int) -> Result<Self, String> {
        let [major, minor, patch] = self.version();
        // Before 12.1, 16-bit matrices whose rows have gaps could come out wrong: PyTorch avoids them there.
        if !((12, 1)..(14, 0)).contains(&(major, minor)) {
            return Err(format!("version {major}.{minor}.{patch}, where 12.1 to 13 would do"));
        }
        // A library runs on every driver of its major version.
        if driver / 1000 < major as c_int {
            let newest = driver / 1000;
            return Err(format!("version {major}.{minor}.{patch}, and the driver is made for CUDA {newest}"));
        }
        Ok(self)
    }

    /// Major, minor, patch.
    pub(super) fn version(&self) -> [u32; 3] {
        // SAFETY: it gives a number back.
        let version = unsafe { (self.get_version)() } as u32;
        [version / 10_000, version / 100 % 100, version % 100]
    }

    /// An error for what the library refuses.
    pub(super) fn done(&self, what: &'static str, status: Status) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        Err(Error::Driver { what, reason: self.describe(status) })
    }

    /// A matrix of so many rows and columns, `stride` numbers from the first of a column to that of the next.
    pub(super) fn layout(
        &self,
        dtype: c_int,
        [rows, columns]: [usize; 2],
        stride: i64,
    ) -> Result<Description> {
        let mut pointer = null_mut();
        // SAFETY: the library writes one pointer.
        let status =
            unsafe { (self.layout_create)(&mut pointer, dtype, rows as u64, columns as u64, stride) };
        self.done("cublasLtMatrixLayoutCreate", status)?;
        Ok(Description { pointer, destroy: self.layout_destroy })
    }

    /// A product, all of whose arithmetic is in f32, the factors that it is scaled by too.
    pub(super) fn product(&self) -> Result<Description> {
        let mut pointer = null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (self.desc_create)(&mut pointer, COMPUTE_32F, R_32F) };
        self.done("cublasLtMatmulDescCreate", status)?;
        Ok(Description { pointer, destroy: self.desc_destroy })
    }

    /// What is wanted of an algorithm.
    pub(super) fn preference(&self) -> Result<Description> {
        let mut pointer = null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (self.pref_create)(&mut pointer) };
        self.done("cublasLtMatmulPreferenceCreate", status)?;
        Ok(Description { pointer, destroy: self.pref_destroy })
    }

    pub(super) fn set_product<T: NoUninit>(
        &self,
        product: &Description,
        attribute: u32,
        value: T,
    ) -> Result<()> {
        let bytes = bytes_of(&value);
        // SAFETY: the description is there, and the value has as many bytes as are said.
        let status =
            unsafe { (self.desc_set)(product.pointer, attribute, bytes.as_ptr().cast(), bytes.len()) };
        self.done("cublasLtMatmulDescSetAttribute", status)
    }

    pub(super) fn set_preference<T: NoUninit>(
        &self,
        preference: &Description,
        attribute: u32,
        value: T,
    ) -> Result<()> {
        let bytes = bytes_of(&value);
        // SAFETY: as above.
        let status =
            unsafe { (self.pref_set)(preference.pointer, attribute, bytes.as_ptr().cast(), bytes.len()) };
        self.done("cublasLtMatmulPreferenceSetAttribute", status)
    }

    /// What an algorithm computes with; none where the library does not say.
    pub(super) fn computes_with(&self, algorithm: &Algorithm) -> Option<u64> {
        let (mut flags, mut written) = (0u64, 0);
        let to = (&raw mut flags).cast();
        // SAFETY: the library writes no more bytes than are said.
        let status = unsafe {
            (self.capability)(algorithm, CAP_NUMERICAL_IMPL_FLAGS, to, size_of::<u64>(), &mut written)
        };
        (status == SUCCESS).then_some(flags)
    }

    /// The name of a status.
    pub(super) fn describe(&self, status: Status) -> String {
        // SAFETY: it gives back a text that is part of the library, for whatever number.
        let name = unsafe { (self.get_status_name)(status) };
        if name.is_null() {
            return format!("status {status}");
        }
        // SAFETY: as above; a C string.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}
