//! What products, matrices and preferences are described by.

use std::ffi::{c_int, c_void};

use crate::status::{INVALID_VALUE, NOT_SUPPORTED, SUCCESS, Status, wrong};

/// A matrix with its columns side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) dtype: c_int,
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    /// Numbers from one column to the next.
    pub(crate) stride: i64,
}

/// D = epilogue(alpha op(A) op(B) + beta C).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) transposes: [bool; 2],
    pub(crate) bias: bool,
    pub(crate) bias_address: u64,
}

/// What is wanted of an algorithm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preference {
    pub(crate) workspace: u64,
    pub(crate) reductions: u32,
    pub(crate) flags: u64,
    pub(crate) alignment: [u32; 4],
}

/// Gives something to the program.
///
/// # Safety
///
/// `to` is valid for one write.
unsafe fn give<T>(to: *mut *mut T, what: T) -> Status {
    // SAFETY: the caller's promise.
    unsafe { to.write(Box::into_raw(Box::new(what))) };
    SUCCESS
}

/// # Safety
///
/// `pointer` came from [`give`], and is not used again.
unsafe fn take<T>(pointer: *mut T) -> Status {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(pointer) });
    SUCCESS
}

/// The value of an attribute of so many bytes.
///
/// # Safety
///
/// `value` is valid for reads of `bytes` bytes.
unsafe fn value<const N: usize>(value: *const c_void, bytes: usize) -> Result<[u8; N], Status> {
    if bytes != N {
        return Err(wrong(INVALID_VALUE, format_args!("{bytes} bytes for an attribute of {N}")));
    }
    // SAFETY: the caller's promise; of bytes, none is misaligned.
    Ok(unsafe { value.cast::<[u8; N]>().read() })
}

/// # Safety
///
/// `layout` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut Layout,
    dtype: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
) -> Status {
    // SAFETY: the caller's promise.
    unsafe { give(layout, Layout { dtype, rows, columns, stride }) }
}

/// # Safety
///
/// `layout` came from `cublasLtMatrixLayoutCreate`, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut Layout) -> Status {
    // SAFETY: the caller's promise.
    unsafe { take(layout) }
}

/// # Safety
///
/// `product` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(
    product: *mut *mut Product,
    compute: c_int,
    scale: c_int,
) -> Status {
    // All in f32, alpha and beta too.
    if (compute, scale) != (68, 0) {
        return wrong(NOT_SUPPORTED, format_args!("it computes in {compute} and scales in {scale}"));
    }
    // SAFETY: the caller's promise.
    unsafe { give(product, Product { transposes: [false; 2], bias: false, bias_address: 0 }) }
}

/// # Safety
///
/// `product` came from `cublasLtMatmulDescCreate`, and `from` is valid for reads of `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    product: *mut Product,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> Status {
    // SAFETY: the caller's promise.
    let product = unsafe { &mut *product };
    let mut set = move || -> Result<(), Status> {
        match attribute {
            3 | 4 => {
                // SAFETY: the caller's promise.
                let operation = i32::from_ne_bytes(unsafe { value(from, bytes) }?);
                if !(0..=1).contains(&operation) {
                    return Err(wrong(INVALID_VALUE, format_args!("operation {operation}")));
                }
                product.transposes[attribute as usize - 3] = operation == 1;
            }
            7 => {
                // SAFETY: the caller's promise.
                let epilogue = u32::from_ne_bytes(unsafe { value(from, bytes) }?);
                if epilogue != 1 && epilogue != 4 {
                    return Err(wrong(NOT_SUPPORTED, format_args!("epilogue {epilogue}")));
                }
                product.bias = epilogue == 4;
            }
            // SAFETY: the caller's promise.
            8 => product.bias_address = u64::from_ne_bytes(unsafe { value(from, bytes) }?),
            other => return Err(wrong(INVALID_VALUE, format_args!("attribute {other} of a product"))),
        }
        Ok(())
    };
    set().err().unwrap_or(SUCCESS)
}

/// # Safety
///
/// `product` came from `cublasLtMatmulDescCreate`, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescDestroy(product: *mut Product) -> Status {
    // SAFETY: the caller's promise.
    unsafe { take(product) }
}

/// # Safety
///
/// `preference` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut *mut Preference) -> Status {
    // SAFETY: the caller's promise.
    unsafe {
        give(preference, Preference { workspace: 0, reductions: 7, flags: u64::MAX, alignment: [256; 4] })
    }
}

/// # Safety
///
/// `preference` came from `cublasLtMatmulPreferenceCreate`, and `from` is valid for reads of `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut Preference,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> Status {
    // SAFETY: the caller's promise.
    let preference = unsafe { &mut *preference };
    let mut set = move || -> Result<(), Status> {
        match attribute {
            // SAFETY: the caller's promise, here and below.
            1 => preference.workspace = u64::from_ne_bytes(unsafe { value(from, bytes) }?),
            // SAFETY: as above.
            3 => preference.reductions = u32::from_ne_bytes(unsafe { value(from, bytes) }?),
            5..=8 => {
                // SAFETY: as above.
                let alignment = u32::from_ne_bytes(unsafe { value(from, bytes) }?);
                preference.alignment[attribute as usize - 5] = alignment;
            }
            // SAFETY: as above.
            12 => preference.flags = u64::from_ne_bytes(unsafe { value(from, bytes) }?),
            other => return Err(wrong(INVALID_VALUE, format_args!("attribute {other} of a preference"))),
        }
        Ok(())
    };
    set().err().unwrap_or(SUCCESS)
}

/// # Safety
///
/// `preference` came from `cublasLtMatmulPreferenceCreate`, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut Preference) -> Status {
    // SAFETY: the caller's promise.
    unsafe { take(preference) }
}
