//! Turning rows into columns.

use crate::cpu::arch;

/// Rows and columns that are turned together: what is written is whole vectors.
const BLOCK: usize = 16;

/// to\[j, i\] = from\[i, j\], `rows` by `columns`.
pub(crate) fn transpose(
    (from, from_stride): (&[f32], usize),
    (to, to_stride): (&mut [f32], usize),
    rows: usize,
    columns: usize,
) {
    arch().dispatch(
        #[inline(always)]
        || {
            for i in (0..rows).step_by(BLOCK) {
                let height = BLOCK.min(rows - i);
                for j in (0..columns).step_by(BLOCK) {
                    let width = BLOCK.min(columns - j);
                    let (from, to) = (&from[i * from_stride + j..], &mut to[j * to_stride + i..]);
                    if height == BLOCK && width == BLOCK {
                        transpose_block(from, from_stride, to, to_stride);
                    } else {
                        for j in 0..width {
                            for i in 0..height {
                                to[j * to_stride + i] = from[i * from_stride + j];
                            }
                        }
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn transpose_block(from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
    let rows: [&[f32]; BLOCK] = std::array::from_fn(|i| &from[i * from_stride..][..BLOCK]);
    for j in 0..BLOCK {
        let column: [f32; BLOCK] = std::array::from_fn(|i| rows[i][j]);
        to[j * to_stride..][..BLOCK].copy_from_slice(&column);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for (rows, columns) in [(1, 1), (3, 40), (16, 16), (17, 33), (50, 5), (0, 4), (4, 0)] {
            let (from_stride, to_stride) = (columns + 3, rows + 2);
            let from: Vec<f32> = (0..rows * from_stride).map(|i| i as f32).collect();
            let mut to = vec![-1.0; columns * to_stride];
            transpose((&from, from_stride), (&mut to, to_stride), rows, columns);
            for (j, column) in to.chunks(to_stride).enumerate() {
                for (i, &x) in column.iter().enumerate() {
                    let expected = if i < rows { from[i * from_stride + j] } else { -1.0 };
                    assert_eq!(x, expected, "{rows} x {columns}: ({i}, {j})");
                }
            }
        }
    }
}
