//! Matrix products, by the `gemm` crate.

use crate::cpu::padded;
use crate::cpu::transpose::transpose;

/// A matrix in a slice: element (i, j) at i * rows + j * columns.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Strides {
    /// Rows one after another, `stride` apart.
    pub(crate) const fn row_major(stride: usize) -> Self {
        Strides { rows: stride, columns: 1 }
    }

    /// Columns one after another, `stride` apart: a row-major matrix seen transposed.
    pub(crate) const fn column_major(stride: usize) -> Self {
        Strides { rows: 1, columns: stride }
    }

    fn fits(self, rows: usize, columns: usize, len: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.rows + (columns - 1) * self.columns < len
    }
}

/// out `[m, n]` = a `[m, k]` b `[k, n]`, or out += where `accumulate`. On the calling thread alone.
pub(crate) fn product(
    (m, n, k): (usize, usize, usize),
    (out, out_strides): (&mut [f32], Strides),
    accumulate: bool,
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
) {
    assert!(out_strides.fits(m, n, out.len()));
    assert!(a_strides.fits(m, k, a.len()) && b_strides.fits(k, n, b.len()));
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the assertions keep every element of the three matrices inside its slice; `out` is borrowed mutably and
    // so overlaps neither of the others. Strides are sizes of slices in memory and fit an isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_strides.columns as isize,
            out_strides.rows as isize,
            accumulate,
            a.as_ptr(),
            a_strides.columns as isize,
            a_strides.rows as isize,
            b.as_ptr(),
            b_strides.columns as isize,
            b_strides.rows as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// out `[rows, outputs]` = x W^T, W `[outputs, inputs]`, by way of `columns`, which has room for
/// `outputs * padded(rows)`.
///
/// The product crate packs a short and wide x W^T badly and W x^T well, so columns are made first: 64 rows times
/// 512 x 512 run at 160 GFLOP/s a core that way, against 90.
pub(crate) fn product_of_rows(
    (rows, outputs, inputs): (usize, usize, usize),
    (x, x_stride): (&[f32], usize),
    weight: &[f32],
    columns: &mut [f32],
    out: &mut [f32],
) {
    let stride = padded(rows);
    product(
        (outputs, rows, inputs),
        (columns, Strides::row_major(stride)),
        false,
        (weight, Strides::row_major(inputs)),
        (x, Strides::column_major(x_stride)),
    );
    transpose((columns, stride), (out, outputs), outputs, rows);
}
